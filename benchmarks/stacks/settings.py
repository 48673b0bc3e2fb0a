"""What is measured: the flags of every stack that decide whether documents of a row hear one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.stacks import runs


class Setting(NamedTuple):
    """One setting of a stack: its package on PyPI, words for the page, what starts it, and with which arguments."""

    stack: str
    package: str
    what: str
    run: Callable[..., None]
    arguments: dict[str, Any]

    def start(self, folder: Path, callbacks: Sequence[Any]) -> None:
        self.run(folder, callbacks, **self.arguments)


HF, TRL, AXOLOTL = ("HF Trainer", "transformers"), ("TRL", "trl"), ("axolotl", "axolotl")
TORCHTUNE = ("torchtune", "torchtune")
FACTORY, SWIFT, UNSLOTH = ("LLaMA-Factory", "llamafactory"), ("ms-swift", "ms-swift"), ("unsloth", "unsloth")
NEAT = {"neat_packing": True}
EAGER = {**NEAT, "flash_attn": "disabled"}
UNGUARDED = {"packing": True, "attn_impl": "sdpa", "unguarded": True, "use_logits_to_keep": False}

SETTINGS = (
    Setting(*HF, "`DataCollatorWithFlattening()`", runs.hf_trainer, {}),
    Setting(*HF, "the same, `use_cache=True`", runs.hf_trainer, {"use_cache": True}),
    Setting(*HF, "the same and an `attention_mask` of ones", runs.hf_trainer, {"ones": True}),
    Setting(*HF, "concatenated chunks, as `run_clm.py` makes them", runs.hf_trainer, {"collator": "chunks"}),
    Setting(*TRL, "nothing set", runs.trl, {"batch_size": 6}),
    Setting(*TRL, "`packing=True`", runs.trl, {"packing": True}),
    Setting(*TRL, "`padding_free=True`", runs.trl, {"padding_free": True, "batch_size": 6, "length": None}),
    Setting(
        *TRL, '`packing_strategy="wrapped"`', runs.trl, {"packing": True, "packing_strategy": "wrapped", "length": 128}
    ),
    Setting(
        *TRL,
        '`packing_strategy="bfd_split"`',
        runs.trl,
        {"packing": True, "packing_strategy": "bfd_split", "length": 64},
    ),
    Setting(
        *AXOLOTL, "`sample_packing`, `sdpa`", runs.axolotl, {"sample_packing": True, "attn_implementation": "sdpa"}
    ),
    Setting(*AXOLOTL, "`sample_packing`, no attention named", runs.axolotl, {"sample_packing": True}),
    Setting(*FACTORY, "`packing: true`", runs.llamafactory, {"packing": True}),
    Setting(*FACTORY, "`neat_packing: true`", runs.llamafactory, NEAT),
    Setting(*FACTORY, "`neat_packing: true`, `flash_attn: disabled`", runs.llamafactory, EAGER),
    Setting(
        *FACTORY, "`stage: pt`, nothing set", runs.llamafactory, {"stage": "pt", "dataset": "text", "cutoff_len": 64}
    ),
    Setting(*SWIFT, "`--packing true`", runs.swift, {"packing": True}),
    Setting(
        *SWIFT,
        "the same, its guard taken off, `sdpa`",
        runs.swift,
        UNGUARDED,
    ),
    Setting(*UNSLOTH, "`packing=True`", runs.unsloth, {"packing": True}),
    Setting(*UNSLOTH, "nothing set", runs.unsloth, {}),
    Setting(*TORCHTUNE, "`packed=True`", runs.torchtune, {"packed": True}),
)
