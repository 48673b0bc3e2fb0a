"""``varlen-lab check-env``: what this machine can run, ending in a calculation instead of a promise.

The check packs three documents into one row, runs the attention that ``auto`` takes here, and compares with
each document alone through the reference in float64. For contrast it says how far ordinary causal attention,
which ignores the seams, is off.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from varlen_lab.machine.environment import Row, accelerator, survey
from varlen_lab.packing.registry import STRATEGIES

LENGTHS = (70, 300, 180)
MARKS = {"ok": "[green]✓[/]", "note": "[yellow]·[/]", "missing": "[red]✗[/]"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments: the machine is the input."""


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 when everything needed is there and the check holds, else 2."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="varlen_lab on this machine", title_justify="left", show_header=False, box=None)
    for style in ("", "bold", ""):
        table.add_column(style=style, overflow="fold")
    console = Console()
    rows: list[Row] = []
    with console.status("looking at this machine"):
        rows += survey()
        if all(row.state != "missing" for row in rows):
            rows += attention_rows()
            rows += cache_rows()
        strategies = ", ".join(name for name, strategy in STRATEGIES.items() if strategy.setting)
        rows.append(Row("packing", f"pack_strategy can be {strategies}"))
    for row in rows:
        table.add_row(MARKS[row.state], row.name, escape(row.value))
    console.print(table)
    if any(row.state == "missing" for row in rows):
        console.print("\n[red]Not ready:[/] see the rows marked ✗ above.")
        return 2
    console.print("\n[green]Ready.[/] Next: varlen-lab walkthrough")
    return 0


def attention_rows() -> Iterator[Row]:
    """The backend ``auto`` takes here, and the numeric check with that one and with every other one that is here.

    A kernel that imports may still fail, or compute something else, once it is run: that is a fault of the one
    ``auto`` takes, and a note for the others.
    """
    import torch

    from varlen_lab.attention.dispatch import choose, usable

    on_gpu = accelerator() is not None
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    taken = choose(device, dtype)
    kind = str(dtype).removeprefix("torch.")
    yield Row("attention", f"auto takes '{taken}' ({device}, {kind})")
    others = [name for name in usable(device, dtype) if name != taken]
    for backend in [taken, *others]:
        fault: Any = "missing" if backend == taken else "note"
        name = "check" if backend == taken else f"check {backend}"
        try:
            parity, leak = numeric_check(backend, device, dtype)
        except Exception as problem:  # whatever a kernel throws is the finding
            yield Row(name, f"'{backend}' fails: {problem}", fault)
            continue
        documents = " + ".join(map(str, LENGTHS))
        words = f"{documents} tokens in one row differ by {parity:.0e} from each alone"
        tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
        yield Row(name, words, "ok" if parity <= tolerance else fault)
        if backend == taken:
            yield Row("contrast", f"attention that ignores the seams differs by {leak:.1f}")


def numeric_check(backend: str, device: str, dtype: object) -> tuple[float, float]:
    """How far the packed row, and the row with its seams ignored, are from each document alone (maximum)."""
    import torch

    from varlen_lab.attention.dispatch import attend
    from varlen_lab.packing.boundaries import Boundaries

    generator = torch.Generator().manual_seed(0)
    total = sum(LENGTHS)
    q, k, v = (
        torch.randn(total, heads, 64, generator=generator).to(device=device, dtype=dtype)  # type: ignore[call-overload]
        for heads in (4, 2, 2)
    )

    def attention(lengths: list[int]) -> torch.Tensor:
        return attend(q, k, v, Boundaries.from_lengths(lengths, device), backend=backend).double()

    def alone(tokens: slice) -> torch.Tensor:
        document = Boundaries.from_lengths([tokens.stop - tokens.start], device)
        q64, k64, v64 = (x[tokens].double() for x in (q, k, v))
        return attend(q64, k64, v64, document, backend="reference")

    ends = [sum(LENGTHS[: i + 1]) for i in range(len(LENGTHS))]
    expected = torch.cat([alone(slice(end - length, end)) for length, end in zip(LENGTHS, ends)])
    packed, full = attention(list(LENGTHS)), attention([total])
    return (packed - expected).abs().max().item(), (full - expected).abs().max().item()


def cache_rows() -> Iterator[Row]:
    """Where the built-in corpus and tokenizer are kept, and whether that place can be written."""
    import os

    from varlen_lab.files.writing import cache_dir

    folder = cache_dir()
    nearest_existing = next(place for place in (folder, *folder.parents) if place.exists())
    writable = os.access(nearest_existing, os.W_OK)
    hint = "" if writable else " cannot be written: set VARLEN_LAB_CACHE to a folder that can"
    yield Row("cache", f"{folder}{hint}", "ok" if writable else "missing")
