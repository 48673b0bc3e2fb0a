"""Where does a packed document first become something else than alone, if no gradient and no attention call shows it?

Every module is watched twice, packed and alone: the innermost that are given the same and return something else are the
origins of the difference. Rotary embeddings with dynamic scaling or two sets of frequencies, for example, choose them
from the longest position of the whole row: in a row of short and long documents the short ones are turned as if they
were long, and neither a mask nor ``cu_seq_lens`` changes that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from varlen_lab.errors import plural
from varlen_lab.leaks.measure import in_float64
from varlen_lab.leaks.report import Finding, grouped
from varlen_lab.leaks.running import HALF, as_if_alone, host_of, inputs_of, run, run_alone, text_positions
from varlen_lab.models.isolation import inside
from varlen_lab.packing.boundaries import Boundaries

RUN_ON, COUNTS = "position_ids not restarted", "depends on the row"  # kinds of findings
SAME, OTHER = 1e-5, 1e-4  # differences, as a share of the largest value: rounding at most; more (fp32)

Tensors = dict[str, torch.Tensor]  # by the name of an argument, or the place in an output
Layout = Callable[[torch.Tensor, int, int], torch.Tensor | None]  # (x, rows, T) -> (rows * T, columns), or no such x


@dataclass
class Origin:
    """A module that makes something else of some documents than alone; ``moved``: it is given other positions, too."""

    path: str
    module: torch.nn.Module
    documents: set[int] = field(default_factory=set)
    moved: bool = False


class Row:
    """What came into a call of a packed row, or out: of each tensor two numbers for every token."""

    def __init__(self, tensors: Tensors, rows: int, length: int) -> None:
        self.kept: dict[str, tuple[Layout, int, torch.Tensor]] = {}  # how it lies along the row, columns, numbers
        for name, x in tensors.items():
            for layout in LAYOUTS:
                if (laid := layout(x, rows, length)) is not None:
                    self.kept[name] = layout, laid.shape[1], numbers(laid)
                    break

    def same(self, alone: Tensors, start: int, end: int, whole: bool, limit: float = SAME) -> bool:
        """Whether one document has the same in all tensors of whole numbers, or of others, as ``alone``."""
        for name in self.kept.keys() & alone.keys():
            if (alone[name].is_floating_point() or alone[name].is_complex()) is not whole:
                layout, columns, mine = self.kept[name]
                laid = layout(alone[name], 1, end - start)
                if laid is None or laid.shape[1] != columns:  # masks, which are as wide as their row
                    continue
                mine, its = mine[start:end], numbers(laid)
                coarse = 1000 if alone[name].dtype in HALF else 1
                if float((mine - its).abs().max()) > limit * coarse * max(1.0, float(its.abs().max())):
                    return False
        return True


def origins(model: Any, batch: Mapping[str, Any], documents: Boundaries) -> list[Finding]:
    """A finding for each class of modules in which a difference begins. Call it under ``noise_off``."""
    ids, (rows, length) = batch["input_ids"], batch["input_ids"].shape
    packed: dict[str, list[tuple[Row, Row]]] = {}
    found: dict[str, Origin] = {}

    def keep(path: str, module: torch.nn.Module, given: Tensors, made: Tensors) -> None:
        packed.setdefault(path, []).append((Row(given, rows, length), Row(made, rows, length)))

    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        with watched(model, keep):
            run(model, inputs_of(batch))
        with as_if_alone(model):
            for number, span in enumerate(documents.spans):
                waiting = {path: iter(calls) for path, calls in packed.items()}
                with watched(model, compare_with(waiting, found, number, span)):
                    run_alone(model, ids.flatten()[slice(*span)])
    innermost = [one for one in found.values() if not any(inside(other, one.path) for other in found)]
    # a module that is given other positions is to blame only where no other explains the difference
    chosen = [one for one in innermost if not one.moved] or innermost
    names = dict.fromkeys(type(one.module).__name__ for one in chosen)
    config = getattr(host_of(model), "config", None)
    positions = text_positions(batch)
    restart = positions is not None and torch.equal(positions.flatten(), documents.position_ids())
    return [finding_of(config, restart, [one for one in chosen if type(one.module).__name__ == name]) for name in names]


def compare_with(
    waiting: dict[str, Iterator[tuple[Row, Row]]], found: dict[str, Origin], number: int, span: tuple[int, int]
) -> Callable[[str, torch.nn.Module, Tensors, Tensors], None]:
    """What to do with every call of document ``number`` alone: note the modules in which a difference begins."""

    def compare(path: str, module: torch.nn.Module, given: Tensors, made: Tensors) -> None:
        call = next(waiting.get(path, iter(())), None)
        if call is None or not call[0].same(given, *span, whole=False):
            return
        if not call[1].same(made, *span, whole=False, limit=OTHER):
            one = found.setdefault(path, Origin(path, module))
            one.documents.add(number)
            one.moved |= not call[0].same(given, *span, whole=True)

    return compare


def finding_of(config: Any, restart: bool, modules: list[Origin]) -> Finding:
    """What to say of modules of one class; of rotary embeddings, the config's key that makes them so.

    ``restart``: whether the batch's position_ids start at 0 in every document.
    """
    where = grouped(type(modules[0].module).__name__, [one.path for one in modules])
    count = plural(len(set[int]().union(*(one.documents for one in modules))), "document")
    if any(one.moved for one in modules) and restart:
        what = f"{count} at other positions than alone, where this class does not count from 0"
        fix = "let position_ids start in every document where the class starts by itself (often pad_token_id + 1)"
        return Finding("position_ids offset", where, what, fix)
    if any(one.moved for one in modules):
        what = f"{count} at other positions in the row than alone, and it makes something else of them"
        fix = "let position_ids start again at 0 in every document; VarlenCollator does"
        return Finding(RUN_ON, where, what, fix)
    kind = getattr(modules[0].module, "rope_type", None)
    if kind is None:
        what = f"it is given the same as alone and returns something else in {count}: it counts along the row"
        return Finding(COUNTS, where, what, "train this model unpacked; position_ids do not reach it")
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    longest = parameters.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
    return Finding(
        "rope scaling",
        f"{where} (config.rope_parameters: rope_type {kind!r})",
        f"its frequencies are chosen from the longest position of the row, which turns {count} otherwise than alone",
        f"keep documents longer than {longest} tokens in rows of their own, or train this model unpacked",
    )


@contextmanager
def watched(model: Any, note: Callable[[str, torch.nn.Module, Tensors, Tensors], None]) -> Iterator[None]:
    """Call ``note(path, module, given, made)`` after every call of a module meanwhile."""

    def hook(path: str) -> Callable[..., None]:
        def after(module: torch.nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
            note(path, module, tensors_in({"": args} | options), tensors_in({"": output}))

        return after

    handles = [one.register_forward_hook(hook(path), with_kwargs=True) for path, one in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensors_in(values: Mapping[str, Any]) -> Tensors:
    """All tensors, those in tuples, lists and dicts as well, under names that tell where they were."""
    found: Tensors = {}
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, Mapping):
            found |= tensors_in({f"{name}.{key}": one for key, one in value.items()})
        elif isinstance(value, tuple | list):
            found |= tensors_in({f"{name}.{number}": one for number, one in enumerate(value)})
    return found


def rows_first(x: torch.Tensor, rows: int, length: int) -> torch.Tensor | None:
    """(rows, T, ...), or (1, T, ...) for all rows -> (rows * T, -1)."""
    if x.ndim < 2 or x.shape[0] not in (1, rows) or x.shape[1] != length:
        return None
    return x.expand(rows, *x.shape[1:]).reshape(rows * length, -1)


def end_to_end(x: torch.Tensor, rows: int, length: int) -> torch.Tensor | None:
    """(rows * T, C) as it is."""
    return x if x.ndim == 2 and len(x) == rows * length else None


def rows_second(x: torch.Tensor, rows: int, length: int) -> torch.Tensor | None:
    """(planes, rows, T, ...), as positions of images and text come -> (rows * T, -1)."""
    return rows_first(x.transpose(0, 1).transpose(1, 2), rows, length) if x.ndim > 2 else None


LAYOUTS = (rows_first, end_to_end, rows_second)


def numbers(laid: torch.Tensor) -> torch.Tensor:
    """Two numbers for every token, float64 (tokens, 2), in which two that differ will differ."""
    laid = torch.view_as_real(laid).flatten(1) if laid.is_complex() else laid
    weights = torch.randn(laid.shape[1], 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return in_float64(laid) @ weights.to(in_float64(laid))
