"""The machine we are on: its GPU, its packages, its memory; and how a run becomes several processes."""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.machine.environment import peak_memory as peak_memory
    from varlen_lab.machine.environment import reset_peak_memory as reset_peak_memory
    from varlen_lab.machine.environment import summary as summary
    from varlen_lab.machine.environment import survey as survey
    from varlen_lab.machine.gpu import DTYPES as DTYPES
    from varlen_lab.machine.gpu import GpuFacts as GpuFacts
    from varlen_lab.machine.gpu import automatic_device as automatic_device
    from varlen_lab.machine.gpu import automatic_dtype as automatic_dtype
    from varlen_lab.machine.gpu import flash_attn_wheel as flash_attn_wheel
    from varlen_lab.machine.gpu import gpu_facts as gpu_facts
    from varlen_lab.machine.gpu import why_unusable as why_unusable
    from varlen_lab.machine.launch import start_processes as start_processes
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
