"""Kept measurements as lessons read them: the numbers of the file, the newest cell of each, a sentence for none."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from expect import refused

from varlen_lab.course import find_lesson, gpu_training, kept_results, real_effect


def run(arm: str, seed: int, end: float) -> dict[str, object]:
    settings = {"model": "pip:m", "steps": 4, "max_length": 512}
    on = {"device": "cpu", "dtype": "fp32", "torch": "2"}
    losses = {"loss": [4.0, 3.0, 2.0, 1.0], "held_out": {"0": 3.0, "4": end}}
    return {"arm": arm, "seed": seed, "settings": settings, "measured_on": on} | losses


def cell(mode: str, row: int, rate: float, number: int, **more: object) -> dict[str, object]:
    known = {"section": "training", "status": "ok", "cell": f"{mode}{row}", "compiled": False, "fill": 1.0}
    return known | {"mode": mode, "row": row, "tokens_per_second": rate, "run": number, "peak_gib": 40.0} | more


def kept(monkeypatch, folder, content: object) -> None:
    folder.mkdir()
    (folder / "results.json").write_text(content if isinstance(content, str) else json.dumps(content))
    monkeypatch.setattr(kept_results, "kept_folders", lambda: [folder])


def test_differences_are_taken_seed_by_seed(tmp_path, monkeypatch) -> None:
    ends = {("varlen", 0): 1.0, ("varlen", 1): 2.0, ("packed", 0): 1.1, ("packed", 1): 2.3}
    arms = [run(arm, seed, end) for (arm, seed), end in ends.items()]
    kept(monkeypatch, tmp_path / "2026-01-01-real-effect", {"arms": arms, "forward": []})
    effect = real_effect()
    row = {one["trained"]: one for one in effect.table()}["packed"]
    assert row["minus varlen"] == pytest.approx(0.2) and row["standard error"] == pytest.approx(0.1)
    held, training = effect.curves(parts=2)
    assert held["packed"] == ([0, 4], [3.0, pytest.approx(1.7)])
    assert training["varlen"] == ([1.0, 3.0], [3.5, 1.5])
    assert effect.caption == "m · 4 steps of a row of 512 · 2 seeds · cpu · fp32 · torch 2"


def test_the_kept_file_says_what_the_lesson_says() -> None:
    effect = real_effect()
    ends = {row["trained"]: row["held-out loss"] for row in effect.table()}
    assert ends["unpacked"] == pytest.approx(ends["varlen"], abs=1e-5)
    assert ends["varlen"] < ends["packed"] < ends["restarting"]
    quarters = effect.training("restarting").mean(axis=0)
    assert all(later < earlier for earlier, later in pairwise(quarters))
    assert {row["rows of"] for row in effect.before_training()} == {512, 1024, 2048, 4096}


def test_the_newest_cell_of_a_card_counts_and_no_compiled_one(tmp_path, monkeypatch) -> None:
    machine = {"name": "CARD", "torch": "2", "packages": {"flash-attn": "2.8"}}
    cells = [cell("D varlen", 16, 200.0, 1), cell("D varlen", 16, 100.0, 0), cell("C packed", 16, 50.0, 0)]
    cells += [cell("D varlen", 16, 999.0, 1, compiled=True, cell="c"), cell("A padded", 16, 1.0, 1, status="failed")]
    content = {"runs": [{"machine": machine}, {"machine": machine}], "cells": cells}
    kept(monkeypatch, tmp_path / "2026-01-01-card", content)
    gpu = gpu_training()
    assert gpu is not None and gpu.gains() == {16: 4.0}
    assert {name for name, *_ in gpu.bars(16)} == {"varlen", "packed"}
    assert gpu.claim(16) == "Tokens a second of varlen: 4.00× packed; rows of 16"
    assert gpu.caption == "CARD · bf16 · torch 2 · flash-attn 2.8"


def test_rehearsals_and_nothing_are_no_result(tmp_path, monkeypatch) -> None:
    content = {"runs": [{"rehearsal": True, "machine": {}}], "cells": [cell("D varlen", 16, 1.0, 0)]}
    kept(monkeypatch, tmp_path / "2026-01-01-card", content)
    assert gpu_training() is None
    with refused("no folder"):
        real_effect()


def test_a_file_that_is_none_is_a_sentence(tmp_path, monkeypatch) -> None:
    kept(monkeypatch, tmp_path / "2026-01-01-real-effect", "{")
    with refused("git checkout brings it back"):
        real_effect()


def shown(lesson: str) -> str:
    """The words of all kept outputs of a lesson, figures by what they say to those who do not see them."""
    notebook = find_lesson(lesson).notebook
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(text for o in outputs for kind, text in o.get("data", {}).items() if kind.startswith("text/"))


def test_lessons_are_kept_with_the_newest_measurement() -> None:
    """Who merges a result refreshes the lesson that shows it; the walkthrough alone would say so minutes later."""
    gpu, effect = gpu_training(), real_effect()
    assert gpu is not None
    told = {
        "16_where_it_pays": [gpu.claim(16384), *(f">{gain:.2f}<" for gain in gpu.gains().values())],
        "11_another_training": [effect.caption, *(f">{row['held-out loss']:.4f}<" for row in effect.table())],
    }
    for lesson, words in told.items():
        stale = [word for word in words if word not in shown(lesson)]
        assert not stale, f"{lesson} is kept without {stale}; python docs/refresh.py {lesson[:2]} brings them in"
