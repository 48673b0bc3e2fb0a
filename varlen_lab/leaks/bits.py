"""Do the logits of a document keep every bit when the tokens of the others change? Asked of the whole batch at once.

Every second document gets other tokens, then the others do: any two neighbours are one of each. It takes three forward
passes without gradients. What is not a bit is told apart from a leak where it can be: kernels that add up in another
order at each call, and experts of a mixture, whose products are grouped by how many tokens each one got.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from varlen_lab.leaks.precision import PARITY
from varlen_lab.leaks.report import Finding, known
from varlen_lab.leaks.running import host_of, inputs_of, run
from varlen_lab.packing.boundaries import Boundaries

CROSSES = "leak"
NAMED = 8  # documents that a sentence names
FIX = (
    "build the batch with varlen_lab.packing.VarlenCollator, load the model with attn_implementation='varlen', and "
    "look at varlen_lab.audit(model, batch)"
)
EXPERTS = re.compile(r"(num|n)_?(\w+_)?experts$")


class Bits(NamedTuple):
    """Whether all bits were kept, the finding or the note where they were not."""

    kept: bool | None
    finding: Finding | None = None
    note: str | None = None


def bits_kept(
    model: Any,
    batch: Mapping[str, Any],
    documents: Boundaries,
    logits: torch.Tensor,
    dtype: torch.dtype,
    padding: Sequence[int] = (),
) -> Bits:
    """Ask it of ``model(**batch)``, which gave ``logits`` (rows * T, V) in ``dtype``. Call it under ``noise_off``.

    ``padding``: numbers of documents that may hear others.
    """
    heard, worst = moved_documents(model, batch, documents, logits, padding)
    if not heard:
        return Bits(True)
    with torch.no_grad():
        again = run(model, inputs_of(batch))
    own = float((again - logits).abs().max())
    del again
    scale = max(1.0, float(logits.abs().max()))
    size = f"by up to {worst / scale:.1e} of the largest logit"
    small = worst <= max(PARITY.get(dtype, 0.0) * scale, 4 * own)
    if small and own:
        return Bits(None, None, f"bits were not compared: the same call twice differs by {known(own):.1e}")
    if small and has_experts(model):
        return Bits(
            None,
            None,
            f"logits move {size} with the tokens of other documents, as experts round when they are grouped otherwise; "
            "the gradients, exactly 0, decide",
        )
    named, count = ", ".join(map(str, heard[:NAMED])) + ", …" * (len(heard) > NAMED), len(documents) - len(padding)
    what = (
        f"the logits of document{'s' * (len(heard) > 1)} {named} of {count} change when tokens of another document do"
    )
    return Bits(False, Finding(CROSSES, "the model on the whole batch", what, FIX, size))


def moved_documents(
    model: Any, batch: Mapping[str, Any], documents: Boundaries, logits: torch.Tensor, padding: Sequence[int]
) -> tuple[list[int], float]:
    """Numbers of the documents whose logits are others when only other documents change, and by how much at most."""
    owner = documents.document_ids()
    asked = ~torch.isin(owner, owner.new_tensor(padding))
    other = other_tokens(model, batch["input_ids"])
    moved: set[int] = set()
    worst = 0.0
    for turn in (0, 1) if len(documents) > 1 else ():
        changed = (owner % 2 == turn).view(other.shape)
        with torch.no_grad():
            found = run(model, inputs_of(batch) | {"input_ids": torch.where(changed, other, batch["input_ids"])})
        differs = (found != logits).any(-1) & (owner % 2 != turn) & asked
        if bool(differs.any()):
            moved |= set(owner[differs].unique().tolist())
            worst = max(worst, float((found[differs] - logits[differs]).abs().max()))
    return sorted(moved), worst


def other_tokens(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Another token of the batch in place of each; those that a config names (padding, images) stay what they are."""
    config: Any = getattr(host_of(model), "config", None)
    fields = config.to_dict() if hasattr(config, "to_dict") else {}
    named = {one for name, one in fields.items() if re.search(r"token_(id|index)$", name) and isinstance(one, int)}
    kinds = ids.unique()
    free = kinds[~torch.isin(kinds, torch.tensor(sorted(named), device=ids.device, dtype=kinds.dtype))]
    if len(free) < 2:
        words = getattr(config, "vocab_size", None) or int(kinds.max()) + 1
        return (ids + 1) % max(2, words)
    at = torch.searchsorted(free, ids).clamp(max=len(free) - 1)
    return torch.where(free[at] == ids, free.roll(1)[at], ids)


def has_experts(model: Any) -> bool:
    """Whether a config names experts."""
    config: Any = getattr(host_of(model), "config", None)
    fields = config.get_text_config(decoder=True).to_dict() if hasattr(config, "get_text_config") else {}
    return any(isinstance(value, int) and value > 1 for name, value in fields.items() if EXPERTS.search(name))
