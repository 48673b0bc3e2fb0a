"""The settings of a run: ``schema`` says what there is, ``text`` reads and writes it as a file.

``names`` finds and makes the configs that have a name, from ``recipes.toml``; ``idle`` knows which settings do nothing
beside which others.
"""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "schema": ["MODES", "Config", "SettingError", "setting_names"],
        "text": ["load", "load_config", "load_text", "override", "parse_overrides", "render"],
        "names": ["config_names", "name_parts", "named_config", "named_settings", "recipes", "search_names"],
    },
)
