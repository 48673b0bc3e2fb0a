"""Config names: ``list-cfg`` searches them, ``copy-cfg`` and ``train`` turn one into a Config."""

from pathlib import Path

from varlen_lab.config.recipes import find
from varlen_lab.config.recipes.names import config_facts, config_names, named_config
from varlen_lab.config.schema import Config
from varlen_lab.config.text import load
from varlen_lab.errors import InputError, nearest

__all__ = ["closest_names", "config_facts", "config_names", "load_config", "named_config", "search_names"]


def load_config(word: str | Path) -> Config:
    """The Config of a file, or of a name that ``list-cfg`` shows; InputError with the near name."""
    if Path(word).is_file():
        return load(word)
    if word in config_names():
        return named_config(str(word))
    if Path(word).suffix == ".py" or "/" in str(word):
        raise InputError(f"there is no config file {word}; varlen-lab copy-cfg NAME DIR makes one.")
    hint = nearest(str(word), config_names()) or "; varlen-lab list-cfg shows the names."
    raise InputError(f"there is no config file and no config name {str(word)!r}{hint}")


def search_names(pattern: str) -> list[str]:
    """The names that match a pattern, the best first (see ``varlen_lab.recipes.find``)."""
    return find.search(pattern, config_names())


def closest_names(pattern: str, count: int = 3) -> list[str]:
    """The names nearest to a pattern that no name matches."""
    return [name for score, name in find.closest(pattern, config_names())[:count] if score > 0.4]
