"""The GPU benchmark's own checks, on a CPU: its plan keeps its time, nothing is lost, and its detectors detect."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import training
from benchmarks.gpu.bench import Bench, filling
from benchmarks.gpu.kernels import flops
from benchmarks.gpu.machine import look_here
from benchmarks.gpu.plan import NAMES, REPORT, SECTIONS, choose, fit
from benchmarks.gpu.runner import guarded, run_section
from benchmarks.gpu.store import Store, newest, read
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries

ROOT = Path(__file__).resolve().parent.parent
MACHINE = {"device": "NVIDIA H100", "torch": "2.11.0+cu130", "kernels": "", "packages": {}, "driver": "580"}


def bench(tmp_path: Path, seconds: float = 60) -> Bench:
    return Bench("cpu", time.monotonic() + seconds, tmp_path, rehearsal=True)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


# ------------------------------------------------------------------------------------------------- the command


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
def test_without_a_gpu_it_says_so_and_exits_2(tmp_path: Path) -> None:
    done = command("-o", str(tmp_path / "out"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: there is no NVIDIA GPU here") and len(done.stderr.splitlines()) == 1
    assert "--rehearse" in done.stderr and not (tmp_path / "out").exists()


def test_too_little_memory_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from varlen_lab.machine.gpu import GIB, GpuFacts

    facts = GpuFacts("2.11.0+cu130", "13.0", "580", "13.0", True, "NVIDIA H100", (9, 0), ("sm_90",), 79 * GIB)
    monkeypatch.setattr("varlen_lab.machine.gpu.gpu_facts", lambda: facts)
    with pytest.raises(InputError, match=r"has 79 GiB and this takes about 100; .*--rehearse"):
        look_here("cuda", 100)


def test_the_plan_can_be_read_without_a_gpu() -> None:
    done = command("--dry-run")
    assert done.returncode == 0
    assert all(section.name in done.stdout for section in SECTIONS if not section.extra)
    typo = command("--dry-run", "--sections", "kernel")
    assert typo.returncode == 2 and "did you mean 'kernels'?" in typo.stderr
    assert command("--dry-run", "--minutes", "0.1").returncode == 2


def test_a_rehearsal_runs_and_is_called_one(tmp_path: Path) -> None:
    done = command("--rehearse", "--minutes", "3", "-o", str(tmp_path), "--sections", "correctness", "masks")
    assert done.returncode == 0, done.stdout + done.stderr
    content = read(tmp_path / "results.json")
    assert content["runs"][0]["rehearsal"] and set(content["runs"][0]["sections"].values()) == {"done"}
    assert all(cell["status"] == "ok" for cell in content["cells"])
    assert all(cell["exact"] for cell in content["cells"] if cell["section"] == "correctness")
    report = (tmp_path / "report.md").read_text()
    assert "rehearsed on a CPU" in report and "No number here says anything" in report and "mask.png" in report


HALVES = [["ceilings", "correctness", "kernels", "parity", "masks", "page"], ["training", "peers"]]


@pytest.mark.slow
@pytest.mark.parametrize("names", HALVES, ids=["kernels to page", "training, peers"])
def test_every_section_runs_in_miniature(names: list[str], tmp_path: Path) -> None:
    """One half a day, to keep the slow tests within their time; VARLEN_LAB_ALL=1 runs both."""
    if HALVES.index(names) != date.today().toordinal() % 2 and not os.environ.get("VARLEN_LAB_ALL"):
        pytest.skip(f"{', '.join(names)}: the rehearsal of these sections has its turn tomorrow")
    done = command("--rehearse", "--minutes", "20", "-o", str(tmp_path), "--sections", *names)
    assert done.returncode == 0, done.stdout + done.stderr
    content = read(tmp_path / "results.json")
    went = {(cell["section"], cell["cell"]): cell["status"] for cell in content["cells"]}
    bad = {key: status for key, status in went.items() if status != "ok"}
    assert bad.keys() <= {("peers", "HF flattening, fa2")}
    assert len(list(tmp_path.iterdir())) <= 8
    told = {cell["cell"]: cell for cell in content["cells"]}
    if "page" in names:
        assert told["three losses"]["same"] and told["6 convert"]["logits_apart"] == 0
    else:
        assert len(told) == 11 + 4 and all(cell.get("tokens_per_second", 1) > 0 for cell in told.values())


def test_each_section_has_its_turn() -> None:
    assert sorted(sum(HALVES, ["lessons"])) == sorted(NAMES)  # the walkthrough runs the lessons


# ------------------------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize("minutes", [1.5, 2, 3, 5, 9, 12, 60])
@pytest.mark.parametrize("names", [None, ["training"], ["page", "lessons"], NAMES])
def test_a_plan_keeps_its_time(minutes: float, names: list[str] | None) -> None:
    chosen = choose(names)
    if min(section.least for section in chosen) > minutes * 60 - REPORT:
        with pytest.raises(InputError, match="is too short for"):
            fit(chosen, minutes)
        return
    plan = fit(chosen, minutes)
    assert plan and sum(seconds for _, seconds in plan) <= minutes * 60 - REPORT
    assert all(section.least <= seconds <= section.seconds for section, seconds in plan)
    order = [NAMES.index(section.name) for section, _ in plan]
    assert order == sorted(order)


def test_nine_minutes_hold_all_that_is_not_extra() -> None:
    assert [section.name for section, _ in fit(choose(None), 9)] == [s.name for s in SECTIONS if not s.extra]


# ---------------------------------------------------------------------------------------------------- the runner


def section(monkeypatch: pytest.MonkeyPatch, measure: Any) -> str:
    """A section of our own, which a forked process finds."""
    module = types.ModuleType("benchmarks.gpu.planted")
    module.measure = measure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "benchmarks.gpu.planted", module)
    monkeypatch.setattr("benchmarks.gpu.runner.GRACE", 0.2)
    return "planted"


def hanging(_: Bench) -> Any:
    yield {"cell": "first"}
    time.sleep(60)


def dying(_: Bench) -> Any:
    yield {"cell": "first"}
    import os

    time.sleep(0.2)
    os._exit(7)


def failing(_: Bench) -> Any:
    yield {"cell": "first"}
    raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize(
    ("measure", "word"),
    [
        (hanging, "ended by force after 1 s"),
        (dying, "its process died (exit code 7)"),
        (failing, "failed: RuntimeError: CUDA error: an illegal memory access"),
        (lambda bench: iter([{"cell": "first"}]), "done"),
    ],
    ids=["hangs", "dies", "fails", "well"],
)
def test_whatever_becomes_of_a_section_its_cells_stay(
    measure: Any, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list = []
    start = time.monotonic()
    how = run_section(section(monkeypatch, measure), 0.8, "cpu", tmp_path, True, kept.append)
    assert how == word and [cell["cell"] for cell in kept] == ["first"]
    assert time.monotonic() - start < 8


def test_a_cell_that_cannot_is_named(tmp_path: Path) -> None:
    def raising(problem: Exception) -> Any:
        def work() -> Any:
            raise problem

        return work

    here = bench(tmp_path)
    cases = {
        "out of memory": torch.OutOfMemoryError("CUDA out of memory"),
        "unsupported": RuntimeError("FlashAttention only supports head dims 64 and 128"),
        "failed": ValueError("shapes"),
    }
    for status, problem in cases.items():
        assert guarded(here, "x", 0, raising(problem))["status"] == status
    late = guarded(bench(tmp_path, seconds=1), "x", 5, dict)
    assert late["status"] == "not reached" and "were left of 5" in late["why"]


# ----------------------------------------------------------------------------------------------------- the store


def run(**changes: Any) -> dict[str, Any]:
    base = {"command": "python -m benchmarks.gpu", "commit": "abc", "started": "now", "machine": MACHINE}
    return {**base, "rehearsal": False, **changes}


def test_calls_are_merged_and_other_cards_are_not(tmp_path: Path) -> None:
    first = Store(tmp_path, run())
    first.add("kernels", {"cell": "a", "value": 1})
    first.add("kernels", {"cell": "b", "value": 2})
    other = Store(tmp_path, run(machine={**MACHINE, "device": "NVIDIA H200"}))
    other.add("kernels", {"cell": "a", "value": 99})
    again = Store(tmp_path, run())
    again.add("kernels", {"cell": "a", "value": 3})
    again.add("kernels", {"cell": "b", "status": "not reached", "why": ""})
    again.close("kernels", "done")
    content = read(tmp_path / "results.json")
    assert len(content["runs"]) == 3 and content["runs"][2]["sections"] == {"kernels": "done"}
    assert {cell["cell"]: cell["value"] for cell in newest(content).values()} == {"a": 3, "b": 2}
    rehearsed = Store(tmp_path, run(rehearsal=True))
    rehearsed.add("kernels", {"cell": "a", "value": 0})
    assert [cell["value"] for cell in newest(rehearsed.content).values()] == [0]


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", "{}", '{"runs": 1, "cells": []}'):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(InputError, match="is no results file"):
            Store(tmp_path, run())
    assert (tmp_path / "results.json").read_text() == text


# ------------------------------------------------------------------------------------------------- what is measured


def test_flops_by_hand() -> None:
    """Documents of 2 and 3 tokens have 3 + 6 pairs; two products, two operations each, 4 heads of 8: 4 * 9 * 32."""
    assert flops(Boundaries.from_lengths([2, 3]), heads=4, width=8) == 4 * 9 * 4 * 8


@pytest.mark.parametrize("total", [1, 600, 32768])
def test_lengths_fill_a_row(total: int) -> None:
    lengths = filling(total, 600, 4096)
    assert sum(lengths) == total and min(lengths) >= 1 and max(lengths) <= 4096


@pytest.mark.parametrize("row", [128, 256, 512])
def test_all_four_ways_take_the_same_documents(row: int, tmp_path: Path) -> None:
    here = bench(tmp_path)
    for rows in training.documents_of_steps(here, row)[:3]:
        documents = [document for one in rows for document in one]
        wanted = Counter(int(token) for document in documents for token in document[1:])
        slots = {}
        for mode in ("A padded", "B grouped", "C packed", "D varlen"):
            batches = training.batches(mode, rows, here, row, padded=4)
            trained = Counter(int(t) for batch in batches for t in batch.labels.flatten() if t != -100)
            assert trained == wanted
            assert sum(batch.tokens for batch in batches) == sum(map(len, documents))
            assert sum(batch.sum_squared_lengths for batch in batches) == sum(len(one) ** 2 for one in documents)
            slots[mode] = sum(batch.labels.numel() for batch in batches)
        assert slots["D varlen"] <= slots["C packed"] and slots["D varlen"] <= slots["B grouped"]
        assert slots["D varlen"] == sum(map(len, documents))


def test_less_memory_is_tried_before_giving_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list = []

    def run(*args: Any) -> dict[str, Any]:
        tried.append(args[-2:])
        if len(tried) < 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {}

    monkeypatch.setattr(training, "run", run)
    monkeypatch.setattr(training, "ways_to_fit", lambda *_: [None, "cheap", "all"])
    training.measured(bench(tmp_path), "7B", "A padded", 256, False, "sdpa")
    assert tried == [(4, None), (4, "cheap"), (4, "all"), (2, "all")]
    tried.clear()
    with pytest.raises(torch.OutOfMemoryError):
        training.measured(bench(tmp_path), "7B", "D varlen", 256, False, "sdpa")
    assert tried == [(4, None), (4, "cheap"), (4, "all")]


def test_a_model_too_large_is_recomputed_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TinyLlama keeps 45 * 16384 * 22 * 2048 = 33 GB, 7B 97 GB beside 54 GB of weights: with 78 GiB only the first."""
    here = Bench("cpu", time.monotonic() + 60, tmp_path)
    small, large = here.scale.models.values()
    sizes = {78: (None, "all"), 139: (None, "cheap")}
    for gib, (first, second) in sizes.items():
        monkeypatch.setattr(Bench, "memory", lambda self, gib=gib: gib * 2.0**30)
        assert training.ways_to_fit(here, small, "D varlen", 16384)[0] == first
        assert training.ways_to_fit(here, large, "D varlen", 16384)[0] == second
        assert training.ways_to_fit(here, large, "D varlen", 16384)[-1] == "all"
