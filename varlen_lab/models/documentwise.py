"""One call of a layer for each document of a packed row: arguments are cut at the seams, outputs laid end to end.

R = rows of the batch, T = tokens of a row; seams run through all rows laid end to end, so that a document lies in one
row. What has no place for each token goes to every call as it is; what cannot be told is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch

from varlen_lab.attention.masks import DeferredMask
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.registry import SEAM_KEYWORDS

# What a call with one document does without: it tells of documents, or holds what went before.
SEAMS = (*SEAM_KEYWORDS, "cu_seqlens")
STATES = ("cache", "past_key_values", "past_key_value", "layer_past", "cache_params", "state")


class Place(NamedTuple):
    """Where a document lies: its row and the tokens of it, and those of all rows end to end."""

    row: int
    start: int
    stop: int
    first: int  # of all rows
    rows: int
    width: int

    @property
    def length(self) -> int:
        """Its tokens."""
        return self.stop - self.start


def by_document(
    run: Callable[..., Any], name: str, documents: Boundaries, args: tuple[Any, ...], options: Mapping[str, Any]
) -> Any:
    """What ``run(*args, **options)`` gives for each document alone, end to end as if it were for the rows.

    ``name``: of the layer, for sentences. InputError where a document crosses a row, and for an argument or an output
    whose place for each token cannot be told.
    """
    parameters = inspect.signature(run).parameters
    places = places_of(name, documents, [*args, *options.values()])
    outputs = []
    for place in places:
        given = [
            None if is_left_out(key, value) else cut(name, key, value, place)
            for key, value in zip(positional(parameters, len(args)), args)
        ]
        more = {
            key: None if is_left_out(key, value) else cut(name, key, value, place)
            for key, value in options.items()
            if not is_left_out(key, value) or needs(parameters, key)
        }
        outputs.append(run(*given, **more))
    return joined(name, outputs, places)


def places_of(name: str, documents: Boundaries, values: Sequence[Any]) -> list[Place]:
    """Where the documents lie, by the first argument with a place for every token of the batch."""
    shapes = [x.shape for x in tensors_in(values)]
    rows, width = next(
        ((s[0], s[1]) for s in shapes if len(s) > 2 and s[0] * s[1] == documents.total),
        next(((1, s[0]) for s in shapes if len(s) == 2 and s[0] == documents.total), (0, 1)),
    )
    if not rows:
        raise InputError(
            f"{name} is to run document by document, the seams end at {documents.total} and none of its arguments has "
            f"so many tokens ({', '.join(str(tuple(shape)) for shape in shapes) or 'no tensors'}); train it unpacked."
        )
    places = []
    for number, (start, stop) in enumerate(documents.spans):
        row = start // width
        if stop > (row + 1) * width:
            raise InputError(
                f"document {number} has tokens {start} to {stop - 1} and crosses the end of row {row} after token "
                f"{(row + 1) * width - 1}, a document lies in one row; build the batch with "
                "varlen_lab.packing.VarlenCollator."
            )
        places.append(Place(row, start - row * width, stop - row * width, start, rows, width))
    return places


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of arguments."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)


def positional(parameters: Mapping[str, inspect.Parameter], count: int) -> list[str]:
    """Names for the first ``count`` arguments; those of ``*args`` have none."""
    names = [name for name, one in parameters.items() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return (names + [""] * count)[:count]


def needs(parameters: Mapping[str, inspect.Parameter], key: str) -> bool:
    """Whether an argument must be given."""
    return key in parameters and parameters[key].default is inspect.Parameter.empty


def is_left_out(key: str, value: Any) -> bool:
    """Whether a call with one document does without an argument."""
    padding = key == "attention_mask" and isinstance(value, torch.Tensor) and value.ndim == 2
    return key in SEAMS or key in STATES or padding or is_cache(value)


def is_cache(value: Any) -> bool:
    """Whether it is a cache of transformers, under whatever name."""
    return hasattr(value, "get_seq_length") or hasattr(value, "conv_states")


# ------------------------------------------------------------------------------------------------------- into a layer


def cut(name: str, key: str, value: Any, place: Place) -> Any:
    """An argument as one document has it; ``name`` of the layer, ``key`` of the argument."""
    if isinstance(value, torch.Tensor):
        return cut_tensor(name, key, value, place)
    if isinstance(value, DeferredMask):
        return opened(name, value, place)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(cut(name, key, one, place) for one in value))
    if isinstance(value, list | tuple):
        return type(value)(cut(name, key, one, place) for one in value)
    if type(value) is dict:
        return {inner: cut(name, inner, one, place) for inner, one in value.items() if not is_left_out(str(inner), one)}
    return False if key == "use_cache" else value


def cut_tensor(name: str, key: str, x: torch.Tensor, place: Place) -> torch.Tensor:
    """A tensor as one document has it, by the dimensions that hold rows and tokens."""
    row, start, stop, first, rows, width = place
    shape, tokens = tuple(x.shape), slice(start, stop)
    square = shape[-2:] == (width, width) and shape[0] in (1, rows)
    if square and (x.ndim == 4 or (x.ndim == 3 and "mask" in key)):  # who sees whom
        return x[min(row, shape[0] - 1)][None, ..., tokens, tokens]
    if x.ndim > 1 and shape[1] == width and shape[0] in (1, rows):
        return x[min(row, shape[0] - 1)][None, tokens]
    if x.ndim == 3 and shape[2] == width and shape[1] in (1, rows) and not x.is_floating_point():
        return x[:, min(row, shape[1] - 1)][:, None, tokens]  # positions of several planes
    if x.ndim == 2 and shape[0] == rows * width:
        return x[first : first + place.length]
    if x.ndim == 2 and shape[0] == width:
        return x[tokens]
    if x.ndim == 1 and shape[0] == width and not x.is_floating_point():
        return x[tokens] - x[start] if key == "cache_position" else x[tokens]
    if x.ndim > 1 and width > 1 and width in shape:
        raise InputError(
            f"{name} is to run document by document and is given {key or 'a tensor'} of shape {shape}, of which it is "
            "not known where its tokens are; train it unpacked."
        )
    return x


def opened(name: str, mask: DeferredMask, place: Place) -> torch.Tensor:
    """Our closed mask as numbers for one document, added to scores: (1, 1, n, n)."""
    rule = mask.rule
    if mask.changes or rule.unknown is not None:
        why = rule.unknown or "its code has changed it"
        raise InputError(
            f"{name} is to run document by document and has a mask that is not known to keep inside documents ({why}); "
            "train it unpacked."
        )
    at = torch.arange(place.length)
    back = at[:, None] - at
    seen = back >= 0 if rule.causal else torch.ones_like(back, dtype=torch.bool)
    if rule.window is not None:
        seen = seen & (back < rule.window)
    if rule.chunk is not None:
        seen = seen & (at[:, None] // rule.chunk == at // rule.chunk)
    options = mask.options
    dtype, device = options.get("dtype") or torch.get_default_dtype(), options.get("device")
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min).to(device)[None, None]


# ---------------------------------------------------------------------------------------------------------- out of it


def joined(name: str, outputs: Sequence[Any], places: Sequence[Place]) -> Any:
    """Outputs of all documents as one output of the rows."""
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        return joined_tensors(name, outputs, places)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(joined(name, each, places) for each in zip(*outputs, strict=True)))
    if isinstance(first, list | tuple):
        return type(first)(joined(name, each, places) for each in zip(*outputs, strict=True))
    if is_dataclass(first) and not isinstance(first, type):
        parts = [field.name for field in fields(first)]
        return type(first)(**{p: joined(name, [getattr(one, p) for one in outputs], places) for p in parts})
    if isinstance(first, dict):
        return type(first)({p: joined(name, [one[p] for one in outputs], places) for p in first})
    return outputs[-1]


def joined_tensors(name: str, outputs: Sequence[torch.Tensor], places: Sequence[Place]) -> torch.Tensor | None:
    """Tensors of all documents as one of the rows: (1, n, ...) each -> (R, T, ...).

    What has no place for each token is a state: of each row it is its last document's. Weights of attention, (1, H, n,
    n), are not kept: None. InputError for a number that each call sums up.
    """
    rows, width = places[0].rows, places[0].width
    lengths = [place.length for place in places]
    if all(x.ndim > 1 and x.shape[:2] == (1, n) for x, n in zip(outputs, lengths)):
        return torch.cat(list(outputs), dim=1).unflatten(1, (rows, width))[0]
    if all(x.ndim in (1, 2) and x.shape[0] == n for x, n in zip(outputs, lengths)):
        return torch.cat(list(outputs))
    if outputs[0].ndim == 0:
        raise InputError(
            f"{name} is to run document by document and returns a number of each call, which cannot be put together "
            "again; train it unpacked."
        )
    if all(x.ndim == 4 and x.shape[-2:] == (n, n) for x, n in zip(outputs, lengths)):
        return None
    ends = [x for x, place in zip(outputs, places) if place.stop == width]
    return torch.cat(ends) if all(x.shape[1:] == ends[0].shape[1:] and len(x) == 1 for x in ends) else None
