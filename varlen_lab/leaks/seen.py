"""Which mask does a live model really use? Its own attention is asked, layer by layer, through its values.

Attention is ``weights @ values``. Whatever kernel computes it, called once more with values that are 1 for the tokens
of one document and 0 elsewhere it returns the weight every query puts on that document; with one column per token it
returns the weights themselves. Columns go in chunks as wide as a head, so no T x T memory is needed:

    seen = attention_seen(model, batch)      # a packed batch, as it goes into model(**batch)
    seen.mass[0]                             # layer 0, document x document: each row sums to 1

``varlen_lab.viz.draw_seen`` draws it beside the mask that was promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from varlen_lab.errors import InputError
from varlen_lab.leaks.measure import in_float64
from varlen_lab.leaks.running import MEASURING, inputs_of, noise_off
from varlen_lab.leaks.traps import documents_of

TOKEN_LIMIT = 64  # up to this many tokens every cell is asked for


@dataclass(frozen=True, eq=False)
class Seen:
    """The attention of every layer, averaged over heads.

    ``mass``: float64 (layers, documents, documents), the share of document i's attention that goes to document j.
    ``cells``: float64 (layers, T, T), the weight of key k for query q, in rows of at most 64 tokens; else None.
    """

    layers: tuple[str, ...]
    lengths: tuple[int, ...]
    mass: np.ndarray
    cells: np.ndarray | None

    @property
    def crossing(self) -> np.ndarray:
        """Share of all attention that goes to another document, float64 (layers,), each token counted once."""
        weights = np.array(self.lengths) / sum(self.lengths)
        own = np.diagonal(self.mass, axis1=1, axis2=2)
        return ((self.mass.sum(axis=2) - own) * weights).sum(axis=1)


def attention_seen(model: Any, batch: Mapping[str, Any], *, boundaries: Any = None) -> Seen:
    """Run ``model(**batch)`` once and ask every attention call where its weights went.

    ``boundaries``: as for ``audit``. The model is left as it was found. Raises InputError when the documents cannot be
    told, and when no layer calls an attention that transformers dispatches.
    """
    batch = {name: value for name, value in batch.items() if value is not None}
    documents, _ = documents_of(batch, boundaries)
    shape = batch["input_ids"].shape
    owner = documents.document_ids().view(shape)
    token = torch.arange(documents.total, device=owner.device).view(shape)
    columns = [(owner, len(documents))] + ([(token, documents.total)] if documents.total <= TOKEN_LIMIT else [])
    with noise_off(model), torch.no_grad(), record_weights(model, columns) as recorded:
        model(**inputs_of(batch))
    if not recorded:
        raise InputError(
            f"{type(model).__name__} made no attention call that can be asked, its layers may be recurrent or its code "
            "remote; use a native transformers attention, or audit(), which needs none."
        )
    lengths = documents.lengths.cpu().numpy()
    first = np.cumsum(lengths) - lengths
    mass = [np.add.reduceat(found[0], first, axis=0) / lengths[:, None] for _, found in recorded]
    cells = np.stack([found[1] for _, found in recorded]) if len(columns) > 1 else None
    return Seen(tuple(layer for layer, _ in recorded), tuple(lengths.tolist()), np.stack(mass), cells)


class AttentionCall(NamedTuple):
    """One attention call of a model: query (B, H, T, D), key and value (B, K, S, ·), out (B, T, H, V)."""

    module: Any
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    out: torch.Tensor
    mask: Any  # as the model made it: a tensor, None, or what the mask function of its attention returns
    options: dict[str, Any]  # the other keyword arguments
    again: Callable[..., torch.Tensor]  # (query, key, value, mask, **options) -> out of the same call with these

    def with_values(self, value: torch.Tensor) -> torch.Tensor:
        """The out of the same call with other values."""
        return self.again(self.query, self.key, value, self.mask)


@contextmanager
def observe_attention(model: Any, observer: Callable[[AttentionCall], torch.Tensor | None]) -> Iterator[None]:
    """Call ``observer`` with every attention call of ``model`` that transformers dispatches meanwhile.

    What it returns takes the place of the call's ``out``, and None changes nothing.

    A layer asks ``AttentionInterface.get_interface`` for its function in every forward pass, so that is the one place
    where calls of every model and every implementation can be seen. Models with code of their own do not ask there.
    """
    from transformers import AttentionInterface

    with MEASURING:
        real = AttentionInterface.get_interface
        try:
            AttentionInterface.get_interface = observed(real, model, observer)  # type: ignore[method-assign]
            yield
        finally:
            AttentionInterface.get_interface = real  # type: ignore[method-assign]


def observed(
    real: Callable[..., Any], model: Any, observer: Callable[[AttentionCall], torch.Tensor | None]
) -> Callable[..., Any]:
    """``get_interface`` whose functions call ``observer``; another model may run meanwhile, in another thread."""
    its = set(model.modules())

    def get_interface(self: Any, name: str, default: Any) -> Any:
        function = real(self, name, default)

        def call(
            module: Any,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            attention_mask: Any = None,
            *rest: Any,
            **options: Any,
        ) -> Any:
            def again(*changed: Any, **more: Any) -> torch.Tensor:
                out: torch.Tensor = function(module, *changed, *rest, **options | more)[0]
                return out

            # the real call first: what the observer asks comes on top, and the model goes on with its own result
            result = function(module, query, key, value, attention_mask, *rest, **options)
            if module not in its:
                return result
            out = observer(AttentionCall(module, query, key, value, result[0], attention_mask, options, again))
            return result if out is None else (out, *result[1:])

        return call

    return get_interface


@contextmanager
def record_weights(model: Any, columns: list[tuple[torch.Tensor, int]]) -> Iterator[list[tuple[str, list[np.ndarray]]]]:
    """(layer, one array per entry of ``columns``) of every attention call meanwhile; its result is not changed.

    An entry is (column of each token, int64 (rows, T); number of columns). Its array is float64 (rows * T, columns).
    """
    recorded: list[tuple[str, list[np.ndarray]]] = []

    def record(call: AttentionCall) -> None:
        if call.query.shape[2] == call.key.shape[2] == columns[0][0].shape[1]:  # not cross attention, not a cache
            layer = f"layer {getattr(call.module, 'layer_idx', len(recorded))}"
            recorded.append((layer, [weights_on(call, column, count) for column, count in columns]))

    with observe_attention(model, record):
        yield recorded


def weights_on(call: AttentionCall, column: torch.Tensor, count: int) -> np.ndarray:
    """What each query of a call puts on each column, mean over heads; float64 (rows * T, columns)."""
    width = call.value.shape[-1]
    found = []
    for low in range(0, count, width):  # as many columns at once as a head has channels: no kernel takes more
        places = torch.arange(low, low + width, device=call.value.device)
        ones = (column.to(call.value.device)[:, :, None] == places).to(call.value.dtype)  # (rows, T, V)
        out = call.with_values(ones[:, None].expand_as(call.value).contiguous())  # (rows, T, heads, V)
        out = out.reshape(*out.shape[:2], -1, width)
        found.append(in_float64(out).mean(dim=2).flatten(0, 1).cpu().numpy())
    return np.concatenate(found, axis=1)[:, :count]
