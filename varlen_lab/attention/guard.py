"""What goes into a model is looked at before it runs, and once more after it: what would be silently wrong is refused.

Attention alone cannot see it: position ids that restart may never reach a layer, and a class that drops
``cu_seq_lens_q`` on the way, or has no attention of ours, computes on without it. So ``watch_models`` gives
``transformers.PreTrainedModel`` a ``__call__`` that checks the outermost call of each model with our attention, and
notes it (``calls``).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from itertools import islice
from typing import Any

import torch

from varlen_lab.attention.calls import CALL, Call
from varlen_lab.attention.recurrent import class_name, document_runner, known_layers
from varlen_lab.errors import InputError, first_line
from varlen_lab.packing.registry import SEAM_KEYWORDS

WATCHED: set[str] = set()  # values of attn_implementation
COLLATOR = "build the batch with varlen_lab.packing.VarlenCollator"
LIFTED: ContextVar[bool] = ContextVar("LIFTED", default=False)


@contextmanager
def lifted() -> Iterator[None]:
    """No check at any model meanwhile, in this thread: for those who measure what a model does with what they give."""
    before = LIFTED.set(True)
    try:
        yield
    finally:
        LIFTED.reset(before)


def watch_models(names: list[str]) -> None:
    """Check every call of a transformers model whose attn_implementation is one of ``names``, compiled or not."""
    from torch._dynamo import OptimizedModule
    from transformers import PreTrainedModel

    WATCHED.update(names)
    if not hasattr(PreTrainedModel.__call__, "watches"):
        for way in ("_from_config", "from_pretrained"):
            watch_building(PreTrainedModel, way)
    for kind in (PreTrainedModel, OptimizedModule):
        if not hasattr(kind.__call__, "watches"):
            watch(kind)


def watch_building(kind: Any, way: str) -> None:
    """Say in a sentence which classes look their attention up in a list of their own, that has none of ours."""
    plain = vars(kind)[way].__func__

    @wraps(plain)
    def build(cls: Any, *inputs: Any, **options: Any) -> Any:
        try:
            return plain(cls, *inputs, **options)
        except KeyError as problem:
            if problem.args and problem.args[0] in WATCHED:
                raise InputError(
                    f"{cls.__name__} takes its attention from a list of its own, without {problem.args[0]!r}; load it "
                    "with attn_implementation='eager' and train it unpacked."
                ) from None
            raise

    setattr(kind, way, classmethod(build))


def watch(kind: Any) -> None:
    """Give a class of modules a ``__call__`` that checks."""
    plain = kind.__call__

    def __call__(self: Any, *inputs: Any, **options: Any) -> Any:
        # the compiler is shown no checks: those of a compiled model are made outside of its graph
        if torch.compiler.is_compiling() or LIFTED.get() or known_from_outside(options):
            return plain(self, *inputs, **options)
        model, run = watched_in(self), partial(plain, self)
        return run(*inputs, **options) if model is None else checked_call(run, model, inputs, options)

    __call__.watches = True  # type: ignore[attr-defined]
    kind.__call__ = __call__


def known_from_outside(options: Mapping[str, Any]) -> bool:
    """Whether a call lies in one that was checked, and brings tokens no positions or seams that were not seen there."""
    outer, given = CALL.get(), {name for name, value in options.items() if value is not None}
    news = given & {"input_ids", "inputs_embeds"} and given & {"position_ids", "cu_seq_lens_q"}
    return outer is not None and (outer.told or not news)


def watched_in(module: Any) -> Any:
    """The transformers model that a module is, or that stands in what torch.compile has made of it; None: not ours."""
    from transformers import PreTrainedModel

    # a few steps: a compiled model may lie in DDP or peft
    found = next((part for part in islice(module.modules(), 5) if isinstance(part, PreTrainedModel)), None)
    ours = found is not None and getattr(found.config, "_attn_implementation", None) in WATCHED
    return found if ours else None


def checked_call(run: Any, model: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What the model gives; InputError for what it cannot be trusted with."""
    given = named(model, inputs, options)
    name, seams, positions = type(model).__name__, given.get("cu_seq_lens_q"), given.get("position_ids")
    if given.get("output_attentions") or getattr(model.config, "output_attentions", False):
        raise InputError(
            f"output_attentions=True asks {name} for weights that {model.config._attn_implementation!r} never makes; "
            "load it with attn_implementation='eager', or look with varlen_lab.leaks.attention_seen."
        )
    stray = next((other for other in SEAM_KEYWORDS if given.get(other) is not None), None)
    if seams is None and stray is not None:
        raise InputError(f"{name} was given {stray} without cu_seq_lens_q, where documents begin and end; {COLLATOR}.")
    if seams is None and isinstance(positions, torch.Tensor):
        refuse_restarts(name, positions, given)
    elif isinstance(positions, torch.Tensor):
        refuse_padding_positions(name, positions, model)
    elif isinstance(seams, torch.Tensor) and len(seams) > 2 and takes_positions(model):
        raise InputError(
            f"{name} was given cu_seq_lens_q without position_ids, so it would count tokens through all documents of a "
            f"row; {COLLATOR}, or pass boundaries.position_ids()[None]."
        )
    if isinstance(seams, torch.Tensor) and len(seams) > 2:
        refuse_states(name, model)
    tokens = given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")
    shape = tuple(tokens.shape[:2]) if isinstance(tokens, torch.Tensor) else ()
    told = positions is not None or seams is not None
    call = Call(name, shape, seams is not None, type(model.config), told)
    before = CALL.set(call)
    try:
        out = run(*inputs, **options)
    except ValueError as problem:  # a class that knows of seams and lacks the kernel that keeps them
        if isinstance(problem, InputError) or not call.seams:
            raise
        raise InputError(
            f"{name} does not run packed documents ({first_line(problem)}); do what it says, or train it unpacked."
        ) from problem
    finally:
        CALL.reset(before)
    if seams is not None:
        check_taken(call, model, one=len(seams) == 2)
    return out


def named(model: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> Mapping[str, Any]:
    """All arguments of a call of the model, by name."""
    if not inputs:
        return options
    return dict(zip(inspect.signature(model.forward).parameters, inputs, strict=False)) | options


# ------------------------------------------------------------------------------------------------ before a model runs


def refuse_restarts(name: str, positions: torch.Tensor, given: Mapping[str, Any]) -> None:
    """InputError when positions go back inside a row: packed documents whose seams nobody passed on."""
    mask = given.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 4:  # the caller says which token sees which
        return
    # positions of several planes (time, height, width) repeat inside an image: there they must go back to be a restart
    plane, repeats = (positions[0], True) if positions.ndim == 3 else (positions, False)
    if plane.ndim != 2 or plane.shape[-1] < 2:
        return
    if isinstance(mask, torch.Tensor) and mask.shape == plane.shape:
        real = mask.bool()
    else:
        real = not_padding(plane)
        # a static cache comes with a mask that was made before: zeros in front are padding then
        repeats = repeats or any(given.get(cache) is not None for cache in ("cache", "past_key_values"))
    found = first_restart(plane, real, repeats)
    if found is not None:
        row, at = found
        raise InputError(
            f"position_ids go back to {int(plane[row, at])} at token {at} of row {row} but {name} got no "
            f"cu_seq_lens_q, so attention would not know the seams; {COLLATOR}."
        )


def refuse_states(name: str, model: Any) -> None:
    """InputError for layers that are known to carry a state along the row and do not run document by document."""
    states = map(model.get_submodule, known_layers(model))
    if left := [module for module in states if document_runner(module) is None]:
        several = f"{len(left)} layers that carry" if len(left) > 1 else "a layer that carries"
        raise InputError(
            f"{name} has {several} a state from one document into the next ({class_name(left[0])}), which no attention "
            "can prevent; varlen_lab.isolate(model, batch) makes them run document by document, or train it unpacked."
        )


def not_padding(positions: torch.Tensor) -> torch.Tensor:
    """Which tokens are no padding where no mask says so: all but ones in front, and a tail of ones or of zeros."""
    front = (positions == 1).cumprod(-1).bool()
    last = positions[:, -1:]
    tail = ((positions == last) & (last <= 1)).flip(-1).cumprod(-1).flip(-1).bool()
    return ~(front | tail)


def first_restart(positions: torch.Tensor, real: torch.Tensor, repeats: bool) -> tuple[int, int] | None:
    """Row and token where the positions (B, T) of ``real`` tokens first go back, or stay; None where they never do."""
    shown = positions.masked_fill(~real, -1)
    before = shown.cummax(-1).values[:, :-1]
    back = real[:, 1:] & (shown[:, 1:] < before if repeats else shown[:, 1:] <= before)
    if not bool(back.any()):
        return None
    row, at = back.nonzero()[0].tolist()
    return row, at + 1


def refuse_padding_positions(name: str, positions: torch.Tensor, model: Any) -> None:
    """InputError when positions point at the entries that a table of positions keeps for padding."""
    size, words = getattr(model.config, "max_position_embeddings", None), model.get_input_embeddings()
    for table in model.modules():
        if not isinstance(table, torch.nn.Embedding) or table is words or table.num_embeddings != size:
            continue
        if table.padding_idx is not None and int(positions.min()) <= table.padding_idx:
            first = table.padding_idx + 1
            raise InputError(
                f"position_ids start at {int(positions.min())} and {name} counts positions from {first}, below lies "
                f"padding; add {first} to position_ids."
            )


# ----------------------------------------------------------------------------------------------------------- after it


def check_taken(call: Call, model: Any, one: bool) -> None:
    """InputError when nothing took the seams, or attention did and nothing takes positions; ``one`` needs none."""
    if not call.taken:
        raise InputError(
            f"{call.name} was given cu_seq_lens_q and no attention of ours took it, so nothing keeps its documents "
            "apart (it is dropped on the way, or layers mix tokens in code of their own); train it unpacked."
        )
    if call.attended and not one and not takes_positions(model):
        raise InputError(
            f"{call.name} takes no position_ids and counts the tokens of a row itself, through all documents; train it "
            "unpacked."
        )


def takes_positions(model: Any) -> bool:
    """Whether any part of a model, itself a model of transformers, has ``position_ids`` among its arguments."""
    from transformers import PreTrainedModel

    return any(
        "position_ids" in inspect.signature(type(part).forward).parameters
        for part in model.modules()
        if isinstance(part, PreTrainedModel)
    )
