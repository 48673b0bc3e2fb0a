"""``report.md``: what was asked, what came out, on what. From ``results.json`` alone, so it can be made again:

python -m benchmarks.gpu.report DIR
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.figures import draw_all
from benchmarks.gpu.goals import judge
from benchmarks.gpu.plan import SECTIONS
from benchmarks.gpu.store import Cell, kind, newest, read

Cells = Mapping[tuple[str, str], Cell]
PLACES = {"kernels.png": "kernels", "training.png": "training", "parity.png": "parity", "mask.png": "masks"}
KEPT_FIGURES = {
    "mask.png": "The mask a live model used, asked of its own attention, beside the one that was promised.",
    "three_losses.png": "The three losses of notebook 08, run on this device.",
}
# the columns of each section's table: heading -> key; None: the section has words of its own
COLUMNS: dict[str, dict[str, str]] = {
    "ceilings": {"": "cell", "TFLOP/s": "tflops", "TB/s": "terabytes_per_second", "ms": "milliseconds"},
    "correctness": {
        "backend": "cell",
        "out": "error out",
        "dq": "error dq",
        "dk": "error dk",
        "dv": "error dv",
        "torch's out": "torch's out",
        "isolated": "isolated",
        "leak": "leak",
        "exact": "exact",
    },
    "kernels": {
        "kernel": "kernel",
        "head width": "width",
        "documents": "mix",
        "tokens": "tokens",
        "forward TFLOP/s": "forward_tflops",
        "with backward": "both_tflops",
        "ms": "both_ms",
    },
    "training": {
        "model": "model",
        "documents fed": "mode",
        "row": "row",
        "compiled": "compiled",
        "recomputed": "recomputed",
        "real tokens/s": "tokens_per_second",
        "MFU": "mfu",
        "peak GiB": "peak_gib",
        "fill": "fill",
        "step p50 s": "step_p50",
        "p95": "step_p95",
        "kernel": "kernel",
    },
    "peers": {
        "trainer": "cell",
        "real tokens/s": "tokens_per_second",
        "attention": "attention",
        "tokens a batch": "tokens_a_batch",
    },
    "parity": {
        "": "cell",
        "worst step": "varlen_apart",
        "end": "varlen_final",
        "cosine": "cosine",
        "packed, worst step": "packed_apart",
        "same": "same",
        "control differs": "control_differs",
    },
    "masks": {"kernel": "cell", "share across seams": "crossing"},
    "page": {"step": "cell", "seconds": "took", "tokens/s": "tokens_per_second", "logits apart": "logits_apart"},
    "lessons": {"notebook": "cell", "seconds": "seconds"},
}


def write(folder: Path, content: dict[str, Any]) -> list[Path]:
    """Draw the figures and write ``report.md``; the files, results first."""
    cells = newest(content)
    caption = caption_of(content)
    drawn = draw_all(folder, cells, caption)
    drawn |= {name: told for name, told in KEPT_FIGURES.items() if (folder / name).exists()}
    path = folder / "report.md"
    unfinished = path.with_name("report.md.tmp")
    unfinished.write_text(text_of(content, cells, drawn), encoding="utf-8")
    os.replace(unfinished, path)
    return [folder / "results.json", path, *(folder / name for name in drawn)]


def caption_of(content: dict[str, Any]) -> str:
    """Device, precision, versions, seed in one line."""
    run = content["runs"][-1]
    machine = run["machine"]
    word = "rehearsal, measures nothing · " if run.get("rehearsal") else ""
    dtype = "fp32" if run.get("rehearsal") else "bf16"
    flash = f" · flash-attn {machine['flash_attn']}" if machine.get("flash_attn") else ""
    return f"{word}{machine['device']} · {dtype} · torch {machine['torch']}{flash} · seed 0 · commit {run['commit']}"


def text_of(content: dict[str, Any], cells: Cells, drawn: Mapping[str, str]) -> str:
    run = content["runs"][-1]
    title = "# Varlen attention, rehearsed on a CPU" if run.get("rehearsal") else "# Varlen attention on a GPU"
    parts = [title, caption_of(content) + "."]
    if run.get("rehearsal"):
        parts.append("**Every section in miniature, to see that it runs. No number here says anything about speed.**")
    else:
        parts.append(goals_table(cells))
    for section in SECTIONS:
        found = [cell for (where, _), cell in cells.items() if where == section.name]
        if found:
            parts.append(f"## {section.name.capitalize()}: {section.what}")
            shown = [name for name in drawn if PLACES.get(name, "lessons") == section.name]
            parts += [f"![{drawn[name]}]({name})" for name in shown]
            parts.append(section_table(COLUMNS[section.name], found))
    parts.append(runs_table(content))
    return "\n\n".join(part for part in parts if part) + "\n"


def goals_table(cells: Cells) -> str:
    """Every goal with its three levels; met or not, and why not."""
    rows = []
    for verdict in judge(cells):
        goal = verdict.goal
        levels = " / ".join(number(level) for level in (goal.must, goal.goal, goal.stretch))
        value = "" if verdict.value is None else number(verdict.value) + goal.unit
        rows.append(
            [
                goal.name,
                value,
                levels,
                f"**{verdict.word}**" if verdict.value is not None else verdict.word,
                verdict.why,
            ]
        )
    return "## Goals\n\n" + table(["", "measured", "must / goal / stretch", "reached", "note"], rows)


def section_table(columns: Mapping[str, str], found: Sequence[Cell]) -> str:
    """The cells that went well as a table, the others as lines below it."""
    well = [cell for cell in found if cell["status"] == "ok"]
    kept = {head: key for head, key in columns.items() if any(cell.get(key) is not None for cell in well)}
    rows = [[number(cell.get(key)) for key in kept.values()] for cell in well]
    others = [f"* {cell['cell']}: {cell['status']}. {cell.get('why', '')}" for cell in found if cell["status"] != "ok"]
    return "\n\n".join(part for part in (table(list(kept), rows) if rows else "", "\n".join(others)) if part)


def runs_table(content: dict[str, Any]) -> str:
    """Every call whose cells may be above."""
    last = content["runs"][-1]
    rows = []
    for run in content["runs"]:
        if kind(run) != kind(last):
            continue
        ends = "; ".join(f"{name} {how}" for name, how in run["sections"].items() if how != "done") or "all done"
        rows.append([run["started"], f"`{run['command']}`", run["commit"], ends])
    machine = last["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    facts = (
        f"Driver {machine['driver']}, CUDA {machine['cuda']}, Python {machine['python']}, {machine['cores']} cores; "
    )
    facts += f"{packages}."
    return "## Runs\n\n" + table(["started", "command", "commit", "sections"], rows) + "\n\n" + facts


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(cell.replace("|", "·") for cell in row) + " |" for row in rows)])


def number(value: Any) -> str:
    """A number with as many digits as it deserves; words as they are."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10000 else str(value)
    if isinstance(value, float):
        if value == 0:
            return "0"
        if abs(value) < 1e-3:
            return f"{value:.1e}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    print(*write(where, read(where / "results.json")), sep="\n")
