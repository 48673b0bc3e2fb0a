"""One forward pass of a model as its trainer calls it, watched: logits, precision, and the kernels that attention took.

Nothing is guessed from a setting. Our attention says which backend it called; of transformers' ``sdpa`` the operators
that torch ran are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from varlen_lab.attention.calls import CALL, Call
from varlen_lab.attention.huggingface import AUTO
from varlen_lab.leaks.causes import DROPPED, LOST
from varlen_lab.leaks.report import Finding, grouped
from varlen_lab.leaks.running import SDPA, attention_name, host_of, inputs_of, run
from varlen_lab.leaks.seen import AttentionCall, observe_attention

SDPA_OP = "_scaled_dot_product_"


class Watched(NamedTuple):
    """Logits (rows * T, V) of one forward pass; the kernel in words; the dtype of an autocast inside of the model.

    ``dropped``: the finding for our attention over whole rows without the seams that the model was given.
    """

    logits: torch.Tensor
    kernel: str
    autocast: torch.dtype | None
    dropped: Finding | None


class SdpaKernels(TorchDispatchMode):
    """The names of the fused kernels that ``scaled_dot_product_attention`` runs on meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith(SDPA_OP):
            self.seen[name.removeprefix(SDPA_OP)] = None
        return func(*args, **(kwargs or {}))


def watched_run(model: Any, inputs: Mapping[str, Any]) -> Watched:
    """Run ``model(**inputs)`` once without gradients; CannotRun and InputError as ``run``."""
    name, kind, seen = attention_name(model), inputs["input_ids"].device.type, SdpaKernels()
    host = host_of(model)
    # without seams: what drops them is measured here, not refused
    note = Call(type(host).__name__, (), False, type(getattr(host, "config", None)), True)
    paths = {module: path for path, module in model.named_modules()}
    told = name.startswith(AUTO) and "cu_seq_lens_q" in inputs
    dispatched: list[str] = []
    seamless: list[tuple[str, str]] = []
    inside: list[torch.dtype | None] = []

    def count(call: AttentionCall) -> None:
        dispatched.append(type(call.module).__name__)
        whole = (call.query.shape[0], call.query.shape[2]) == tuple(inputs["input_ids"].shape)
        if told and whole and call.options.get("cu_seq_lens_q") is None:
            seamless.append((type(call.module).__name__, paths.get(call.module, "")))

    def look(module: Any, given: Any) -> None:
        if not inside:
            inside.append(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None)

    with_weights = [module for module in model.modules() if module._parameters and module is not model]
    hooks = [module.register_forward_pre_hook(look) for module in with_weights]
    before = CALL.set(note)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(observe_attention(model, count))
            if name == SDPA:
                stack.enter_context(seen)
            logits = run(model, inputs_of(inputs))
    finally:
        CALL.reset(before)
        for hook in hooks:
            hook.remove()
    where = ", ".join(
        grouped(kind, [path for other, path in seamless if other == kind]) for kind in dict.fromkeys(dict(seamless))
    )
    dropped = Finding("keywords dropped", where, LOST, DROPPED) if seamless else None
    words = in_words(name, note, dispatched, list(seen.seen))
    return Watched(logits, words, inside[0] if inside else None, dropped)


def in_words(name: str, note: Call, dispatched: list[str], fused: list[str]) -> str:
    """Such as ``varlen/sdpa``, ``sdpa/flash_attention_for_cpu``, ``eager``."""
    if note.kernels:
        return f"{name}/{'+'.join(note.kernels)}"
    if not dispatched:
        return f"{name}, but no attention call was dispatched: the layers compute in code of their own"
    if name == SDPA:
        return f"{name}/{'+'.join(fused) if fused else 'math'}"
    return name


@contextmanager
def bare(model: Any, autocast: torch.dtype | None) -> Iterator[None]:
    """The forward of a model without the autocast that accelerate wraps around it, which is entered here instead.

    Whoever measures in a finer precision can switch it off then; whoever asks sees that it is on.
    """
    kind = next((x.device.type for x in model.parameters()), "cpu")
    outside = torch.is_autocast_enabled(kind)
    wrapped, plain = vars(model).get("forward"), vars(model).get("_original_forward")
    swap = autocast is not None and not outside and wrapped is not None and plain is not None
    try:
        if swap:
            model.forward = plain
        with ExitStack() as stack:
            if autocast is not None and not outside:
                stack.enter_context(torch.autocast(kind, autocast))
            yield
    finally:
        if swap:
            model.forward = wrapped
