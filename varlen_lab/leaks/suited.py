"""Which fault can be planted where? A window one too wide needs a window, and a seam in a wrong place a seam.

What a model's attention is given is not read from its config but asked: one short document is run, and its calls seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from varlen_lab.attention.guard import lifted
from varlen_lab.attention.huggingface import AUTO
from varlen_lab.attention.masks import DeferredMask
from varlen_lab.errors import InputError
from varlen_lab.leaks.planted_batches import inner_seams
from varlen_lab.leaks.registry import Fault
from varlen_lab.leaks.running import NATIVE, as_if_alone, noise_off, run_alone
from varlen_lab.leaks.seen import AttentionCall, observe_attention
from varlen_lab.leaks.traps import documents_of

TOKENS = 4  # of the document that is run


class Trait(NamedTuple):
    """What some models have and others not: ``found(model)`` is None where it is missing, else what there is."""

    found: Callable[[Any], Any]
    missing: str  # in words
    longer: bool = False  # what is found is a length, and a document must be longer
    mixed: bool = False  # documents must be of unlike lengths


def applies(fault: Fault, model: Any, batch: Mapping[str, Any] | None = None) -> str | None:
    """Why a fault cannot be planted in a model, and in a batch where one is given; None where it can."""
    if fault.site == "attention" and not calls_of(model):
        return "it makes no attention call that transformers dispatches"
    if fault.attention in NATIVE and any(hasattr(one, "alibi_slopes") for one in model.modules()):
        return f"{fault.attention} attention knows no slopes of ALiBi"
    trait = NEEDS.get(fault.needs)
    value = trait.found(model) if trait is not None else None
    if trait is not None and value is None:
        return trait.missing
    if not batch:
        return None
    documents, _ = documents_of(batch, None)
    if not len(inner_seams(documents.cu_seqlens, batch["input_ids"].shape[1])):
        return "no row of the batch holds two documents"
    if trait is not None and trait.longer and documents.max_seqlen <= int(value or 0):
        return f"no document of the batch is longer than {value} tokens"
    if (
        trait is not None
        and trait.mixed
        and not any(2 <= one <= documents.max_seqlen // 2 for one in documents.lengths)
    ):
        return "no document of the batch has two tokens or more and half as many as the longest or fewer"
    return None


def calls_of(model: Any) -> list[AttentionCall]:
    """The attention calls of one short document, with our attention where the model takes it."""
    calls: list[AttentionCall] = []
    device = next(model.parameters()).device
    with noise_off(model), torch.no_grad(), lifted(), as_if_alone(model, AUTO), observe_attention(model, calls.append):
        try:
            run_alone(model, torch.arange(TOKENS, device=device))
        except InputError:  # what it cannot run alone it cannot be audited with either
            return []
    return calls


def smallest(found: list[int | None]) -> int | None:
    """The smallest of those that are there."""
    return min((one for one in found if one is not None), default=None)


def window(model: Any) -> int | None:
    """Tokens of the smallest sliding window."""
    calls = calls_of(model)
    rules = [call.mask.rule for call in calls if isinstance(call.mask, DeferredMask)]
    return smallest([*(rule.window for rule in rules), *(call.options.get("sliding_window") for call in calls)])


def chunk(model: Any) -> int | None:
    """Tokens of the smallest chunk."""
    return smallest([call.mask.rule.chunk for call in calls_of(model) if isinstance(call.mask, DeferredMask)])


def keyword(*names: str) -> Callable[[Any], Any]:
    """What attention is given under one of these names; None where it is given none."""

    def found(model: Any) -> Any:
        given = [call.options.get(name) for call in calls_of(model) for name in names]
        return next((value for value in given if value is not None), None)

    return found


def cap_that_matters(model: Any) -> float | None:
    """The cap of scores that are large enough to be capped."""
    for call in calls_of(model):
        cap, scale = call.options.get("softcap"), call.options.get("scaling") or call.query.shape[-1] ** -0.5
        longest = float(call.query.norm(dim=-1).max() * call.key.norm(dim=-1).max()) * scale  # at most so large a score
        if cap is not None and longest - cap * math.tanh(longest / cap) > 1e-3:
            return float(cap)
    return None


def own_scale(model: Any) -> float | None:
    """A scale of scores that is not the root of the head width."""
    scales = [(call.options.get("scaling"), call.query.shape[-1] ** -0.5) for call in calls_of(model)]
    return next((one for one, usual in scales if one is not None and abs(one - usual) > 1e-6 * usual), None)


def rotary(kind: str) -> Callable[[Any], Any]:
    """The rotary embedding of a ``rope_type``."""
    return lambda model: next((one for one in model.modules() if getattr(one, "rope_type", None) == kind), None)


def learned_positions(model: Any) -> Any:
    """The table of learned positions: an embedding that is not of words, with a row for each position or a few more."""
    most = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    tables = [one for one in model.modules() if isinstance(one, torch.nn.Embedding)]
    others = [one for one in tables if one is not model.get_input_embeddings()]
    return next((one for one in others if most is not None and most <= one.num_embeddings <= most + 4), None)


def planes(model: Any) -> Any:
    """The part that turns by positions of time, height and width."""
    return next((one for one in model.modules() if hasattr(one, "mrope_section")), None)


NEEDS: dict[str, Trait] = {
    "window": Trait(window, "no layer of it has a sliding window", longer=True),
    "chunk": Trait(chunk, "no layer of it attends in chunks", longer=True),
    "softcap": Trait(
        cap_that_matters, "no layer of it caps its scores, or all scores are so small that none is capped"
    ),
    "sinks": Trait(keyword("s_aux", "sinks"), "no layer of it has sinks"),
    "a scale of its own": Trait(own_scale, "it scales scores by the root of its head width, as every kernel does"),
    "learned positions": Trait(learned_positions, "it has no table of learned positions"),
    "longrope": Trait(rotary("longrope"), "its rotary embedding is not of the type longrope", mixed=True),
    "dynamic": Trait(rotary("dynamic"), "its rotary embedding is not of the type dynamic", mixed=True),
    "positions of several planes": Trait(planes, "its positions have one plane"),
}
