"""Models of transformers with our attention: opened, built from a config, or tiny stand-ins of the eleven families."""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.leaks.isolating import isolate as isolate
    from varlen_lab.models.adapters import add_adapter as add_adapter
    from varlen_lab.models.adapters import open_adapter as open_adapter
    from varlen_lab.models.building import build_model as build_model
    from varlen_lab.models.building import families as families
    from varlen_lab.models.building import from_scratch as from_scratch
    from varlen_lab.models.building import resolve_device as resolve_device
    from varlen_lab.models.building import tiny as tiny
    from varlen_lab.models.building import variants as variants
    from varlen_lab.models.loading import load_model as load_model
    from varlen_lab.models.miniature import tiny_of as tiny_of
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
