"""varlen_lab: see, prove and use variable-length attention.

The names below are the public face; ``varlen_lab.packing``, ``varlen_lab.viz`` and the other rooms have faces of their
own. A face imports nothing until a name is asked for (PEP 562): torch takes a second, and not every use needs it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time ``lazy_face`` does these imports, one by one
    from varlen_lab.attention.dispatch import attend
    from varlen_lab.attention.huggingface import register
    from varlen_lab.config.text import load_config
    from varlen_lab.leaks.checking import audit
    from varlen_lab.models.loading import load_model
    from varlen_lab.packing.boundaries import Boundaries
    from varlen_lab.packing.collators import VarlenCollator
    from varlen_lab.packing.strategies import pack_dataset, pack_lengths
    from varlen_lab.studies.comparison import compare
    from varlen_lab.training.conversion import convert
    from varlen_lab.training.trainer import train
    from varlen_lab.viz.explorer import explore_masks
    from varlen_lab.viz.figures import draw_masks
    from varlen_lab.viz.seen import draw_seen

__version__ = "0.1.0"

__all__ = [
    "Boundaries",
    "VarlenCollator",
    "attend",
    "audit",
    "compare",
    "convert",
    "draw_masks",
    "draw_seen",
    "explore_masks",
    "load_config",
    "load_model",
    "pack_dataset",
    "pack_lengths",
    "register",
    "train",
]


def lazy_face(
    package: str, files: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names are imported when they are asked for.

    ``files``: file of the package -> the names it gives. A name that was asked for once is an ordinary attribute.
    """
    home = {name: f"{package}.{file}" for file, names in files.items() for name in names}

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: sorted({*vars(sys.modules[package]), *home}), list(home)


__getattr__, __dir__, _ = lazy_face(
    __name__,
    {
        "attention": ["attend", "register"],
        "config": ["load_config"],
        "leaks": ["audit"],
        "models": ["load_model"],
        "packing": ["Boundaries", "VarlenCollator", "pack_dataset", "pack_lengths"],
        "studies": ["compare"],
        "training": ["convert", "train"],
        "viz": ["draw_masks", "draw_seen", "explore_masks"],
    },
)
