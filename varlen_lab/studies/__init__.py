"""Experiments on whole runs and whole tables: three losses, and the support table of the page."""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "comparison": ["Comparison", "compare"],
        "support": ["Support", "measure", "measure_all"],
    },
)
