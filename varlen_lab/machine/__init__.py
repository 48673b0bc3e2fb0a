"""The machine we are on: its GPU, its packages, its memory; and how a run becomes several processes."""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "environment": ["peak_memory", "reset_peak_memory", "summary", "survey"],
        "gpu": ["GpuFacts", "flash_attn_wheel", "gpu_facts", "why_unusable"],
        "launch": ["start_processes"],
    },
)
