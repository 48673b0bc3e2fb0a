"""Is a token of a packed document told the position it has alone? Modules that turn positions into vectors are asked.

Rotary embeddings with dynamic scaling or two sets of frequencies choose them from the longest position of the whole
row. In a row of short and long documents the short ones are then turned as if they were long: no attention mask and no
``cu_seq_lens`` changes that, and no gradient shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from varlen_lab.leaks.report import Finding
from varlen_lab.leaks.running import as_if_alone, host_of, inputs_of, run, run_alone
from varlen_lab.packing.boundaries import Boundaries


class Told(NamedTuple):
    """One call of such a module: positions (..., T), and what they became, each (..., T, D)."""

    module: torch.nn.Module
    positions: torch.Tensor
    vectors: list[torch.Tensor]


def position_faults(model: Any, batch: Mapping[str, Any], documents: Boundaries) -> list[Finding]:
    """A finding for each class of module that treats positions of a packed document otherwise than alone."""
    ids = batch["input_ids"]
    length = ids.shape[1]
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        with position_modules(model, ids) as packed:
            run(model, inputs_of(batch))
        turned: dict[str, tuple[torch.nn.Module, set[int]]] = {}
        moved: dict[str, tuple[torch.nn.Module, set[int]]] = {}
        with as_if_alone(model):
            for number, (start, end) in enumerate(documents.spans):
                mine = ids.reshape(1, -1)[:, start:end]
                with position_modules(model, mine) as alone:
                    run_alone(model, mine[0])
                for call, other in zip(packed, alone, strict=False):
                    if call.module is not other.module:
                        break
                    row, first = divmod(start, length)
                    pairs = zip(call.vectors, other.vectors, strict=True)
                    if all(same(part_of(x, len(ids), row, first, end - start), y) for x, y in pairs):
                        continue
                    positions = part_of(call.positions[..., None], len(ids), row, first, end - start)
                    kept = torch.equal(positions.flatten(), other.positions.flatten())
                    where = turned if kept else moved
                    where.setdefault(type(call.module).__name__, (call.module, set()))[1].add(number)
    findings = [scaling_finding(host_of(model), name, module, found) for name, (module, found) in turned.items()]
    for name, (_, found) in moved.items():
        what = f"{len(found)} documents have other positions in the row than alone, and this module knows no others"
        fix = "let position_ids start again at 0 in every document; VarlenCollator does"
        findings.append(Finding("position_ids not restarted", name, what, fix))
    return findings


def scaling_finding(host: Any, name: str, module: torch.nn.Module, found: set[int]) -> Finding:
    """What to say of vectors that depend on the row; of rotary embeddings, the config's key that makes them so."""
    config = getattr(host, "config", None)
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    longest = parameters.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
    kind = getattr(module, "rope_type", None)
    if kind is None:
        what = f"it makes other vectors of the tokens of {len(found)} documents than alone: it counts along the row"
        return Finding("own positions", name, what, "train this model unpacked; position_ids do not reach it")
    return Finding(
        "rope scaling",
        f"{name} (config.rope_parameters: rope_type {kind!r})",
        f"its frequencies are chosen from the longest position of the row, so {len(found)} shorter documents are "
        "turned otherwise than alone",
        f"keep documents longer than {longest} tokens in rows of their own, or train unpacked",
    )


@contextmanager
def position_modules(model: Any, ids: torch.Tensor) -> Iterator[list[Told]]:
    """Calls of all modules that make vectors of positions and of nothing else, meanwhile.

    Such a module is given whole numbers, one for each token (some are given ids, and count for themselves); and it has
    no weights to mix hidden states with, or is given none.
    """
    told: list[Told] = []

    def note(module: torch.nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        given = [x for x in (*args, *options.values()) if isinstance(x, torch.Tensor)]
        positions = [x for x in given if not x.is_floating_point() and x.shape[-1:] == ids.shape[1:]]
        if not positions or positions[0].dtype == torch.bool:
            return
        if any(x.is_floating_point() for x in given) and any(True for _ in module.parameters()):
            return
        made = output if isinstance(output, tuple | list) else (output,)
        vectors = [x for x in made if isinstance(x, torch.Tensor) and x.ndim > 1 and x.shape[-2] == ids.shape[1]]
        told.append(Told(module, positions[0], vectors))

    innermost = [module for module in model.modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(note, with_kwargs=True) for module in innermost]
    try:
        yield told
    finally:
        for handle in handles:
            handle.remove()


def part_of(x: torch.Tensor, rows: int, row: int, first: int, count: int) -> torch.Tensor:
    """The tokens of one document: (..., T, D) with rows or one for all in front -> (..., 1, count, D)."""
    if x.ndim > 2 and x.shape[-3] == rows:
        x = x[..., row : row + 1, :, :]
    return x[..., first : first + count, :]


def same(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether two vectors of one position are equal up to rounding."""
    return bool((x - y).abs().max() <= 1e-5 * max(1.0, float(y.abs().max())))
