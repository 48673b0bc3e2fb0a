"""``CONFIG`` on a command line: a file that exists, or a name that ``list-cfg`` shows."""

from __future__ import annotations

import argparse
from pathlib import Path

from varlen_lab.config.overrides import override
from varlen_lab.config.schema import Config
from varlen_lab.config.text import load
from varlen_lab.errors import InputError, nearest


def add_config(parser: argparse.ArgumentParser) -> None:
    """The config and the overrides every verb that trains takes."""
    parser.add_argument("config", metavar="CONFIG", help="a config file, or a name from list-cfg")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings to change: --cfg-options max_steps=20 seed=1",
    )


def read_config(word: str, overrides: list[str] | None = None, *, acting: bool = False) -> Config:
    """The Config that ``word`` names, with ``name=value`` overrides put in and checked as a whole.

    ``acting``: an override that does nothing in a run of this config is refused, not only one that breaks a rule.
    """
    from varlen_lab.config import recipes

    if Path(word).is_file():
        config = load(word)
    elif word in recipes.names():
        config = recipes.get(word)
    elif Path(word).suffix == ".py" or "/" in word:
        raise InputError(f"there is no config file {word}; varlen-lab copy-cfg NAME DIR makes one.")
    else:
        hint = nearest(word, recipes.names()) or "; varlen-lab list-cfg shows the names."
        raise InputError(f"there is no config file and no config name {word!r}{hint}")
    return override(config, overrides or [], acting=acting)
