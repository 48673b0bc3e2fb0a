"""The GPU benchmark's own checks, on a CPU: its clock is kept, nothing is lost, what is measured is what is said."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import house
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from machines import rehearsing

from benchmarks.gpu import machine, training
from benchmarks.gpu.bench import SMALL, filling
from benchmarks.gpu.kernels import flops
from benchmarks.gpu.plan import NAMES, REPORT, SECTIONS, START, chosen, clock, share
from benchmarks.gpu.runner import GRACE
from benchmarks.gpu.store import read
from varlen_lab.course.lessons import find_lessons
from varlen_lab.errors import InputError
from varlen_lab.machine.gpu import GIB, GpuFacts
from varlen_lab.packing.boundaries import Boundaries

ROOT = Path(__file__).resolve().parent.parent
MACHINE = {"device": "NVIDIA H100", "torch": "2.11.0+cu130", "kernels": [], "packages": {}, "driver": "580"}


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words], cwd=ROOT, capture_output=True, text=True, timeout=600
    )


# ------------------------------------------------------------------------------------------------- the command


def test_it_is_small() -> None:
    """Nine sections, each ended at its limit, in 1,250 lines: telling what was not reached took the last fifty."""
    counted = {path.name: house.code_lines(path.read_text()) for path in (ROOT / "benchmarks" / "gpu").glob("*.py")}
    assert sum(counted.values()) <= 1250, counted


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


def test_the_process_that_forks_does_not_ask_for_a_gpu() -> None:
    """torch's own clock does when it is imported, and whoever has asked can fork no process that uses the GPU."""
    code = "import sys, benchmarks.gpu.bench, benchmarks.gpu.machine, benchmarks.gpu.report, transformers; "
    code += "print([name for name in sys.modules if name.startswith('torch.utils.benchmark')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("minutes", [float("nan"), float("inf"), 1e9, 0.0, -3.0])
def test_minutes_that_are_none_are_refused(minutes: float) -> None:
    with pytest.raises(InputError, match="is no time to run; give more than 0 and at most 120"):
        clock(chosen(None), minutes)


def test_the_smoke_of_a_rehearsal_is_called_one(tmp_path: Path) -> None:
    done = command("--rehearse", "--smoke", "-o", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    content = read(tmp_path / "results.json")
    run = content["runs"][0]
    assert run["rehearsal"] and {name: facts["how"] for name, facts in run["sections"].items()} == {"smoke": "done"}
    told = {cell["cell"]: cell for cell in content["cells"]}
    assert all(cell["status"] == "ok" for cell in told.values())
    assert told["sdpa, 8/2 heads"]["exact"] and {"product", "a training step", "a picture"} < set(told)
    report = (tmp_path / "report.md").read_text()
    assert "rehearsed on a CPU" in report and "No number here says anything" in report and "(mask.png)" in report


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("word", ["SIGTERM", "SIGHUP"])
def test_whoever_ends_it_early_gets_the_report(word: str, tmp_path: Path) -> None:
    words = ["--rehearse", "-o", str(tmp_path), "--sections", "correctness", "training"]
    results = tmp_path / "results.json"
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu", *words], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        while process.poll() is None and not (results.exists() and '"section": "training"' in results.read_text()):
            time.sleep(0.1)
        process.send_signal(getattr(signal, word))
        process.communicate(timeout=60)
    ends = {name: facts["how"] for name, facts in read(results)["runs"][0]["sections"].items()}
    assert process.returncode == 130 and ends == {"correctness": "done", "training": "interrupted"}
    assert "training: interrupted" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
def test_a_reader_that_goes_away_does_not_end_it(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--smoke", "-o", str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 0, said
    assert read(tmp_path / "results.json")["runs"][0]["sections"]["smoke"]["how"] == "done"
    assert (tmp_path / "report.md").exists()


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
    assert set(went.values()) == {"ok"}
    files = list(tmp_path.iterdir())
    assert len(files) <= 8 and all(re.fullmatch(r"[\w.-]+", file.name) and file.is_file() for file in files)
    told = {cell["cell"]: cell for cell in content["cells"]}
    if "parity" in names:
        assert told["three losses"]["varlen_apart"] < 1e-5 < told["three losses"]["packed_apart"]
    else:
        assert len(told) == 9 + 2 and all(cell.get("tokens_per_second", 1) > 0 for cell in told.values())


def test_each_section_has_its_turn() -> None:
    assert sorted(sum(TURNS, ["tests", "lessons"])) == sorted(NAMES)  # those two run by themselves


def test_the_lessons_of_a_gpu_say_so_in_their_metadata() -> None:
    assert [lesson.name[:2] for lesson in find_lessons() if lesson.gpu] == ["05", "11"]


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


@given(st.floats(4, 12), st.integers(0, 8))  # all sections can begin
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
    assert [name for name, *_ in second] == ["start", "lessons", "tests", "report"] and second[-1][2] <= 180


def test_the_compiled_cell_has_its_time() -> None:
    """In a call of its own: after eight cells of seven seconds the compiler has what it needs."""
    times = {name: end - start for name, start, end, _ in clock(chosen(["training"]), 4)}
    assert times["training"] >= 8 * 7 + training.COMPILED + GRACE


def test_the_second_call_has_time_for_what_it_asks() -> None:
    """Eight cells of training, both lessons, the tests; no compiled cell, which would take the time of the others."""
    names = ["parity", "training", "tests", "lessons"]
    times = {name: end - start for name, start, end, _ in clock(chosen(names), 3.5)}
    assert [name for name in times if name in names] == ["parity", "training", "lessons", "tests"]
    assert times["parity"] >= 34 and 8 * 7 <= times["training"] < training.COMPILED and times["tests"] >= 36


def test_what_ends_it_early_leaves_the_best() -> None:
    times = {name: end - start for name, start, end, _ in clock(chosen(None), 2)}
    assert times["smoke"] and times["correctness"] and times["parity"] and not times["peers"]
    with pytest.raises(InputError, match=r"--minutes 0.5 is too short for smoke; give 0\.\d or more"):
        clock(chosen(None), 0.5)
    told = clock(chosen(["kernels"]), (START + REPORT + 25) / 60)
    assert told[1][2] - told[1][1] == pytest.approx(25)


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
    here = rehearsing(tmp_path)
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


def test_weights_are_rounded_and_frequencies_are_not() -> None:
    model = training.random_model(SMALL, "sdpa", "cpu", torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}


def test_less_memory_is_tried_before_giving_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list = []

    def run(*args: Any) -> dict[str, Any]:
        tried.append(args[5:7])
        if len(tried) < 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {}

    monkeypatch.setattr(training, "run", run)
    training.measured(rehearsing(tmp_path), "A padded", 256, False, "sdpa")
    assert tried == [(4, None), (4, "cheap"), (4, "all"), (2, "all")]
    tried.clear()
    with pytest.raises(torch.OutOfMemoryError):
        training.measured(rehearsing(tmp_path), "D varlen", 256, False, "sdpa")
    assert tried == [(4, None), (4, "cheap"), (4, "all")]
