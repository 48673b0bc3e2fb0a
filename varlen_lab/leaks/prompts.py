"""Are tokens trained that a loss mask beside them leaves out? TRL and others mark answers in a column of the rows.

``completion_mask`` and ``assistant_masks`` are 1 where a token is to be trained. They are no argument of a model: a
collator or a preparation of the data has to make labels of them, and one that does not trains the prompts, silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from varlen_lab.leaks.report import Finding
from varlen_lab.packing.registry import IGNORE, LOSS_MASKS

PROMPTS = "prompts trained"


def masked_out(beside: Mapping[str, Any], shape: torch.Size) -> tuple[torch.Tensor | None, str]:
    """Which tokens the loss masks in ``beside`` leave out, bool of ``shape``, and their names; None without one."""
    found, names = None, []
    for name in LOSS_MASKS:
        mask = beside.get(name)
        mask = torch.as_tensor(mask) if isinstance(mask, list) else mask
        if not isinstance(mask, torch.Tensor) or mask.numel() != shape.numel():
            continue
        out = mask.reshape(shape) == 0
        found = out if found is None else found | out
        names.append(name)
    return found, " and ".join(names)


def prompts_trained(labels: torch.Tensor, out: torch.Tensor, names: str) -> Finding | None:
    """The finding for ``labels`` that train tokens which are ``out`` by the masks of these names, if any."""
    wrong = (labels != IGNORE) & out.to(labels.device)
    count, trained = int(wrong.sum()), int((labels != IGNORE).sum())
    if not count:
        return None
    at = int(wrong.reshape(-1).nonzero()[0])
    what = f"{count} of {trained} trained tokens are left out by {names} (the first at token {at})"
    fix = f"give label -100 wherever {names} is 0; pack_dataset does"
    return Finding(PROMPTS, "labels", what, fix)
