"""The settings of a run: ``schema`` says what there is, ``text`` reads and writes it as a file.

``overrides`` reads what a command line changes, ``effect`` knows which settings do nothing beside which others.
"""

from varlen_lab.config.overrides import override, parse_overrides
from varlen_lab.config.schema import MODES, Config, SettingError, schema, setting_names
from varlen_lab.config.text import load, load_text, render

__all__ = [
    "MODES",
    "Config",
    "SettingError",
    "load",
    "load_text",
    "override",
    "parse_overrides",
    "render",
    "schema",
    "setting_names",
]
