"""``varlen-lab check-env``: what this machine can run, ending in a calculation instead of a promise.

The check packs three documents into one row, runs the attention that ``auto`` takes here, and compares with
each document alone through the reference in float64. For contrast it says how far ordinary causal attention,
which ignores the seams, is off. Then the routes to other kernels: which are here, which would fit this card and by what
command, and what each cannot do.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

from varlen_lab.errors import InputError, first_line
from varlen_lab.machine import console
from varlen_lab.machine.environment import PACKAGES, Row, survey, version
from varlen_lab.machine.gpu import DTYPES, automatic_device, automatic_dtype, gpu_facts
from varlen_lab.packing.registry import STRATEGIES

if TYPE_CHECKING:
    from varlen_lab.attention.routes import Route

LENGTHS = (70, 300, 180)
MARKS = {"ok": ("✓", "green"), "note": ("·", "yellow"), "missing": ("✗", "red")}
NAMES = 14  # columns for the name of a row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The machine is the input."""
    parser.add_argument("--json", action="store_true", help="print JSON, for a report of a fault")


def run(args: argparse.Namespace) -> int:
    """Print the rows as they are found; 0 when everything needed is there and the check holds, else 2."""
    if not args.json:
        console.say("varlen_lab on this machine")
    rows: list[Row] = []
    for row in all_rows():
        rows.append(row)
        if not args.json:
            mark, colour = MARKS[row.state]
            console.say(row.value, mark=(f"{mark} {row.name:<{NAMES}} ", colour), hang=NAMES + 3)
    ok = all(row.state != "missing" for row in rows)
    if args.json:
        found = {"ok": ok, "versions": versions(), "device": automatic_device(gpu_facts())}
        console.print_json(found | {"rows": [row._asdict() for row in rows]})
    else:
        advise(rows, ok)
    return 0 if ok else 2


def all_rows() -> Iterator[Row]:
    """The machine, then attention and the cache where the machine has all that they need."""
    ok = True
    for row in survey():
        ok = ok and row.state != "missing"
        yield row
    if ok:
        yield from attention_rows()
        yield from cache_rows()
    strategies = ", ".join(name for name, strategy in STRATEGIES.items() if strategy.setting)
    yield Row("packing", f"pack_strategy can be {strategies}")


def advise(rows: list[Row], ok: bool) -> None:
    """The commands that would bring or mend something, and what comes next."""
    if commands := [row for row in rows if row.command]:
        console.say("")
        console.say("What would bring or mend them:")
        for row in commands:
            console.say_command(row.command, before=f"  {row.name}: ")
    console.say("")
    if ok:
        console.say(f" Next: varlen-lab {next_verb()}", mark=("Ready.", "green"))
    else:
        console.say(f" see the rows marked {MARKS['missing'][0]} above.", mark=("Not ready:", "red"))


def next_verb() -> str:
    """The walk through the lessons where there are any; installed from a wheel there are none."""
    from varlen_lab.course.lessons import find_lessons

    try:
        find_lessons()
    except InputError:
        return "audit --model MODEL"
    return "walkthrough"


def versions() -> dict[str, str | None]:
    """Of everything whose version a fault may depend on; None for what is not installed."""
    from varlen_lab import __version__

    ours = {"varlen_lab": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return ours | {package: version(package) for package in PACKAGES}


def attention_rows() -> Iterator[Row]:
    """The backend ``auto`` takes here with the numeric check of it, and the routes to the others.

    A kernel that imports may still fail, or compute something else, once it is run: that is a fault of the one
    ``auto`` takes, and a note for the others.
    """
    import torch

    from varlen_lab.attention.choosing import choose
    from varlen_lab.attention.routes import kernel_routes

    facts = gpu_facts(ask_driver=False)
    device = automatic_device(facts)
    dtype = getattr(torch, DTYPES[automatic_dtype(device, facts)])
    taken = choose(device, dtype, facts=facts)
    yield Row("attention", f"auto takes '{taken}' ({device}, {str(dtype).removeprefix('torch.')})")
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    try:
        parity, leak = numeric_check(taken, device, dtype)
    except Exception as problem:  # whatever a kernel throws is the finding
        yield Row("check", f"'{taken}' fails: {first_line(problem)}", "missing")
    else:
        words = f"{' + '.join(map(str, LENGTHS))} tokens in one row differ by {parity:.0e} from each alone"
        yield Row("check", words, "ok" if parity <= tolerance else "missing")
        yield Row("contrast", f"attention that ignores the seams differs by {leak:.1f}")
    elsewhere: dict[str, list[str]] = {}
    for route in kernel_routes(facts):
        if route.state == "no":
            elsewhere.setdefault(route.why, []).append(route.name)
        elif route.state != "here" or route.name == taken or route.note:  # a note: compiled or downloaded first
            yield Row(route.name, route.sentence(), "ok" if route.state == "here" else "note", route.command)
        else:
            yield checked(route, device, dtype, tolerance)
    for why, names in elsewhere.items():
        yield Row("not here", f"{', '.join(names)}: {why}", "note")


def checked(route: Route, device: str, dtype: object, tolerance: float) -> Row:
    """The row of a kernel that is here, with what the numeric check found."""
    try:
        parity, _ = numeric_check(route.name, device, dtype)
    except Exception as problem:
        return Row(route.name, f"imports and fails: {first_line(problem)}", "note")
    return Row(
        route.name, f"{route.sentence()}; checked, differs by {parity:.0e}", "ok" if parity <= tolerance else "note"
    )


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
