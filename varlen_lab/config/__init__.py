"""The settings of a run: ``schema`` says what there is, ``text`` reads and writes it as a file.

``overrides`` reads what a command line changes, ``effect`` knows which settings do nothing beside which others.
"""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "schema": ["MODES", "Config", "SettingError", "setting_names"],
        "text": ["load", "load_text", "override", "parse_overrides", "render"],
        "recipes": ["closest_names", "config_facts", "config_names", "load_config", "named_config", "search_names"],
    },
)
