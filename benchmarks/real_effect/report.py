"""From the pieces of a folder to ``results.json``, tables and a picture: what was found, and whether arms are what they
are called.

    python -m benchmarks.real_effect.report runs/real-effect benchmarks/results/2026-11-26-real-effect
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real_effect.arms import ARMS, quarters
from benchmarks.real_effect.forward import COMPARED
from benchmarks.real_effect.picture import draw_held_out
from benchmarks.real_effect.pieces import read_piece
from benchmarks.verdict import verdict
from varlen_lab.errors import InputError, plural
from varlen_lab.files.writing import written_whole

SAME = 1e-5  # of the loss, fp32: two exact runs differ by less in their first step, another training by more
BASE = "varlen"

Runs = dict[str, dict[int, dict[str, Any]]]  # arm -> seed -> piece


def report(folder: Path, target: Path) -> int:
    """Write what the pieces of ``folder`` say to ``target``, print the tables; 1 when an arm is not what it is called.

    A target that holds a results.json of other pieces is replaced. InputError when the folder has no pieces.
    """
    arms = [read_piece(path) for path in sorted(folder.glob("arm-*.json"))]
    tables = [read_piece(path) for path in sorted(folder.glob("forward-*.json"))]
    if not arms and not tables:
        raise InputError(f"{folder} has no pieces of a measurement; run python -m benchmarks.real_effect -o {folder}.")
    runs, text = whole_seeds(arms), in_words(arms, tables)
    target.mkdir(parents=True, exist_ok=True)
    if runs:
        draw_held_out(held_out(runs), caption_of(arms[0], runs)).savefig(target / "held_out.png")
    for name, content in (
        ("results.json", json.dumps({"arms": arms, "forward": tables}, indent=1) + "\n"),
        ("report.md", text),
    ):
        with written_whole(target / name, "w") as file:
            file.write(content)
    print(f"\n{text}\n{target}: {', '.join(sorted(one.name for one in target.iterdir() if one.is_file()))}")
    return verdict(checks(runs, tables))


def whole_seeds(arms: list[dict[str, Any]]) -> Runs:
    """The pieces by arm and seed, of those seeds that every arm has: differences are taken seed by seed."""
    runs: Runs = {}
    for piece in arms:
        runs.setdefault(piece["arm"], {})[piece["seed"]] = piece
    seeds = set.intersection(*(set(of) for of in runs.values())) if runs else set()
    ordered = {arm: runs[arm] for arm in ARMS if arm in runs}
    return {arm: {seed: of[seed] for seed in sorted(seeds)} for arm, of in ordered.items()} if seeds else {}


def held_out(runs: Runs) -> dict[str, dict[int, list[float]]]:
    """Arm -> step -> held-out loss of each seed."""
    return {
        arm: {
            int(step): [piece["held_out"][step] for piece in of.values()]
            for step in next(iter(of.values()))["held_out"]
        }
        for arm, of in runs.items()
    }


# ------------------------------------------------------------------------------------------------------- in words


def in_words(arms: list[dict[str, Any]], tables: list[dict[str, Any]]) -> str:
    """``report.md``."""
    lines = ["# Does it matter for my model?", "", *training_lines(arms, whole_seeds(arms)), *forward_lines(tables)]
    return "\n".join(lines).rstrip() + "\n"


def training_lines(arms: list[dict[str, Any]], runs: Runs) -> list[str]:
    """Markdown of what the trainings found; empty without a seed that every arm has."""
    if not runs:
        return []
    found, seeds = held_out(runs), len(next(iter(runs.values())))
    steps = list(next(iter(found.values())))
    measured, settings = arms[0]["measured_on"], arms[0]["settings"]
    lines = [
        f"{settings['model']}, {settings['data']}: {settings['steps']} steps of one row of {settings['max_length']} "
        f"tokens, AdamW, lr {settings['lr']:g}, the same rows in every arm; {plural(seeds, 'seed')}.",
        f"{measured['device']}, {measured['dtype']}, {measured['threads']} thread(s), torch {measured['torch']}, "
        f"transformers {measured['transformers']}, `{arms[0]['command']}`, library at {arms[0]['commit']}.",
        f"Rows: {settings['packing']}.",
        "",
        f"Loss of {settings['held_out']} held-out documents, each alone; mean over seeds, and the last step minus "
        "varlen's, seed by seed (mean ± standard deviation over seeds):",
        "",
        "| arm | " + " | ".join(f"step {step}" for step in steps) + " | minus varlen |",
        "|---|" + "---|" * (len(steps) + 1),
    ]
    for arm, of in found.items():
        cells = [f"{np.mean(of[step]):.4f}" for step in steps]
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {paired(found, arm, steps[-1])} |")
    parts = {arm: [quarters(piece["loss"]) for piece in of.values()] for arm, of in runs.items()}
    names = ("first quarter", "second", "third", "last")[: len(next(iter(parts.values()))[0])]
    lines += [
        "",
        "Training loss, mean over seeds:",
        "",
        "| arm | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    lines += [
        f"| {arm} | " + " | ".join(f"{value:.3f}" for value in np.mean(of, axis=0)) + " |" for arm, of in parts.items()
    ]
    return [*lines, ""]


def paired(found: dict[str, dict[int, list[float]]], arm: str, step: int) -> str:
    """``+0.0123 ± 0.0045``: an arm minus varlen at a step, over seeds; without ± where there is one seed."""
    if arm == BASE or BASE not in found:
        return ""
    gaps = np.subtract(found[arm][step], found[BASE][step])
    if not gaps.any():
        return "0"
    small = np.abs(gaps).max() < 1e-4
    mean = f"{gaps.mean():+.0e}" if small else f"{gaps.mean():+.4f}"
    if len(gaps) == 1:
        return mean
    return f"{mean} ± {gaps.std(ddof=1):.0e}" if small else f"{mean} ± {gaps.std(ddof=1):.4f}"


def forward_lines(tables: list[dict[str, Any]]) -> list[str]:
    """Markdown of the forward-only tables."""
    lines = []
    for piece in tables:
        settings = piece["settings"]
        lines += [
            f"Before any training, {settings['model']} on {settings['data']}: {piece['documents']} documents, "
            f"{piece['tokens']:,} tokens, the same in rows of every length ({piece['longer_left_out']} longer ones "
            "left out); loss of the answers, difference ± standard error over documents:",
            "",
            "| rows of | varlen | packed − varlen | restarting − varlen |",
            "|---|---|---|---|",
        ]
        for length, row in piece["rows"].items():
            gaps = [row[f"{mode} - {BASE}"] for mode in COMPARED[1:]]
            cells = [f"{gap['mean']:+.4f} ± {gap['standard_error']:.4f}" for gap in gaps]
            lines.append(f"| {int(length):,} | {row[BASE]:.4f} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def caption_of(piece: dict[str, Any], runs: Runs) -> str:
    """What the picture was measured on."""
    settings, measured = piece["settings"], piece["measured_on"]
    return (
        f"{settings['model']}, {settings['data']}, rows of {settings['max_length']}, lr {settings['lr']:g}, seeds "
        f"{', '.join(map(str, next(iter(runs.values()))))}; {measured['device']}, {measured['dtype']}"
    )


# --------------------------------------------------------------------------------------- are they what they are called?


def checks(runs: Runs, tables: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """What must hold whatever was found: sentences, and whether each does."""
    found: list[tuple[str, bool]] = []
    facts = ("device", "dtype", "torch", "transformers")
    places = {tuple(piece["measured_on"][name] for name in facts) for of in runs.values() for piece in of.values()}
    if runs:
        found.append((f"every arm was measured with one {', '.join(facts)}", len(places) == 1))
    for seed in next(iter(runs.values()), {}):
        pieces = {arm: of[seed] for arm, of in runs.items()}
        alike = len({(piece["plan"], tuple(piece["trained_tokens"])) for piece in pieces.values()}) == 1
        found.append((f"seed {seed}: every arm trained on the same tokens in the same steps", alike))
        before = [piece["held_out"]["0"] for piece in pieces.values()]
        found.append((f"seed {seed}: every arm began at one held-out loss", gap(max(before), min(before)) <= SAME))
        for arm, piece in pieces.items():
            first = gap(piece["loss"][0], pieces[BASE]["loss"][0])
            if arm == "unpacked":
                worst = max(gap(a, b) for a, b in zip(piece["loss"], pieces[BASE]["loss"], strict=True))
                words = f"unpacked is varlen in step 1 ({first:.0e} of the loss; {worst:.0e} in the worst later one)"
                found.append((f"seed {seed}: {words}", first <= SAME))
            elif arm != BASE:
                found.append((f"seed {seed}: {arm} is not varlen in step 1 ({first:.0e} of the loss)", first > SAME))
    for piece in tables:
        data, rows = piece["settings"]["data"], piece["rows"].values()
        worst = max(row["first_of_row"] for row in rows)
        found.append((f"{data}: the first document of a row costs the same in all modes ({worst:.0e})", worst <= SAME))
        costs = [row[BASE] for row in rows]
        found.append((f"{data}: under varlen the row length changes nothing", gap(max(costs), min(costs)) <= SAME))
    return found


def gap(one: float, other: float) -> float:
    """How far two losses are apart, as a share of the second."""
    return abs(one - other) / abs(other)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_effect.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="that python -m benchmarks.real_effect -o wrote")
    parser.add_argument(
        "target", type=Path, nargs="?", help="where results.json, report.md and held_out.png go (the folder)"
    )
    args = parser.parse_args()
    try:
        return report(args.folder, args.target or args.folder)
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
