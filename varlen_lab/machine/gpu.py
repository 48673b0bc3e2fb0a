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

from varlen_lab.files.windows import WINDOWS

GIB = 2**30
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # a config's words -> torch's
FIRST_WITH_BF16 = (8, 0)  # Ampere; before it torch computes bf16 in software, far slower than fp32


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
    mps: bool = False  # Apple's GPU, which torch can start

    @property
    def has_bf16(self) -> bool:
        """Whether the CUDA device multiplies bf16 itself."""
        return self.capability is not None and self.capability >= FIRST_WITH_BF16


def gpu_facts(*, ask_driver: bool = True) -> GpuFacts:
    """The facts of this machine. Imports torch, which starts no CUDA context unless there is a GPU.

    ``ask_driver``: run ``nvidia-smi`` too, which takes a while; only ``why_unusable`` reads what it says.
    """
    import torch

    driver, driver_cuda = driver_versions() if ask_driver else (None, None)
    mps = torch.backends.mps.is_available()
    known = GpuFacts(str(torch.__version__), torch.version.cuda, driver, driver_cuda, mps=mps)
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


def capability_of(device: str) -> tuple[int, int] | None:
    """Compute capability of this machine's CUDA device; None for other devices, and where there is none."""
    import torch

    return torch.cuda.get_device_capability() if device == "cuda" and torch.cuda.is_available() else None


def dtype_name(dtype: object) -> str:
    """``torch.bfloat16`` -> "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def driver_versions() -> tuple[str | None, str | None]:
    """Version of the NVIDIA driver and the newest CUDA it runs, as ``nvidia-smi`` prints them in its head."""
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, encoding="utf-8", errors="replace", timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None, None
    driver = re.search(r"Driver Version:\s*([\d.]+)", done.stdout)
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", done.stdout)
    return driver and driver[1], cuda and cuda[1]  # type: ignore[return-value]


def why_unusable(facts: GpuFacts, memory: int = 0, capability: tuple[int, int] = (0, 0)) -> str | None:
    """Why CUDA work that takes ``memory`` bytes and a ``capability`` cannot be done there; None when it can.

    Ends without a full stop.
    """
    if not facts.usable:
        return without_gpu(facts)
    assert facts.capability is not None
    if facts.capability < capability:
        have, need = (".".join(map(str, version)) for version in (facts.capability, capability))
        return f"{facts.name} has compute capability {have} and this needs {need} or newer; take a newer card"
    if not runs_on(facts.capability, facts.code_for):
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


def runs_on(capability: tuple[int, int], code_for: tuple[str, ...]) -> bool:
    """Whether code for these architectures runs there: sm_80 on 8.6 and 8.9 too, never on another major version."""
    if not code_for or any(word.startswith("compute_") for word in code_for):  # the driver compiles that one
        return True
    major, minor = capability
    known = [re.fullmatch(r"sm_(\d+)(\d)[af]?", word) for word in code_for]
    return any(one is not None and int(one[1]) == major and int(one[2]) <= minor for one in known)


def why_no_mps(facts: GpuFacts) -> str | None:
    """Why Apple's GPU cannot be had; None when it can. Ends without a full stop."""
    if facts.mps:
        return None
    return f"torch {facts.torch} finds no Apple GPU (Metal) here; it takes a Mac with Apple silicon and macOS 14"


def automatic_device(facts: GpuFacts) -> str:
    """What ``device = 'auto'`` takes: a CUDA card torch has code for, else the CPU. Apple's GPU only when it is named.

    It has no kernel that takes a packed row, so short documents are many small calls, and its results were not
    measured against the reference.
    """
    return "cuda" if why_unusable(facts) is None else "cpu"


def automatic_dtype(device: str, facts: GpuFacts) -> str:
    """What ``dtype = 'auto'`` takes: bf16 on a card that has it, fp16 on an older one, fp32 elsewhere."""
    if device != "cuda":
        return "fp32"
    return "bf16" if facts.has_bf16 else "fp16"


def without_gpu(facts: GpuFacts) -> str:
    """Why torch sees no GPU: there is none, it was built without CUDA, or the driver is too old for it."""
    if facts.driver is None:
        return "there is no NVIDIA GPU here: no driver answers (nvidia-smi); run this on a machine that has one"
    if facts.built_for is None:
        # PyPI's wheel for Windows has no CUDA
        where = "as pytorch.org lists them for Windows" if WINDOWS else "such as PyPI's wheel of torch {} for Linux"
        return (
            f"there is a GPU (driver {facts.driver}) but torch {facts.torch} was built without CUDA; install a build "
            f"with it, {where.format(facts.torch.split('+')[0])}"
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
    system = "win_amd64" if WINDOWS else f"linux_{platform.machine()}"
    return f"flash_attn-2.*+cu{cuda}torch{short}cxx11abiTRUE-{python}-{python}-{system}.whl"
