"""What a trainer hands to a model, taken apart: arguments, what lies beside them, and where documents begin and end."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from varlen_lab.errors import InputError
from varlen_lab.leaks.running import host_of
from varlen_lab.leaks.traps import documents_of
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.registry import IGNORE, LOSS_MASKS, SEAM_KEYWORDS

# how a loss is made of what a model computes: a leak check takes logits
OF_THE_LOSS = ("num_items_in_batch", "fused_lm_head", "skip_logits", "shift_labels", "return_loss", "logits_to_keep")
# what classes take by ``**kwargs`` and hand on
HANDED_ON = (*SEAM_KEYWORDS, "use_cache", "position_ids")
BESIDE = ("seq_lengths", "length", "lengths", *LOSS_MASKS)
NO_CAUSAL_LOSS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


class Taken(NamedTuple):
    """A batch taken apart. ``inputs`` goes into ``model(**inputs)`` and gives logits; labels are among them."""

    inputs: dict[str, Any]
    beside: dict[str, Any]  # no arguments of the model
    items: int | None  # num_items_in_batch


class Documents(NamedTuple):
    """Where documents lie: ``packed`` when a row holds several, else one is a row, up to ``lengths`` real tokens.

    ``padding``: numbers of those that are none, as they are what a mask of every query and key leaves out.
    """

    boundaries: Boundaries
    packed: bool
    lengths: list[int]
    notes: list[str]
    padding: tuple[int, ...] = ()

    @property
    def real(self) -> list[int]:
        """Tokens of each that is no padding."""
        return [length for number, length in enumerate(self.lengths) if number not in self.padding]


def taken_apart(model: Any, batch: Mapping[str, Any], *, exact: bool) -> Taken:
    """A batch as arguments and what is none; InputError for one that holds nothing to check.

    ``exact``: all of it goes into the model really, so that what is not known may be an argument of it.
    """
    name = type(host_of(model)).__name__
    if not isinstance(batch, Mapping):
        raise InputError(
            f"the batch of {name} is a {type(batch).__name__}, LeakCheck takes what goes into model(**batch); pass a "
            "dictionary with input_ids."
        )
    given = {key: value for key, value in batch.items() if value is not None}
    ids = given.get("input_ids")
    if not given or (isinstance(ids, torch.Tensor) and not ids.numel()):
        raise InputError(f"the batch of {name} is empty, there is nothing to check; look at the rows of the data.")
    if ids is None and "inputs_embeds" in given:
        raise InputError(
            f"{name} is given inputs_embeds in place of input_ids, so tokens cannot be changed and documents cannot be "
            "run alone; check the model that makes them on its input_ids."
        )
    refuse_other_tasks(model)
    items = given.get("num_items_in_batch")
    beside = {key: given[key] for key in given if key in BESIDE or not (exact or is_argument(model, key))}
    inputs = {key: value for key, value in given.items() if key not in beside and key not in OF_THE_LOSS}
    return Taken(inputs, beside, int(items) if items is not None and int(items) > 0 else None)


def refuse_other_tasks(model: Any) -> None:
    """InputError for a model whose logits do not predict the next token."""
    host = host_of(model)
    kind, config = getattr(host, "loss_type", None), getattr(host, "config", None)
    both = getattr(config, "is_encoder_decoder", False)
    if kind in NO_CAUSAL_LOSS or both:
        why = "an encoder and a decoder" if both else f"a model {kind.removeprefix('For')}"  # type: ignore[union-attr]
        raise InputError(
            f"{type(host).__name__} is no causal language model ({why}), what LeakCheck measures says nothing of it; "
            "leave the check out."
        )


def is_argument(model: Any, name: str) -> bool:
    """Whether a model takes a keyword argument of this name, as far as signatures tell."""
    for one in (model, host_of(model)):
        taken = inspect.signature(one.forward).parameters
        if name in taken or (
            name in (*HANDED_ON, *OF_THE_LOSS) and any(p.kind is p.VAR_KEYWORD for p in taken.values())
        ):
            return True
    return False


def documents_in(model: Any, inputs: Mapping[str, Any], boundaries: Any = None) -> Documents:
    """The documents of a batch: as given, by its seams and positions, or a row each where a mask says how long it is.

    InputError where they cannot be told.
    """
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    told = boundaries is not None or "cu_seq_lens_q" in inputs
    padded = isinstance(mask, torch.Tensor) and isinstance(ids, torch.Tensor) and mask.shape == ids.shape
    if not told and "position_ids" not in inputs and not padded:
        raise InputError(
            f"the batch of {type(host_of(model)).__name__} has {', '.join(inputs)} and nothing that tells its "
            "documents (cu_seq_lens_q, position_ids that restart, or an attention_mask of padded rows); build it with "
            "varlen_lab.packing.VarlenCollator or transformers' DataCollatorWithFlattening, or pass boundaries to "
            "LeakCheck.check(model, batch, boundaries=lengths)."
        )
    if not told and isinstance(mask, torch.Tensor) and padded and not restarts(inputs.get("position_ids"), ids):
        rows = Boundaries.from_lengths([ids.shape[1]] * len(ids), ids.device)
        lengths = [max(1, int(one)) for one in mask.sum(1)]
        return Documents(rows, False, lengths, ["every row is taken for one document: nothing tells of seams in it"])
    found, notes = documents_of(inputs, boundaries)
    width = ids.shape[1]
    found, padding = padding_joined(found, padding_by_mask(inputs))
    packed = any(start % width for start, _ in found.spans)
    return Documents(found, packed, found.lengths.tolist(), notes, padding)


def padding_by_mask(inputs: Mapping[str, Any]) -> torch.Tensor | None:
    """Which tokens, (rows, T), end a row, are not trained, and have a mask that forbids them every key; None for none.

    Whoever masks blocks (rows, 1, T, T) pads like this. Such a token hears all others, and nothing hears it.
    """
    ids, mask, labels = inputs["input_ids"], inputs.get("attention_mask"), inputs.get("labels")
    if not isinstance(mask, torch.Tensor) or mask.ndim != 4 or mask.shape[-2:] != (ids.shape[1],) * 2:
        return None
    if len(mask) not in (1, len(ids)):
        return None
    allowed = mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask != 0
    silent = ~allowed.any(-1).any(1).expand(ids.shape)
    if isinstance(labels, torch.Tensor) and labels.shape == ids.shape:
        silent = silent & (labels == IGNORE).to(silent.device)
    silent = silent.flip(-1).long().cumprod(-1).flip(-1).bool()  # what is in the middle of a row is a mistake
    return silent.to(ids.device) if bool(silent.any()) else None


def padding_joined(found: Boundaries, padding: torch.Tensor | None) -> tuple[Boundaries, tuple[int, ...]]:
    """Boundaries in which the padding of each row is a document of its own, and the numbers of these."""
    if padding is None:
        return found, ()
    flat, width = padding.reshape(-1), padding.shape[1]
    first = torch.zeros_like(flat)
    first[1:] = flat[1:] & ~flat[:-1]
    first[::width] = True
    told = torch.zeros_like(flat)
    told[found.cu_seqlens[:-1].long()] = True
    starts = (first | (told & ~flat)).nonzero().flatten()
    ends = starts.new_tensor([len(flat)])
    joined = Boundaries(torch.cat([starts, ends]).to(torch.int32))
    return joined, tuple(flat[starts].nonzero().flatten().tolist())


def restarts(positions: Any, ids: torch.Tensor) -> bool:
    """Whether positions (rows, T) go back to 0 inside a row, and count on from there."""
    if not isinstance(positions, torch.Tensor) or positions.shape != ids.shape:
        return False
    return bool(((positions[:, 1:-1] == 0) & (positions[:, 2:] == 1) & (positions[:, :-2] > 0)).any())
