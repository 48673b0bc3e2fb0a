"""``report.md`` and its pictures: what was asked, what came out, on what. From ``results.json`` alone, so it can be
made again: ``python -m benchmarks.gpu.report DIR``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.goals import CARD, judge
from benchmarks.gpu.plan import SECTIONS
from benchmarks.gpu.runner import described
from benchmarks.gpu.store import BAD, FULL, RATE, ROW, Cell, Cells, alike, ends, newest, read, varlen_kernels, well
from varlen_lab.errors import InputError
from varlen_lab.files.writing import written_whole

SHORT = 600  # characters of a traceback's end that the report shows
# of a cell, what is no column of its section's table
ASIDE = {"run", "section", "cell", "status", "why", "traceback", "caption", "took", "exact", "bytes", "size"}
ASIDE |= {"kernel", "width", "mix", "mode", "row", "compiled", "layers", "documents", "weights", "title", "attention"}
HEADS = ("", "measured", "must / goal / stretch", "reached", "what of")
ROLES = {"D": "own", "C": "crossing"}  # of the ways to feed documents, by their first letter


def write(folder: Path, content: dict[str, Any]) -> list[Path]:
    """Draw the pictures and write ``report.md``; the files, results first. A picture that fails is a line of it."""
    cells = newest(content)
    drawn: dict[str, str] = {}
    for section, draw in (("kernels", kernels_figure), ("training", training_figure), ("parity", parity_figure)):
        try:
            if figure := draw(cells, caption_of(content, well(cells, section))):
                figure.savefig(folder / f"{section}.png")
                drawn[section] = f"![{figure.alt_text}]({section}.png)"
        except Exception as problem:  # the numbers are in the table below it
            drawn[section] = f"The picture could not be drawn: {type(problem).__name__}: {problem}"
    if (folder / "mask.png").exists():
        told = "The mask a live model used, asked of its own attention, beside the one that was promised."
        drawn["masks" if any(where == "masks" for where, _ in cells) else "smoke"] = f"![{told}](mask.png)"
    with written_whole(folder / "report.md", "w") as file:
        file.write(text_of(content, cells, drawn))
    return [folder / "results.json", folder / "report.md", *sorted(folder.glob("*.png"))]


def kernels_figure(cells: Cells, caption: str) -> Any:
    """Forward and backward, by head dim; None without cells."""
    from varlen_lab.viz import draw_speeds

    found = well(cells, "kernels")
    mixes = sorted({cell["mix"] for cell in found}, key=lambda mix: float(mix.split()[-1].replace(",", "")))
    speeds: dict[str, dict[str, list[float | None]]] = {}
    for cell in sorted(found, key=lambda cell: cell["width"]):
        panel = speeds.setdefault(f"head dim {cell['width']}", {})
        panel.setdefault(cell["kernel"], [None] * len(mixes))[mixes.index(cell["mix"])] = cell["both_tflops"]
    roles = dict.fromkeys(varlen_kernels(), "own") | {FULL: "crossing"}
    names = [mix.replace("lognormal ", "~") for mix in mixes]
    return draw_speeds(speeds, names, roles, caption=caption) if found else None


def training_figure(cells: Cells, caption: str) -> Any:
    """Every way to feed the same documents in rows of 16k, peers too, and gains by row length; None without cells."""
    from varlen_lab.viz import Rate, draw_rates

    found = well(cells, "training")
    if not found:
        return None
    row = ROW if any(cell["row"] == ROW for cell in found) else found[0]["row"]
    bars = [Rate(cell["cell"], cell[RATE]) for cell in well(cells, "peers")]
    for cell in (cell for cell in found if cell["row"] == row):
        ways = [cell["mode"][2:], *["compiled"] * cell["compiled"]]
        ways += [] if cell["recomputed"] == "nothing" else [f"{cell['recomputed']} recomputed"]
        memory = f" · {cell['peak_gib']:.0f} GiB" if cell.get("peak_gib") else ""
        bars.append(Rate(", ".join(ways), cell[RATE], memory, ROLES.get(cell["mode"][0], "other")))
    rates = {(cell["mode"], cell["row"]): cell[RATE] for cell in found if not cell["compiled"]}
    pairs = [row for mode, row in sorted(rates) if mode == "C packed" and ("D varlen", row) in rates]
    gains = {f"{row:,}": rates["D varlen", row] / rates["C packed", row] for row in pairs}
    mine = rates.get(("D varlen", row))
    parts = [f"{mine / rate:.2f}× {mode[2:]}" for (mode, at), rate in sorted(rates.items()) if mine and at == row]
    claim = f"Tokens a second of varlen: {', '.join(parts[:-1])}" if parts[:-1] else ""
    unit = f"real tokens a second, peak memory; rows of {row:,}"
    return draw_rates(bars, gains, claim=claim, unit=unit, caption=caption)


def parity_figure(cells: Cells, caption: str) -> Any:
    """The three losses; None without them."""
    from varlen_lab.viz import draw_losses

    found = well(cells, "parity")
    if not found:
        return None
    losses, caption = found[0]["losses"], found[0]["caption"]
    return draw_losses(losses, caption=caption, rounding=None if "fp32" in caption else 0.0)


def caption_of(content: dict[str, Any], told: Iterable[Cell] = ()) -> str:
    """Device, precision, versions, seed in one line, and the commits of the calls that these cells are from."""
    run = content["runs"][-1]
    machine, numbers = run["machine"], sorted({cell["run"] for cell in told}) or [-1]
    commits = ", ".join(dict.fromkeys(content["runs"][number]["commit"] for number in numbers))
    word, dtype = ("rehearsal, measures nothing · ", "fp32") if run.get("rehearsal") else ("", "bf16")
    return f"{word}{machine['device']} · {dtype} · torch {machine['torch']} · seed 0 · commit {commits}"


def text_of(content: dict[str, Any], cells: Cells, drawn: Mapping[str, str]) -> str:
    run = content["runs"][-1]
    title = "# Varlen attention, rehearsed on a CPU" if run.get("rehearsal") else "# Varlen attention on a GPU"
    parts = [title, caption_of(content, cells.values()) + "."]
    if run.get("rehearsal"):
        parts.append("**Every section in miniature, to see that it runs. No number here says anything about speed.**")
    else:
        note = f"Measured on {run['machine']['device']}. The goals are those of one {CARD} SXM; nothing is scaled."
        parts += ["## Goals", note, goals_table(cells, HEADS)]
    if problems := problems_of(content, cells):
        parts.append("## What did not go well\n\n" + "\n".join(f"* {one}" for one in problems))
    for section in SECTIONS:
        found = [cell for (where, _), cell in cells.items() if where == section.name]
        if found:
            parts += [f"## {section.name.capitalize()}: {section.what}", drawn.get(section.name, "")]
            parts.append(section_table(found, merged=len(alike(content)) > 1))
    parts.append(runs_table(content))
    return "\n\n".join(part for part in parts if part) + "\n"


def goal_rows(cells: Cells) -> Iterator[tuple[str, str, str, str, str]]:
    """Of every goal its name, what was measured, its levels, met or not, and what of."""
    for goal, value, word, why in judge(cells):
        levels = " / ".join(dict.fromkeys(number(level) for level in (goal.must, goal.goal, goal.stretch)))
        measured = "" if value is None else number(value) + goal.unit
        yield goal.name, measured, ("< " if goal.below else "") + levels, word, why


def goals_table(cells: Cells, heads: Sequence[str]) -> str:
    return table(heads, [[*before, f"**{word}**", why] for *before, word, why in goal_rows(cells)])


def missed(cells: Cells) -> list[str]:
    """Goals whose must is not reached, each a line with the reason."""
    found = [row for row in goal_rows(cells) if row[3] in ("missed", "not measured")]
    return [
        f"{name}: {word}, {measured or 'nothing'} of {levels} ({why})" for name, measured, levels, word, why in found
    ]


def problems_of(content: dict[str, Any], cells: Cells) -> list[str]:
    """Sections that did not end well in the newest call that has them, wrong cells, kernels that are not here."""
    run = content["runs"][-1]
    died = [f"{name}: {how}" for name, how in ends(content).items() if how != "done"]
    bad = [f"{where}, {one['cell']}: {one['why']}" for (where, _), one in cells.items() if one["status"] in BAD]
    missing = {} if run.get("rehearsal") else run["machine"].get("not_here", {})
    return died + bad + [f"{name} was not measured: {why}" for name, why in missing.items()]


def section_table(found: Sequence[Cell], merged: bool = False) -> str:
    """The cells that came out as a table, the others as lines below it, with the end of their tracebacks.

    ``merged``: of several calls, so that each cell says which it is from.
    """
    told = [cell for cell in found if cell["status"] in ("ok", "wrong")]
    plain = {key for cell in told for key, value in cell.items() if isinstance(value, (int, float, str))}
    kept = [key for key in dict.fromkeys(key for cell in told for key in cell) if key in plain - ASIDE]
    calls = ["call"] * merged
    rows = [
        [cell["cell"], *(number(cell.get(key)) for key in kept), *(str(cell["run"] + 1) for _ in calls)]
        for cell in told
    ]
    parts = [table(["", *(key.replace("_", " ") for key in kept), *calls], rows)] if rows else []
    less = [(f" (call {one['run'] + 1})" * merged, one) for one in found if one["status"] != "ok"]
    parts.append("\n".join(f"* {one['cell']}{call}: {one['status']}. {one['why']}" for call, one in less))
    stacks = [
        f"```\n{cell['traceback'][-SHORT:]}\n```" for cell in found if cell["status"] in BAD and cell.get("traceback")
    ]
    return "\n\n".join(part for part in (*parts, *stacks[:3]) if part)


def runs_table(content: dict[str, Any]) -> str:
    """Every call whose cells may be above, and what they ran on."""
    rows, machine = [], content["runs"][-1]["machine"]
    for call, run in alike(content):
        times = [f"{name} {facts['how']}, {facts['seconds']:.0f} s" for name, facts in run["sections"].items()]
        rows.append([str(call + 1), run["started"], f"`{run['command']}`", run["commit"], "; ".join(times)])
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    facts = f"Driver {machine['driver']}, CUDA {machine['built_for']}, Python {machine['python']}, {packages}."
    return "## Runs\n\n" + table(["call", "started", "command", "commit", "sections"], rows) + f"\n\n{facts}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(cell.replace("|", "·") for cell in row) + " |" for row in rows)])


def number(value: Any) -> str:
    """A number with as many digits as it deserves; words as they are."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def main(words: Sequence[str]) -> int:
    """Make the report of a folder again; 2 and a sentence where that cannot be."""
    try:
        if len(words) != 1:
            raise InputError("give the one folder whose report to make: python -m benchmarks.gpu.report DIR.")
        print(*write(Path(words[0]), read(Path(words[0], "results.json"))), sep="\n")
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except Exception as problem:  # numbers of another kind than ours
        print(f"error: {words[0]} has no such results ({described(problem)}); give another folder.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
