"""The settings of a run: ``schema`` says what there is, ``text`` reads and writes it as a file.

``names`` finds and makes the configs that have a name, from ``recipes.toml``; ``idle`` knows which settings do nothing
beside which others.
"""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.config.names import config_names as config_names
    from varlen_lab.config.names import name_parts as name_parts
    from varlen_lab.config.names import named_config as named_config
    from varlen_lab.config.names import named_settings as named_settings
    from varlen_lab.config.names import recipes as recipes
    from varlen_lab.config.names import search_names as search_names
    from varlen_lab.config.schema import MODES as MODES
    from varlen_lab.config.schema import Config as Config
    from varlen_lab.config.schema import SettingError as SettingError
    from varlen_lab.config.schema import setting_names as setting_names
    from varlen_lab.config.text import load as load
    from varlen_lab.config.text import load_config as load_config
    from varlen_lab.config.text import load_text as load_text
    from varlen_lab.config.text import override as override
    from varlen_lab.config.text import parse_overrides as parse_overrides
    from varlen_lab.config.text import render as render
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
