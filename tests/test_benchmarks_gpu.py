"""The GPU benchmark's own checks, on a CPU: its clock is kept, nothing is lost, what is measured is what is said."""

from __future__ import annotations

import json
import os
import re
import signal
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

from benchmarks.gpu import correctness, machine, masks, smoke, training
from benchmarks.gpu import tests as pytest_section
from benchmarks.gpu.__main__ import kept
from benchmarks.gpu.bench import SMALL, Bench, filling
from benchmarks.gpu.kernels import flops
from benchmarks.gpu.plan import NAMES, REPORT, SECTIONS, START, chosen, clock, share
from benchmarks.gpu.runner import GRACE, run_apart
from benchmarks.gpu.store import Store, newest, occupy, read, unfit
from varlen_lab.attention import registry
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


def test_the_compiled_cell_has_its_time() -> None:
    """Eight cells of six seconds leave the compiler what it needs, by plan."""
    times = {name: end - start for name, start, end, _ in clock(chosen(None), 6)}
    assert times["training"] >= 8 * 6 + training.COMPILED + GRACE


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


def leaving() -> Iterator[Any]:
    yield {"cell": "first"}
    yield {"cell": "second", "kernel": "x", "status": "begun"}
    sys.exit("the library gives up")


def begun_and(ending: Callable[[], Iterator[Any]]) -> Callable[[], Iterator[Any]]:
    def work() -> Iterator[Any]:
        yield {"cell": "second", "kernel": "x", "status": "begun"}
        for number, _ in enumerate(ending()):
            assert not number  # its first cell is not told here

    return work


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize(
    ("work", "how", "stack"),
    [
        (begun_and(hanging), "ended by force after 2 s", "a_loop_without_an_end"),
        (begun_and(crashing), "its process died (SIGSEGV)", "crashing"),
        (begun_and(dying), "its process died (exit code 7)", ""),
        (leaving, "failed: SystemExit: the library gives up", "in leaving"),
    ],
    ids=["hangs", "crashes", "dies", "leaves"],
)
def test_the_cell_that_a_process_died_of_is_told(work: Callable[[], Iterator[Any]], how: str, stack: str) -> None:
    told: list = []
    ended = run_apart(work, 1.6, told.append)
    assert ended.how == f"{how} in second" and stack in ended.traceback
    wanted = {"cell": "second", "kernel": "x", "status": "failed", "why": how, "traceback": ended.traceback}
    assert told[-1] == wanted
    assert unfit({("correctness", "second"): told[-1]}) == {"x"}


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


PARENT = """
import time
from benchmarks.gpu.runner import run_apart

def work():
    import os
    yield os.getpid()
    time.sleep(60)

run_apart(lambda: ({"pid": pid} for pid in work()), 50, lambda told: print(told["pid"], flush=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be asked for it")
def test_a_section_ends_with_whoever_started_it() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("a section goes on without the one that started it")


def test_a_cell_that_cannot_is_named(tmp_path: Path) -> None:
    def raising(_: Bench, problem: Exception) -> Any:
        raise problem

    here = bench(tmp_path)
    refusal = RuntimeError("FlashAttention only supports head dims 64 and 128")
    cases = [
        ("out of memory", torch.OutOfMemoryError("CUDA out of memory"), {}),
        ("unsupported", refusal, {"kernel": "x"}),
        ("unsupported", InputError("backend 'x' cannot take a window"), {"kernel": "x"}),
        ("failed", refusal, {}),  # no kernel was asked
        ("failed", ImportError("this torch is not supported"), {"kernel": "x"}),
        ("failed", NotImplementedError("no"), {}),
        ("failed", InputError("no"), {}),
        ("failed", ValueError("shapes"), {"kernel": "x"}),
        ("failed", SystemExit(3), {}),
    ]
    for status, problem, facts in cases:
        begun, cell = here.cell("x", 0, raising, problem, width=64, **facts)
        assert (begun["cell"], begun["status"]) == ("x", "begun")
        assert (cell["status"], cell["width"]) == (status, 64), problem
        assert "in raising" in cell["traceback"]
    (late,) = Bench("cpu", time.monotonic() - 2, tmp_path).cell("x", 5, lambda _: {})
    assert late["status"] == "not reached" and late["why"] == "0 s were left of 5"
    (missing,) = here.cell("x", 0, raising, refusal, needs=("torch", "a_package_nobody_has"))
    assert missing["status"] == "unsupported" and missing["why"] == "a_package_nobody_has is not installed"


@pytest.mark.parametrize("problem", [None, RuntimeError("CUDA error: an illegal memory access"), InputError("no")])
def test_a_fault_of_the_device_costs_the_section_and_not_the_cell(
    problem: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an illegal access every call fails, those that tidy up too; one that is queued shows only then."""

    def measure(_: Bench) -> dict[str, Any]:
        if problem:
            raise problem
        return {"value": 1}

    def dead(_: Bench) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(Bench, "free", dead)
    told: list = []
    with pytest.raises(RuntimeError, match=r"the device can do nothing more after x .*illegal memory access"):
        for cell in bench(tmp_path).cell("x", 0, measure, kernel="k"):
            told.append(cell)
    assert [cell["status"] for cell in told] == ["begun", "failed"]
    assert ("in measure" if problem else "in dead") in told[1]["traceback"] and told[1]["why"]


def wrong_cell(name: str) -> dict[str, Any]:
    return {"section": "smoke", "cell": name, "kernel": name, "status": "wrong", "why": "leaks"}


def test_a_kernel_found_wrong_is_not_what_others_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.bench.usable", lambda *_: ["torch_varlen", "sdpa", "flex"])
    bad = unfit({("smoke", "torch_varlen"): wrong_cell("torch_varlen"), ("kernels", "sdpa"): wrong_cell("sdpa")})
    here = Bench("cpu", 0.0, tmp_path, unfit=bad)
    assert here.kernels == ["sdpa", "flex", "torch_varlen"] and here.fit == ["sdpa", "flex"]
    every = Bench("cpu", 0.0, tmp_path, unfit=frozenset(here.kernels))
    assert every.fit == every.kernels  # something must be measured


def test_the_step_of_the_smoke_takes_a_kernel_that_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.bench.usable", lambda *_: ["reference2", "sdpa"])
    monkeypatch.setattr(
        "benchmarks.gpu.bench.BACKENDS", dict.fromkeys(["reference2", "sdpa"], registry.BACKENDS["sdpa"])
    )
    monkeypatch.setattr(smoke, "BACKENDS", dict.fromkeys(["reference2", "sdpa"], registry.BACKENDS["sdpa"]))

    def checked(_: Bench, row: Any, kernel: str, *more: Any) -> dict[str, Any]:
        return {"status": "wrong", "why": "leaks"} if kernel == "reference2" else {}

    taken: list[str] = []
    monkeypatch.setattr(correctness, "checked", checked)
    monkeypatch.setattr(smoke, "step", lambda _, kernel: taken.append(kernel) or {})
    monkeypatch.setattr(masks, "crossing", lambda _, kernel, drawn: taken.append(kernel) or {})
    list(smoke.measure(bench(tmp_path)))
    assert taken == ["sdpa", "sdpa"]


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
        occupy(tmp_path / "results.json")


WRONG = [
    {"runs": [], "cells": []},
    {"runs": [{**MACHINE}], "cells": []},
    {"runs": [{"machine": MACHINE, "sections": []}], "cells": []},
    {"runs": [{"machine": MACHINE, "sections": {"smoke": "done"}}], "cells": []},
    {"runs": [{"machine": MACHINE, "sections": {}}], "cells": [{"run": 0}]},
    {"runs": [{"machine": MACHINE, "sections": {}}], "cells": ["text"]},
    {"runs": ["text"], "cells": []},
]


@pytest.mark.parametrize("content", WRONG)
def test_a_file_of_the_right_shape_and_wrong_content_is_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="is no results file"):
        read(tmp_path / "results.json")


@pytest.mark.skipif(sys.platform == "win32", reason="locks")
def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    hold = "import sys, pathlib; from benchmarks.gpu.store import occupy; occupy(pathlib.Path(sys.argv[1])); "
    words = [sys.executable, "-c", hold + "print('mine', flush=True); input()", str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout and first.stdout.readline() == b"mine\n"
        with pytest.raises(InputError, match="another run is writing to"):
            occupy(tmp_path)
        first.kill()  # the lock dies with its process
    occupy(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cell_that_failed_on_the_newest_call_is_told(tmp_path: Path) -> None:
    first = Store(tmp_path, run())
    first.add("kernels", {"cell": "a", "value": 1})
    again = Store(tmp_path, run())
    again.add("kernels", {"cell": "a", "status": "failed", "why": "CUDA error"})
    assert newest(again.content)["kernels", "a"]["status"] == "failed"
    third = Store(tmp_path, run())
    third.add("kernels", {"cell": "a", "status": "not reached", "why": ""})  # says nothing about it
    assert newest(third.content)["kernels", "a"]["status"] == "failed"


def test_a_failed_test_that_is_mended_is_gone(tmp_path: Path) -> None:
    def called(how: str, *cells: dict[str, Any]) -> dict[Any, Any]:
        store = Store(tmp_path, run())
        for cell in cells:
            store.add("tests", cell)
        store.run["sections"]["tests"] = {"how": how, "seconds": 1.0, "limit": 2.0, "traceback": ""}
        store.flush()
        return newest(read(store.path))

    bad = {"cell": "test_x::test_y", "status": "failed", "why": "leaks"}
    assert len(called("done", {"cell": "pytest", "failed": 1}, bad)) == 2
    assert called("its process died (SIGSEGV)")["tests", "test_x::test_y"]["status"] == "failed"  # nobody knows
    assert list(called("done", {"cell": "pytest", "failed": 0})) == [("tests", "pytest")]


def test_what_json_does_not_know_and_a_full_disk_do_not_end_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, run())
    kept(store, "kernels", {"cell": "a", "value": torch.ones(2), ("x", 1): 2, "what": {1, 2}})
    assert read(store.path)["cells"][0]["value"] == "tensor([1., 1.])"

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.gpu.store.written_whole", full)
        kept(store, "kernels", {"cell": "b", "value": 1.0})
    assert "b: value 1; " in capsys.readouterr().out and len(read(store.path)["cells"]) == 1
    kept(store, "kernels", {"cell": "c", "value": 1.0})
    assert [cell["cell"] for cell in read(store.path)["cells"]] == ["a", "b", "c"]  # there is room again


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("benchmarks.gpu.store.written_whole", forbidden)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\); give another folder"):
        Store(tmp_path, run())


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
    training.measured(bench(tmp_path), "A padded", 256, False, "sdpa")
    assert tried == [(4, None), (4, "cheap"), (4, "all"), (2, "all")]
    tried.clear()
    with pytest.raises(torch.OutOfMemoryError):
        training.measured(bench(tmp_path), "D varlen", 256, False, "sdpa")
    assert tried == [(4, None), (4, "cheap"), (4, "all")]
