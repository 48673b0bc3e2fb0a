"""The GPU benchmark's own checks, on a CPU: its clock is kept, nothing is lost, what is measured is what is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import house
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu import machine, training
from benchmarks.gpu import tests as pytest_section
from benchmarks.gpu.bench import TINYLLAMA, Bench, filling, llama
from benchmarks.gpu.kernels import flops
from benchmarks.gpu.plan import NAMES, REPORT, SECTIONS, START, chosen, clock, share
from benchmarks.gpu.runner import run_apart
from benchmarks.gpu.store import Store, newest, read
from varlen_lab.course.lessons import find_lessons
from varlen_lab.errors import InputError
from varlen_lab.machine.gpu import GIB, GpuFacts
from varlen_lab.packing.boundaries import Boundaries

ROOT = Path(__file__).resolve().parent.parent
MACHINE = {"device": "NVIDIA H100", "torch": "2.11.0+cu130", "kernels": [], "packages": {}, "driver": "580"}


def bench(tmp_path: Path, seconds: float = 60) -> Bench:
    return Bench("cpu", time.monotonic() + seconds, tmp_path, rehearsal=True)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words], cwd=ROOT, capture_output=True, text=True, timeout=600
    )


# ------------------------------------------------------------------------------------------------- the command


def test_it_is_small() -> None:
    counted = {path.name: house.code_lines(path.read_text()) for path in (ROOT / "benchmarks" / "gpu").glob("*.py")}
    assert sum(counted.values()) <= 1200, counted


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
def test_without_a_gpu_it_says_so_and_exits_2(tmp_path: Path) -> None:
    done = command("-o", str(tmp_path / "out"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: there is no NVIDIA GPU here") and len(done.stderr.splitlines()) == 1
    assert "--rehearse" in done.stderr and not (tmp_path / "out").exists()


H100 = GpuFacts("2.11.0+cu130", "13.0", "580", "13.0", True, "NVIDIA H100", (9, 0), ("sm_90",), 79 * GIB)
OLD_DRIVER = GpuFacts("2.11.0+cu130", "13.0", "535", "12.2")
T4 = GpuFacts("2.11.0+cu130", "13.0", "580", "13.0", True, "Tesla T4", (7, 5), ("sm_75",), 15 * GIB)


@pytest.mark.parametrize(
    ("facts", "memory", "words"),
    [
        (H100, 100, r"has 79 GiB and this takes about 100; .*--rehearse"),
        (T4, 4, r"Tesla T4 has compute capability 7.5 and this needs 8.0 .*--rehearse"),
        (OLD_DRIVER, 4, r"driver 535 runs CUDA up to 12.2; update the driver.*--rehearse"),
    ],
    ids=["memory", "capability", "driver"],
)
def test_what_the_card_cannot_do_is_one_sentence(
    facts: GpuFacts, memory: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("varlen_lab.machine.gpu.gpu_facts", lambda: facts)
    with pytest.raises(InputError, match=words) as caught:
        machine.facts_of("cuda", memory)
    assert "\n" not in str(caught.value)


def test_a_device_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varlen_lab.machine.gpu.gpu_facts", lambda: time.sleep(60))
    monkeypatch.setattr(machine, "ANSWER", 1.5)
    with pytest.raises(InputError, match=r"could not be asked what it is \(ended by force after 2 s; .*nvidia-smi"):
        machine.facts_of("cuda", 4)


def test_a_kernel_that_does_not_import_is_a_sentence_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varlen_lab.machine.gpu.why_unusable", lambda *_: None)
    monkeypatch.setattr("varlen_lab.attention.choosing.import_problem", lambda name: f"{name} does not import (symbol)")
    (facts,) = machine.look_here("cuda", 4)
    assert facts["not_here"]["torch_varlen"] == "cannot be loaded: torch.nn.attention.varlen does not import (symbol)"
    assert "reference" not in facts["not_here"] and facts["kernels"] == ["sdpa"]


def test_the_clock_can_be_read_without_a_gpu() -> None:
    done = command("--dry-run")
    assert done.returncode == 0
    names = re.findall(r"s  (\w+)", done.stdout)
    assert names == ["start", *(section.name for section in SECTIONS if not section.extra), "report"]
    assert done.stdout.splitlines()[-2].startswith(" 348 to  360 s")  # all six minutes are planned
    typo = command("--dry-run", "--sections", "kernel")
    assert typo.returncode == 2 and "did you mean 'kernels'?" in typo.stderr
    assert command("--dry-run", "--minutes", "0.1").returncode == 2


def test_the_smoke_of_a_rehearsal_is_called_one(tmp_path: Path) -> None:
    done = command("--rehearse", "--smoke", "-o", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    content = read(tmp_path / "results.json")
    run = content["runs"][0]
    assert run["rehearsal"] and {name: facts["how"] for name, facts in run["sections"].items()} == {"smoke": "done"}
    told = {cell["cell"]: cell for cell in content["cells"]}
    assert all(cell["status"] == "ok" for cell in told.values())
    assert told["sdpa, 8/2 heads"]["exact"] and {"product", "copy", "a training step", "a picture"} < set(told)
    report = (tmp_path / "report.md").read_text()
    assert "rehearsed on a CPU" in report and "No number here says anything" in report and "(mask.png)" in report


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_whoever_ends_it_early_gets_the_report(tmp_path: Path) -> None:
    words = ["--rehearse", "-o", str(tmp_path), "--sections", "correctness", "training"]
    results = tmp_path / "results.json"
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu", *words], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        while process.poll() is None and not (results.exists() and '"section": "training"' in results.read_text()):
            time.sleep(0.1)
        process.terminate()
        process.communicate(timeout=60)
    ends = {name: facts["how"] for name, facts in read(results)["runs"][0]["sections"].items()}
    assert process.returncode == 130 and ends == {"correctness": "done", "training": "interrupted"}
    assert "training: interrupted" in (tmp_path / "report.md").read_text()


TURNS = [["smoke", "correctness", "parity", "kernels", "masks"], ["training", "peers"]]


@pytest.mark.slow
@pytest.mark.parametrize("names", TURNS, ids=["smoke to masks", "training, peers"])
def test_every_section_runs_in_miniature(names: list[str], tmp_path: Path) -> None:
    """One part a day, to keep the slow tests within their time; VARLEN_LAB_ALL=1 runs both."""
    if TURNS.index(names) != date.today().toordinal() % 2 and not os.environ.get("VARLEN_LAB_ALL"):
        pytest.skip(f"{', '.join(names)}: the rehearsal of these sections has its turn tomorrow")
    done = command("--rehearse", "--minutes", "10", "-o", str(tmp_path), "--sections", *names)
    assert done.returncode == 0, done.stdout + done.stderr
    content = read(tmp_path / "results.json")
    went = {(cell["section"], cell["cell"]): cell["status"] for cell in content["cells"]}
    bad = {key: status for key, status in went.items() if status != "ok"}
    assert bad.keys() <= {("peers", "HF flattening, fa2")}
    files = list(tmp_path.iterdir())
    assert len(files) <= 8 and all(re.fullmatch(r"[\w.-]+", file.name) and file.is_file() for file in files)
    told = {cell["cell"]: cell for cell in content["cells"]}
    if "parity" in names:
        assert told["three losses"]["varlen_apart"] < 1e-5 < told["three losses"]["packed_apart"]
    else:
        assert len(told) == 9 + 3 and all(cell.get("tokens_per_second", 1) > 0 for cell in told.values())


def test_each_section_has_its_turn() -> None:
    assert sorted(sum(TURNS, ["tests", "lessons"])) == sorted(NAMES)  # those two run by themselves


def test_the_lessons_of_a_gpu_say_so_in_their_metadata() -> None:
    assert [lesson.name[:2] for lesson in find_lessons() if lesson.gpu] == ["05", "08"]


# ------------------------------------------------------------------------------------------------------ the clock


@given(st.floats(0, 600), st.sets(st.sampled_from(NAMES), min_size=1), st.booleans())
def test_no_section_takes_what_a_later_one_needs(left: float, names: set[str], rehearsal: bool) -> None:
    """Where the time suffices for all, each has at least its least, whatever the earlier ones use of theirs."""
    sections = chosen(sorted(names), rehearsal)
    enough = left >= sum(section.least for section in sections)
    for number, section in enumerate(sections):
        taken = share(sections[number:], left)
        assert taken == 0 or section.least <= taken <= min(left, section.most) + 1e-6
        assert taken or not enough
        left -= taken


@given(st.floats(3.5, 12), st.integers(0, 8))  # all sections can begin
def test_time_that_is_left_flows_to_the_later_ones(minutes: float, early: int) -> None:
    sections = chosen(None)
    left = 60 * minutes
    usual = [end - start for _, start, end, _ in clock(sections, minutes)][1:-1]
    for number in range(min(early, len(sections) - 1)):
        left -= share(sections[number:], left) / 2  # each takes half of its share
        following = share(sections[number + 1 :], left)
        assert following >= usual[number + 1] - 1e-6


def test_six_minutes_hold_everything_and_the_smoke_is_short() -> None:
    times = clock(chosen(None), 6)
    assert all(end > start for _, start, end, _ in times) and times[-1][2] <= 360
    assert times[1][0] == "smoke" and times[1][2] - times[1][1] <= 45
    assert max(end - start for name, start, end, _ in clock(chosen(["smoke"]), 60) if name == "smoke") == 45
    second = clock(chosen(["tests", "lessons"]), 3)
    assert [name for name, *_ in second] == ["start", "tests", "lessons", "report"] and second[-1][2] <= 180


def test_what_ends_it_early_leaves_the_best() -> None:
    times = {name: end - start for name, start, end, _ in clock(chosen(None), 2)}
    assert times["smoke"] and times["correctness"] and times["parity"] and not times["peers"]
    with pytest.raises(InputError, match=r"--minutes 0.5 is too short for smoke; give 0\.\d or more"):
        clock(chosen(None), 0.5)
    told = clock(chosen(["kernels"]), (START + REPORT + 25) / 60)
    assert told[1][2] - told[1][1] == pytest.approx(25)


# ---------------------------------------------------------------------------------------------------- the runner


def hanging() -> Iterator[Any]:
    yield {"cell": "first"}
    a_loop_without_an_end()


def a_loop_without_an_end() -> None:
    time.sleep(60)


def dying() -> Iterator[Any]:
    yield {"cell": "first"}
    time.sleep(0.2)
    os._exit(7)


def crashing() -> Iterator[Any]:
    import faulthandler

    yield {"cell": "first"}
    time.sleep(0.2)
    faulthandler._sigsegv()  # type: ignore[attr-defined]


def failing() -> Iterator[Any]:
    yield {"cell": "first"}
    raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")


def with_a_child() -> Iterator[Any]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield {"cell": "first", "child": child.pid}
    time.sleep(60)


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize(
    ("work", "word", "stack"),
    [
        (hanging, "ended by force after 2 s", "a_loop_without_an_end"),
        (dying, "its process died (exit code 7)", ""),
        (crashing, "its process died (SIGSEGV)", "crashing"),
        (failing, "failed: RuntimeError: CUDA error: an illegal memory access", "in failing"),
        (lambda: iter([{"cell": "first"}]), "done", ""),
    ],
    ids=["hangs", "dies", "crashes", "fails", "well"],
)
def test_whatever_becomes_of_a_section_its_cells_and_its_stack_stay(
    work: Callable[[], Iterator[Any]], word: str, stack: str
) -> None:
    kept: list = []
    start = time.monotonic()
    ended = run_apart(work, 1.6, kept.append)
    assert ended.how == word and [cell["cell"] for cell in kept] == ["first"]
    assert stack in ended.traceback and bool(stack) == bool(ended.traceback)
    assert time.monotonic() - start < 6


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_what_a_section_started_ends_with_it() -> None:
    kept: list = []
    run_apart(with_a_child, 1.6, kept.append)
    for _ in range(50):
        state = Path(f"/proc/{kept[0]['child']}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child of a section that was ended by force goes on")


def test_a_cell_that_cannot_is_named(tmp_path: Path) -> None:
    def raising(_: Bench, problem: Exception) -> Any:
        raise problem

    here = bench(tmp_path)
    cases = {
        "out of memory": torch.OutOfMemoryError("CUDA out of memory"),
        "unsupported": RuntimeError("FlashAttention only supports head dims 64 and 128"),
        "failed": ValueError("shapes"),
    }
    for status, problem in cases.items():
        cell = here.cell("x", 0, raising, problem, width=64)
        assert (cell["status"], cell["width"]) == (status, 64)
        assert ("traceback" in cell) == (status == "failed")
    late = Bench("cpu", time.monotonic() + 1, tmp_path).cell("x", 5, lambda _: {})
    assert late["status"] == "not reached" and "were left of 5" in late["why"]


# --------------------------------------------------------------------------------------------- the tests' section


PLANTED = """
import time, pytest
pytestmark = pytest.mark.gpu

def test_well(): pass
def test_wrong(): assert 1 == 2, "the kernel leaks"
def test_not_here(): pytest.skip("flash_attn is not installed here")
"""


@pytest.fixture
def planted(tmp_path: Path) -> str:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    (tmp_path / "test_planted.py").write_text(PLANTED)
    return str(tmp_path / "test_planted.py")


def test_a_failing_test_is_a_cell_with_its_words(planted: str) -> None:
    counts, bad = pytest_section.outcome([planted], 60)
    assert (counts["passed"], counts["failed"], counts["skipped"]) == (1, 1, 1) and "status" not in counts
    assert counts["skips"] == {"flash_attn is not installed here": 1}
    assert bad["cell"] == "test_planted::test_wrong" and bad["status"] == "failed"
    assert "the kernel leaks" in bad["why"] and "assert 1 == 2" in bad["traceback"]


def test_tests_that_take_too_long_tell_of_those_that_ran(planted: str) -> None:
    with open(planted, "a") as file:
        file.write("def test_zz_hangs(): time.sleep(60)\n")
    counts, bad = pytest_section.outcome([planted], 4)
    assert counts["status"] == "failed" and "ended at its limit of 4 s" in counts["why"]
    assert (counts["passed"], counts["failed"], counts["skipped"]) == (1, 1, 1)
    assert re.search(r"test_planted.py:\d+: KeyboardInterrupt", counts["traceback"])
    assert bad["cell"] == "test_planted::test_wrong"


def test_a_suite_that_does_not_start_is_a_failure(tmp_path: Path) -> None:
    (told,) = pytest_section.outcome([str(tmp_path / "test_missing.py")], 60)
    assert told["status"] == "failed" and "no test" in told["why"] and "test_missing" in told["traceback"]


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
    content = read(tmp_path / "results.json")
    assert len(content["runs"]) == 3
    assert {cell["cell"]: cell["value"] for cell in newest(content).values()} == {"a": 3, "b": 2}
    again.add("kernels", {"cell": "b", "status": "wrong", "why": "leaks", "value": 4})  # that is news
    assert newest(again.content)["kernels", "b"]["value"] == 4
    rehearsed = Store(tmp_path, run(rehearsal=True))
    rehearsed.add("kernels", {"cell": "a", "value": 0})
    assert [cell["value"] for cell in newest(rehearsed.content).values()] == [0]


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", "{}", '{"runs": 1, "cells": []}'):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(InputError, match="is no results file"):
            Store(tmp_path, run())
    assert (tmp_path / "results.json").read_text() == text
    with pytest.raises(InputError, match="cannot be a folder"):
        Store(tmp_path / "results.json", run())


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
        tried.append(args[5:7])
        if len(tried) < 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {}

    monkeypatch.setattr(training, "run", run)
    monkeypatch.setattr(training, "ways_to_fit", lambda *_: [None, "cheap", "all"])
    training.measured(bench(tmp_path), "A padded", 256, False, "sdpa")
    assert tried == [(4, None), (4, "cheap"), (4, "all"), (2, "all")]
    tried.clear()
    with pytest.raises(torch.OutOfMemoryError):
        training.measured(bench(tmp_path), "D varlen", 256, False, "sdpa")
    assert tried == [(4, None), (4, "cheap"), (4, "all")]


def test_a_model_too_large_is_recomputed_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.1B weights keep 45 * 16384 * 22 * 2048 = 33 GB, 7B 97 GB beside 54 GB of weights: 79 GiB hold the first."""
    here = Bench("cuda", time.monotonic() + 60, tmp_path)
    large = llama(4096, 32, 32, 32, 11008, vocabulary=32000)
    for gib, first, second in ((79, None, "all"), (139, None, "cheap")):
        properties = type("Properties", (), {"total_memory": gib * 2.0**30})
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, found=properties: found)
        assert training.ways_to_fit(here, TINYLLAMA, "D varlen", 16384)[0] == first
        assert training.ways_to_fit(here, large, "D varlen", 16384)[0] == second
        assert training.ways_to_fit(here, large, "D varlen", 16384)[-1] == "all"
