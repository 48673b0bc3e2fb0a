"""Can this machine do GPU work, and if not, why? One sentence with the remedy, before anything is started.

``gpu_facts()`` collects the facts (the driver by asking ``nvidia-smi``, the rest from torch), ``why_unusable(facts)``
judges them. The two are apart so that every machine one has not got can be tested: it is a handful of values.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from dataclasses import dataclass, replace

GIB = 2**30
OLDEST_CAPABILITY = (8, 0)  # Ampere: the first with bf16, and the oldest FlashAttention-2 has code for


@dataclass(frozen=True)
class GpuFacts:
    """What is known of the first GPU, its driver and this torch; None where nobody answered."""

    torch: str  # 2.11.0+cu130
    built_for: str | None = None  # CUDA version of this torch; None: a CPU build
    driver: str | None = None  # of the NVIDIA driver
    driver_cuda: str | None = None  # newest CUDA that driver can run
    usable: bool = False  # torch can start it
    name: str | None = None
    capability: tuple[int, int] | None = None
    code_for: tuple[str, ...] = ()  # architectures this torch has code for, such as sm_90
    memory: int = 0  # bytes


def gpu_facts() -> GpuFacts:
    """The facts of this machine. Imports torch, which starts no CUDA context unless there is a GPU."""
    import torch

    driver, driver_cuda = driver_versions()
    known = GpuFacts(str(torch.__version__), torch.version.cuda, driver, driver_cuda)
    if not torch.cuda.is_available():
        return known
    properties = torch.cuda.get_device_properties(0)
    return replace(
        known,
        usable=True,
        name=properties.name,
        capability=(properties.major, properties.minor),
        code_for=tuple(torch.cuda.get_arch_list()),
        memory=properties.total_memory,
    )


def driver_versions() -> tuple[str | None, str | None]:
    """Version of the NVIDIA driver and the newest CUDA it runs, as ``nvidia-smi`` prints them in its head."""
    try:
        said = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None, None
    driver = re.search(r"Driver Version:\s*([\d.]+)", said)
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", said)
    return driver and driver[1], cuda and cuda[1]  # type: ignore[return-value]


def why_unusable(facts: GpuFacts, memory: int = 0) -> str | None:
    """Why GPU work that takes ``memory`` bytes cannot be done there; None when it can. Ends without a full stop."""
    if not facts.usable:
        return without_gpu(facts)
    assert facts.capability is not None
    if facts.capability < OLDEST_CAPABILITY:
        have, need = (".".join(map(str, version)) for version in (facts.capability, OLDEST_CAPABILITY))
        return (
            f"{facts.name} has compute capability {have}, bf16 and the varlen kernels need {need} (Ampere) or newer; "
            "take a newer card, or device = 'cpu'"
        )
    # code for sm_80 runs on 8.6 and 8.9 too, never on another major version
    majors = {int(word[3:-1]) for word in facts.code_for if re.fullmatch(r"sm_\d+", word)}
    if majors and facts.capability[0] not in majors and not any(word.startswith("compute_") for word in facts.code_for):
        return (
            f"torch {facts.torch} has code for {', '.join(facts.code_for)} and {facts.name} is "
            f"sm_{facts.capability[0]}{facts.capability[1]}; install a torch whose CUDA version knows this card"
        )
    if facts.memory < memory:
        return (
            f"{facts.name} has {facts.memory / GIB:.0f} GiB and this takes about {memory / GIB:.0f}; take a larger "
            "card, or less at once"
        )
    return None


def without_gpu(facts: GpuFacts) -> str:
    """Why torch sees no GPU: there is none, it was built without CUDA, or the driver is too old for it."""
    if facts.driver is None:
        return "there is no NVIDIA GPU here: no driver answers (nvidia-smi); run this on a machine that has one"
    if facts.built_for is None:
        return (
            f"there is a GPU (driver {facts.driver}) but torch {facts.torch} was built without CUDA; install a build "
            f"with it, such as PyPI's wheel of torch {facts.torch.split('+')[0]} for Linux"
        )
    if facts.driver_cuda and version(facts.driver_cuda)[0] < version(facts.built_for)[0]:
        return (
            f"torch {facts.torch} was built for CUDA {facts.built_for} and driver {facts.driver} runs CUDA up to "
            f"{facts.driver_cuda}; update the driver, or install a torch built for CUDA {version(facts.driver_cuda)[0]}"
        )
    return (
        f"the driver {facts.driver} answers but torch {facts.torch} cannot start the GPU; see nvidia-smi, and whether "
        "CUDA_VISIBLE_DEVICES hides it"
    )


def version(text: str) -> tuple[int, ...]:
    """``13.0`` -> (13, 0), for comparing."""
    return tuple(int(part) for part in text.split("."))


def flash_attn_wheel(facts: GpuFacts) -> str:
    """The file name a flash-attn wheel must have to fit this torch, CUDA and Python, version left open.

    flash-attn's release page names wheels by what they were built for; one that differs in a part does not import.
    """
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    cuda = facts.built_for.split(".")[0] if facts.built_for else "12"
    short = ".".join(facts.torch.split("+")[0].split(".")[:2])
    return f"flash_attn-2.*+cu{cuda}torch{short}cxx11abiTRUE-{python}-{python}-linux_{platform.machine()}.whl"
