"""The seams of a model's call while it runs: what hooks of the model put where its isolated layers look.

No global and no guess from positions: seams are the ``cu_seq_lens_q`` of a call, kept in one object that the isolated
layers of a model share, for as long as the call lasts, and once more where a backward pass computes part of it again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch

from varlen_lab.attention.calls import CALL
from varlen_lab.attention.guard import LIFTED, named, refuse_restarts, takes_positions
from varlen_lab.attention.masks import HIDDEN
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.registry import SEAM_KEYWORDS

SAYS_DOCUMENTS = (*SEAM_KEYWORDS, "position_ids")  # a class without attention may take none of it
SEARCHES = ("eager", "sdpa", "flex_attention")  # attention of transformers that guesses documents from positions
CHECKPOINTING = "_gradient_checkpointing_func"  # transformers', on every module that can be computed again


class Running:
    """The documents of the calls of one model that are running: what its isolated layers share.

    A list for each thread, the innermost call last: (the module that was called, its documents or None).
    """

    def __init__(self) -> None:
        self.calls: dict[int, list[tuple[int, Boundaries | None]]] = {}
        self.packed = False  # a call with seams has been
        self.holders: list[torch.nn.Module] = []  # isolated layers and all that they lie in

    def watches(self, module: torch.nn.Module) -> bool:
        """Whether calls of a module are entered here."""
        return any(getattr(hook, "__self__", None) is self for hook in module._forward_pre_hooks.values())

    @torch.compiler.disable
    def enter(
        self, module: Any, args: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before a model runs: its seams are taken, and words of seams that its class does not know are left out.

        InputError for positions that restart without seams, for tokens of a packed row that a mask hides, and for what
        keeps an attention that reads no seams from finding the documents.
        """
        calls = self.calls.setdefault(get_ident(), [])
        if any(number == id(module) for number, _ in calls):  # no model calls itself: an interrupt has left this behind
            calls.clear()
        cu_seqlens = options.get("cu_seq_lens_q")
        if cu_seqlens is None:
            if not calls and CALL.get() is None and not LIFTED.get():
                refuse_unseamed(module, args, options)
            calls.append((id(module), calls[-1][1] if calls else None))
        else:
            documents = Boundaries(cu_seqlens)
            refuse_hidden(module, args, options)
            if not calls and not LIFTED.get():
                refuse_unfound(module, documents, named(module, args, options))
            self.packed = True
            calls.append((id(module), documents))
            options = known_words(module, options)
        for holder in self.holders:
            again = vars(holder).get(CHECKPOINTING)
            if again is not None and not isinstance(again, KeepsSeams):
                setattr(holder, CHECKPOINTING, KeepsSeams(again, self))
        return args, options

    @torch.compiler.disable
    def leave(self, module: Any, args: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        """After a model has run, or failed: then there is no output.

        InputError where another call of the model within this one has taken its seams away.
        """
        calls = self.calls.get(get_ident(), [])
        if output is not None and not any(number == id(module) for number, _ in calls):
            name = type(module).__name__
            raise InputError(
                f"{name} was called once more within a call of its own (by a hook?), which lost the seams of that one; "
                f"call {name} before or after it."
            )
        if calls and calls[-1][0] == id(module):
            calls.pop()
        if not calls:
            self.calls.pop(get_ident(), None)

    def documents(self, layer: torch.nn.Module) -> Boundaries | None:
        """The documents of the call that is running, None for one without seams.

        InputError where a layer is computed again in a backward pass that does not say of which call it is.
        """
        calls = self.calls.get(get_ident())
        if calls:
            return calls[-1][1]
        if self.packed and torch._C._current_graph_task_id() != -1:
            raise InputError(
                f"{type(layer).__name__} runs document by document and is computed again in the backward pass in a way "
                "that does not keep the seams of its call; use model.gradient_checkpointing_enable(), or none of it."
            )
        return None

    @contextmanager
    def again(self, documents: Boundaries | None) -> Iterator[None]:
        """The documents of an earlier call, while something of it is computed again."""
        calls = self.calls.setdefault(get_ident(), [])
        calls.append((0, documents))
        try:
            yield
        finally:
            calls.pop()
            if not calls:
                self.calls.pop(get_ident(), None)


class KeepsSeams:
    """transformers' function for activations that are computed again, with the seams of the call they belong to."""

    def __init__(self, inner: Callable[..., Any], running: Running) -> None:
        self.inner = inner
        self.running = running

    def __call__(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        calls = self.running.calls.get(get_ident())
        if not calls:
            return self.inner(function, *args, **options)
        documents = calls[-1][1]

        def with_seams(*given: Any, **more: Any) -> Any:
            with self.running.again(documents):
                return function(*given, **more)

        return self.inner(with_seams, *args, **options)


def refuse_unseamed(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """InputError for positions that restart within a row where no seams came with them."""
    given = named(module, args, options)
    if isinstance(given.get("position_ids"), torch.Tensor):
        refuse_restarts(type(module).__name__, given["position_ids"], given)


def refuse_hidden(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """InputError for a mask of padding that hides tokens of a packed row."""
    mask = named(module, args, options).get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2 and HIDDEN(mask):
        raise InputError(
            f"attention_mask hides {HIDDEN(mask)} tokens of a packed row whose cu_seq_lens_q came with it; leave "
            "attention_mask out, seams say it all."
        )


def refuse_unfound(module: Any, documents: Boundaries, given: Mapping[str, Any]) -> None:
    """InputError for what keeps transformers' own attention, which reads no seams, from finding the documents of a row.

    Its search is for positions that restart, and only without a mask of padding and without a cache.
    """
    from transformers import PreTrainedModel

    host = next((part for part in module.modules() if isinstance(part, PreTrainedModel)), None)
    attention = getattr(getattr(host, "config", None), "_attn_implementation", None)
    tokens = next((given[name] for name in ("input_ids", "inputs_embeds") if given.get(name) is not None), None)
    if host is None or attention not in SEARCHES or not takes_positions(host):
        return
    if tokens is None or len(documents) <= len(tokens):
        return  # no seam inside of a row
    mask, positions, cache = given.get("attention_mask"), given.get("position_ids"), given.get("use_cache")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        found, then = "an attention_mask came with the packed row", "leave it out"
    elif not isinstance(positions, torch.Tensor):
        found, then = "no position_ids came with the packed row", "pass position_ids that restart in every document"
    elif cache or (cache is None and getattr(host.config.get_text_config(), "use_cache", False)):
        found, then = "a cache is made" + ", the config's default" * (cache is None), "pass use_cache=False"
    else:
        return
    raise InputError(
        f"{type(host).__name__} has {attention} attention, which does not read cu_seq_lens_q and looks for documents "
        f"itself, but not here: {found}; {then}, or load the model with attn_implementation='varlen'."
    )


def known_words(module: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The keywords of a call without those of seams that the class of the model does not take."""
    if type(module).forward is torch.nn.Module.forward:  # torch.compile's wrapper: the model in it is asked
        return options
    taken = inspect.signature(type(module).forward).parameters
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        return options
    return {name: value for name, value in options.items() if name in taken or name not in SAYS_DOCUMENTS}
