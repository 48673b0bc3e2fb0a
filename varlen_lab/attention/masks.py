"""The mask function of our names in transformers: a closed mask, which only our attention opens.

transformers builds masks before the layers run, when it cannot know yet that ``cu_seq_lens`` will make them
superfluous; and some models add their mask to scores of their own, where a bool mask would be a number without a word.
So a model is handed an object that stands for the mask: slices that cut nothing off leave it as it is, others make an
altered one, and whoever takes it for numbers is told that this model computes attention in its own code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from varlen_lab.attention.calls import model_name
from varlen_lab.attention.rules import Rule, rule_of
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import OncePerTensor

Change = Callable[[torch.Tensor], torch.Tensor]
HIDDEN = OncePerTensor(lambda padding: int((padding == 0).sum()))  # tokens that a mask of (rows, tokens) hides


class TakenForNumbers(InputError, AttributeError):
    """A model asked the closed mask for numbers. An AttributeError too, so that ``hasattr`` may ask."""


class DeferredMask:
    """A mask that is built when our attention asks: (B, 1, Q, L) bool, True where a query sees a key.

    ``rule``: what it means inside a document. ``changes``: what a model did to it, in order.
    """

    def __init__(self, options: dict[str, Any], rule: Rule, changes: tuple[Change, ...] = ()) -> None:
        self.options = options
        self.rule = rule
        self.changes = changes
        self.built: dict[bool, torch.Tensor | None] = {}  # layers share a mask

    @property
    def shape(self) -> torch.Size:
        """(B, 1, Q, L), before any change."""
        return torch.Size((self.options["batch_size"], 1, self.options["q_length"], self.options["kv_length"]))

    @property
    def ndim(self) -> int:
        """4: transformers takes masks of two dimensions for padding."""
        return 4

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one number of it."""
        return self.shape if dim is None else self.shape[dim]

    def to(self, *where: Any, **options: Any) -> DeferredMask:
        """Itself for another device, where it is built once the queries are there; numbers of a dtype it has none."""
        if any(isinstance(each, torch.dtype | torch.Tensor) for each in (*where, *options.values())):
            refuse_numbers("to")
        return self

    def contiguous(self) -> DeferredMask:
        """Itself."""
        return self

    def __getitem__(self, index: Any) -> DeferredMask:
        each = index if isinstance(index, tuple) else (index,)
        if len(each) <= 4 and all(keeps_all(part, self.shape[dim]) for dim, part in enumerate(each)):
            return self
        return self.changed(lambda mask: mask[index])

    def __and__(self, other: Any) -> DeferredMask:
        return self.changed(lambda mask: mask & other)

    __rand__ = __and__

    def changed(self, change: Change) -> DeferredMask:
        """The mask after one more change: still closed, but seams no longer tell what it means."""
        return DeferredMask(self.options, self.rule, (*self.changes, change))

    def open(self, causal: bool) -> torch.Tensor | None:
        """The mask as transformers' sdpa path would have made it; None: all keys, or with ``causal`` no later ones.

        All options go on by name: their number and their defaults differ between the versions of transformers.
        """
        if causal not in self.built:
            self.built[causal] = self.build(causal)
        return self.built[causal]

    def build(self, causal: bool) -> torch.Tensor | None:
        """``open``, the first time."""
        from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

        options = self.options
        if causal is not self.rule.causal:
            if not self.rule.plain or self.changes:
                raise InputError(
                    f"is_causal={causal} came to {model_name()} with a mask that has a window or parts of its own, "
                    "and what these mean for later tokens is not known; leave is_causal out."
                )
            options = options | {"mask_function": bidirectional_mask_function}
        if self.changes:
            options = options | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        mask: torch.Tensor | None = sdpa_mask(**options)
        for change in self.changes:
            assert mask is not None  # nothing may be left out
            mask = change(mask)
        return mask

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = getattr(function, "__name__", "an operation of torch").strip("_")
        if name in ("and", "rand", "bitwise_and", "logical_and"):
            mine, other = arguments if isinstance(arguments[0], DeferredMask) else arguments[::-1]
            return mine & other
        refuse_numbers(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy, pickle and the like ask, and go on without
            raise AttributeError(name)
        refuse_numbers(name)

    def __eq__(self, other: object) -> Any:
        if other is self or other is None or isinstance(other, DeferredMask):
            return other is self
        refuse_numbers("eq")

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        refuse_numbers("bool")


def numbers(name: str) -> Callable[..., Any]:
    """An operator of Python that numbers have and a closed mask has not."""

    def refused(self: DeferredMask, *others: Any) -> Any:
        refuse_numbers(name)

    return refused


OPERATORS = "add radd sub rsub mul rmul truediv rtruediv neg invert or ror xor rxor lt le gt ge float int len"
for _name in OPERATORS.split():
    setattr(DeferredMask, f"__{_name}__", numbers(_name))


def refuse_numbers(operation: str) -> NoReturn:
    """Raise: a model took the closed mask for numbers, by this operation."""
    raise TakenForNumbers(
        f"{model_name()} computes with its attention mask itself ({operation}), in code where our attention has no "
        "say; load it with attn_implementation='eager' and train it unpacked."
    )


def keeps_all(part: Any, length: int) -> bool:
    """Whether an index of one dimension leaves it as it is."""
    if part is Ellipsis:
        return False
    return (
        isinstance(part, slice)
        and part.step in (None, 1)
        and (part.start is None or part.start == 0)
        and (part.stop is None or part.stop >= length)
    )


def varlen_mask(**options: Any) -> DeferredMask:
    """The mask function of our names: a closed mask for every call, packed, padded or generating."""
    given = options.get("attention_mask")
    if isinstance(given, DeferredMask):  # generate makes masks before the model, which makes them again
        return given
    mask = DeferredMask(options, rule_of(options))
    if options["q_length"] != options["kv_length"] or options["q_length"] == 1:
        mask.open(mask.rule.causal)  # generation with a cache: small, needed, and best not left to a compiled step
    return mask


def open_mask(
    mask: torch.Tensor | DeferredMask | None, module: torch.nn.Module, is_causal: bool | None, queries: int, keys: int
) -> tuple[torch.Tensor | None, bool]:
    """A mask opened for attention without seams, and whether a query sees no later key where the mask is None."""
    causal = causal_rule(mask, module, is_causal)
    if isinstance(mask, DeferredMask):
        if not mask.changes and mask.shape[-1] != keys:
            raise InputError(
                f"{model_name()} has {keys} keys for {mask.shape[-1]} tokens, keys of its own that no mask tells of; "
                "load it with attn_implementation='eager' and train it unpacked."
            )
        mask = mask.open(causal)
    return mask, queries > 1 and causal  # in this order: to the compiler a comparison may be a symbol


def causal_rule(mask: Any, module: torch.nn.Module, is_causal: bool | None) -> bool:
    """Whether attention is causal: by the mask, unless ``is_causal=False`` came with the call.

    Without a mask it is as transformers' sdpa has it: ``is_causal``, else the module's own, else True. InputError where
    a module that is not causal comes with a mask that is: transformers' sdpa obeys the one and eager the other.
    """
    own = getattr(module, "is_causal", None)
    if not isinstance(mask, DeferredMask):
        return bool(is_causal) if is_causal is not None else own is not False
    if mask.rule.causal and is_causal is None and own is False:
        raise InputError(
            f"{type(module).__name__} has is_causal=False and its mask is causal, transformers' sdpa obeys the first "
            "and eager the second; pass is_causal=False to the model, or load it with attn_implementation='eager'."
        )
    return mask.rule.causal and is_causal is not False


def rule_with_seams(mask: Any, module: torch.nn.Module, is_causal: bool | None, sliding_window: int | None) -> Rule:
    """What attention computes inside documents; InputError where a mask says more than seams and a rule can.

    Where the mask has a window, and where it has none, it is the mask that counts, as in eager attention.
    """
    causal = causal_rule(mask, module, is_causal)
    if mask is None:
        return Rule(causal, sliding_window)
    if not isinstance(mask, DeferredMask) or mask.changes:
        what = "a mask that its code has changed" if isinstance(mask, DeferredMask) else "a mask of four dimensions"
        raise InputError(
            f"cu_seq_lens_q came to {model_name()} with {what}, which may say more than seams; leave attention_mask "
            "out, or train it unpacked."
        )
    rule = mask.rule
    if rule.unknown is not None:
        raise InputError(
            f"the mask of {model_name()} has a part that is not known to keep inside documents ({rule.unknown}); train "
            "it unpacked."
        )
    if sliding_window is not None and sliding_window != rule.window:
        raise InputError(
            f"{model_name()} hands its attention sliding_window={sliding_window} and a mask whose window is "
            f"{rule.window}, kernels obey the first and eager the second; train it unpacked."
        )
    if not causal and (rule.window is not None or rule.chunk is not None):
        raise InputError(
            f"{model_name()} has a window or a chunk and is to see later tokens, and how many of them is not known; "
            "train it unpacked."
        )
    padding = mask.options.get("attention_mask")
    if padding is not None and not torch.compiler.is_compiling() and HIDDEN(padding):
        raise InputError(
            f"attention_mask hides {HIDDEN(padding)} tokens of a packed row whose cu_seq_lens_q came with it; leave "
            "attention_mask out, seams say it all."
        )
    return rule._replace(causal=causal)
