"""Whatever becomes of a section of the GPU benchmark, or of the tests it runs, is told, and costs nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from machines import rehearsing

from benchmarks.gpu import correctness, masks, smoke
from benchmarks.gpu import tests as pytest_section
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.runner import run_apart
from benchmarks.gpu.store import unfit
from varlen_lab.attention import registry
from varlen_lab.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


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
    assert ends(kept[0]["child"]), "the child of a section that was ended by force goes on"


def ends(process: int) -> bool:
    """Whether a process is gone within five seconds; one that nobody waited for is."""
    for _ in range(50):
        state = Path(f"/proc/{process}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


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
    assert ends(child), "a section goes on without the one that started it"


def test_a_cell_that_cannot_is_named(tmp_path: Path) -> None:
    def raising(_: Bench, problem: Exception) -> Any:
        raise problem

    here = rehearsing(tmp_path)
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
        for cell in rehearsing(tmp_path).cell("x", 0, measure, kernel="k"):
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
    list(smoke.measure(rehearsing(tmp_path)))
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


@pytest.mark.alone
def test_tests_that_take_too_long_tell_of_those_that_ran(planted: str) -> None:
    with open(planted, "a") as file:
        file.write("def test_zz_hangs(): time.sleep(60)\n")
    counts, bad = pytest_section.outcome([planted], 8)
    assert counts["status"] == "failed" and "limit of 8 s; 1 of 4 tests were not finished" in counts["why"]
    assert (counts["passed"], counts["failed"], counts["skipped"]) == (1, 1, 1)
    assert re.search(r"test_planted.py:\d+: KeyboardInterrupt", counts["traceback"])
    assert bad["cell"] == "test_planted::test_wrong"


def test_whole_models_come_before_kernels(tmp_path: Path) -> None:
    """And what has no GPU tests is not read at all."""
    names = ["machine_cuda_isolated", "attention_backends", "attention_sinks", "machine_cuda", "packing_rows"]
    for name in names:
        (tmp_path / f"test_{name}.py").write_text("pytestmark = pytest.mark.gpu" if "rows" not in name else "")
    found = [Path(file).stem.removeprefix("test_") for file in pytest_section.files_of(tmp_path)]
    assert found == ["machine_cuda", "machine_cuda_isolated", "attention_sinks", "attention_backends"]


def test_a_suite_that_does_not_start_is_a_failure(tmp_path: Path) -> None:
    (told,) = pytest_section.outcome([str(tmp_path / "test_missing.py")], 60)
    assert told["status"] == "failed" and "no test" in told["why"] and "test_missing" in told["traceback"]
