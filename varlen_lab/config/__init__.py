"""The settings of a run: ``schema`` says what there is, ``text`` reads and writes it as a file."""

from varlen_lab.config.schema import MODES, Config, SettingError, schema, setting_names
from varlen_lab.config.text import load, load_text, parse_overrides, render

__all__ = [
    "MODES",
    "Config",
    "SettingError",
    "load",
    "load_text",
    "parse_overrides",
    "render",
    "schema",
    "setting_names",
]
