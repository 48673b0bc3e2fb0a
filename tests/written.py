"""What each named template writes, read from ``templates_written.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path

WRITTEN = tomllib.loads(Path(__file__).with_name("templates_written.toml").read_text(encoding="utf-8"))


def as_written(name: str, system: bool, bos: str = "<s>", eos: str = "</s>") -> str:
    """The two turns of a template, without a system message or with one, for a tokenizer with these marks."""
    row = WRITTEN[name]
    text = row["with_system" if system else "without"]
    return text.replace(row.get("bos", "<s>"), bos).replace(row.get("eos", "</s>"), eos)
