"""Models of transformers with our attention: opened, built from a config, or tiny stand-ins of the eleven families."""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "adapters": ["add_adapter", "open_adapter"],
        "building": ["build_model", "families", "from_scratch", "tiny", "variants"],
        "loading": ["load_model"],
    },
)
