"""What is kept on disk: written whole or not at all, and found again."""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "writing": [
            "cache_dir",
            "cached_text",
            "fingerprint",
            "folder_written_whole",
            "keep_in_cache",
            "written_whole",
        ],
    },
)
