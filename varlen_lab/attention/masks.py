"""The mask function of our names in transformers: a mask is built only where one is needed."""

from __future__ import annotations

from typing import Any

import torch


class DeferredMask:
    """A mask that is built only if a layer asks.

    transformers builds masks before the layers run, when it cannot know yet that ``cu_seq_lens`` will make
    them superfluous; for restarting position ids that would be a T x T tensor per forward pass.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def build(self) -> torch.Tensor | None:
        """The mask as transformers' sdpa path would have made it: bool, True where a query sees a key; None: causal.

        All options go on by name: their number and their defaults differ between the versions of transformers.
        """
        from transformers.masking_utils import sdpa_mask

        return sdpa_mask(**self.options)


def varlen_mask(**options: Any) -> torch.Tensor | DeferredMask | None:
    """The mask function of our names: sdpa's, deferred where it would be dense although nothing is padded."""
    mask = DeferredMask(options)
    # One query, or more keys than queries, is generation with a cache: those masks are small, and are needed.
    training_shape = options.get("q_length") == options.get("kv_length") and options.get("q_length") != 1
    return mask if options.get("attention_mask") is None and training_shape else mask.build()
