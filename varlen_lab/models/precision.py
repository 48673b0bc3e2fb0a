"""Device and precision of a run: what a config says, or what suits the machine.

``device = "auto"`` is CUDA where there is a card that torch has code for, else the CPU. ``dtype = "auto"`` follows the
card: bf16 from Ampere on, fp16 on older ones, fp32 on a CPU and on Apple's GPU.
"""

from __future__ import annotations

import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.machine.gpu import automatic_device, automatic_dtype, gpu_facts, why_no_mps, why_unusable

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(config: Config) -> str:
    """``cpu``, ``cuda`` or ``mps``. InputError when the config names one that is not there."""
    facts = gpu_facts(ask_driver=False)
    if config.device == "auto":
        return automatic_device(facts)
    if config.device == "cuda" and (why := why_unusable(facts if facts.usable else gpu_facts())):
        raise InputError(f"device = 'cuda' cannot be had: {why}; or set device = 'auto'.")
    if config.device == "mps" and (why := why_no_mps(facts)):
        raise InputError(f"device = 'mps' cannot be had: {why}; set device = 'auto'.")
    return config.device


def resolve_dtype(config: Config) -> str:
    """``fp32``, ``bf16`` or ``fp16``: what the config says, or what suits the device.

    On a CPU that is fp32: without bf16 units bf16 is some 150 times slower. InputError for bf16 on a card without it.
    """
    device, facts = resolve_device(config), gpu_facts(ask_driver=False)
    if config.dtype == "auto":
        return automatic_dtype(device, facts)
    if config.dtype == "bf16" and device == "cuda" and not facts.has_bf16:
        raise InputError(
            f"dtype is 'bf16' and {facts.name} computes it in software, slower than fp32; set dtype = 'fp16' or 'auto'."
        )
    return config.dtype


def weight_dtype(config: Config) -> torch.dtype:
    """What weights are kept in: fp32, unless the run is in bf16 and wants no master weights."""
    return torch.bfloat16 if resolve_dtype(config) == "bf16" and not config.master_weights else torch.float32
