"""Config names: ``list-cfg`` searches them, ``copy-cfg`` and ``train`` turn one into a Config."""

from varlen_lab.config.recipes import find
from varlen_lab.config.recipes.names import facts, get, names

__all__ = ["closest", "facts", "get", "names", "search"]


def search(pattern: str) -> list[str]:
    """The names that match a pattern, the best first (see ``varlen_lab.recipes.find``)."""
    return find.search(pattern, names())


def closest(pattern: str, count: int = 3) -> list[str]:
    """The names nearest to a pattern that no name matches."""
    return [name for score, name in find.closest(pattern, names())[:count] if score > 0.4]
