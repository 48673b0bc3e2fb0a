"""The callbacks of a run, handed to axolotl: it imports a plugin by name from its config, and asks it for them."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin

CALLBACKS: list[Any] = []  # axolotl makes the plugin itself, so there is no other way in


class Handing(BasePlugin):
    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        return list(CALLBACKS)
