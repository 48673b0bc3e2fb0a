"""Config names: ``list-cfg`` searches them, ``copy-cfg`` and ``train`` turn one into a Config."""

from varlen_lab.recipes.names import facts, get, names, search

__all__ = ["facts", "get", "names", "search"]
