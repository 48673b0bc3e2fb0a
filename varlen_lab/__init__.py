"""varlen_lab: see, prove and use variable-length attention.

The names below are the public face; ``varlen_lab.packing``, ``varlen_lab.viz`` and the other rooms have faces of their
own. A face imports nothing until a name is asked for (PEP 562): torch takes a second, and not every use needs it.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time ``lazy_face`` does these imports, one by one
    from varlen_lab.attention.dispatch import attend
    from varlen_lab.attention.huggingface import register
    from varlen_lab.config.text import load_config
    from varlen_lab.leaks.callback import LeakCheck
    from varlen_lab.leaks.checking import audit
    from varlen_lab.leaks.isolating import isolate
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

__version__ = "0.2.0"

__all__ = [
    "Boundaries",
    "LeakCheck",
    "VarlenCollator",
    "attend",
    "audit",
    "compare",
    "convert",
    "draw_masks",
    "draw_seen",
    "explore_masks",
    "isolate",
    "load_config",
    "load_model",
    "pack_dataset",
    "pack_lengths",
    "register",
    "train",
]


def lazy_face(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names are imported when they are asked for.

    Which names there are, and from which file, the package says once: in its imports ``if TYPE_CHECKING``, which type
    checkers and editors read. A name that was asked for once is an ordinary attribute.
    """
    loader: Any = sys.modules[package].__spec__.loader  # type: ignore[union-attr]
    source = loader.get_source(package)  # also out of a zip
    block = next(node for node in ast.parse(source).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    home = {alias.name: str(node.module) for node in imports for alias in node.names}

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        inside = vars(sys.modules[package]).items()
        rooms = [name for name, value in inside if getattr(value, "__name__", "") == f"{package}.{name}"]
        return sorted({*home, *rooms, *(name for name, _ in inside if name.startswith("__"))})

    return find, names, list(home)


if not TYPE_CHECKING:  # a checker that saw __getattr__ would let every typing error pass
    __getattr__, __dir__, _ = lazy_face(__name__)
