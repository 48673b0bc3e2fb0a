"""Settings on a command line: ``--cfg-options max_steps=20 seed=1`` and ``--set``, on top of a config."""

from __future__ import annotations

import ast
import warnings
from typing import Any

from varlen_lab.config.idle import refuse_idle
from varlen_lab.config.schema import Config, SettingError, schema, shown, unknown
from varlen_lab.errors import InputError


def parse_overrides(pairs: list[str], flag: str = "--cfg-options") -> dict[str, Any]:
    """``["lr=1e-4", "data_path=a.jsonl"]`` as settings: a literal where it reads as one, else the text itself.

    As in XTuner ``true`` and ``false`` may be written small. A setting that is text takes what stands there as text.
    """
    rows = {row.name: row for row in schema()}
    changes: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"{flag} got {shown(pair)}, it takes name=value pairs such as max_steps=20.")
        if name not in rows:
            raise InputError(f"{flag}: {unknown(name)}")
        if name in changes:
            raise InputError(
                f"{flag} sets {name} twice, to {shown(changes[name])} and to {shown(text)}; keep one of the two."
            )
        changes[name] = value_of(text, str(rows[name].type))
    return changes


def value_of(text: str, kind: str) -> Any:
    """One value as it is typed behind ``name=``, for a setting of this kind (``str | None``)."""
    words = {"true": "True", "false": "False", "none": "None", "null": "None"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(words.get(text.lower(), text))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text
    written = ("str" in kind and not isinstance(value, str | list)) and not (value is None and "None" in kind)
    return text if written else value  # a folder may be called 2024


def override(config: Config, pairs: list[str], flag: str = "--cfg-options", *, acting: bool = True) -> Config:
    """The config with ``name=value`` pairs put in; ``acting``: one that then does nothing is refused."""
    try:
        changes = parse_overrides(pairs, flag)
        changed = config.replace(**changes)
        if acting:
            refuse_idle(changed, changes)
        return changed
    except SettingError as problem:
        raise InputError(f"{flag}: {problem}") from None
