"""Does packing change what a model computes? The audit, its parts, and the masks a live model really uses."""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "checking": ["audit"],
        "traps": ["preflight"],
        "report": ["AuditReport", "Finding"],
        "seen": ["Seen", "attention_seen"],
    },
)
