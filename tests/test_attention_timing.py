"""The kernel of a run: the fastest of those that are right, within its time, with a receipt."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from varlen_lab.attention import choosing, timing
from varlen_lab.attention.choosing import AttentionShape
from varlen_lab.attention.reference import attend_reference
from varlen_lab.attention.registry import BACKENDS, Backend
from varlen_lab.attention.timing import choose_kernel, measure
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries

SHAPE = AttentionShape(4, 2, 16, 16)
ROW = Boundaries.from_lengths([7, 1, 30, 12])


def planted(name: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    record = Backend(name, f"varlen_{name}", f"{__name__}:{name}", "planted", alibi=True, softcap=True, auto_rank=1)
    monkeypatch.setitem(BACKENDS, name, Backend(**{**vars(record), **changes}))


def quick(*given: Any) -> torch.Tensor:
    return attend_reference(*given)


def sleepy(*given: Any) -> torch.Tensor:
    time.sleep(0.05)
    return attend_reference(*given)


def dozing(*given: Any) -> torch.Tensor:
    time.sleep(0.035)
    return attend_reference(*given)


def leaking(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries, options: Any) -> torch.Tensor:
    """Quick, and wrong: it ignores the seams."""
    return attend_reference(q, k, v, Boundaries.from_lengths([row.total]), options)


def forgetful(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries, options: Any) -> torch.Tensor:
    """Right forward, and no gradient for the keys."""
    return attend_reference(q, k.detach(), v, row, options) + 0 * k.sum()


def poisoned(*given: Any) -> torch.Tensor:
    out = attend_reference(*given)
    return torch.cat([out[:-1], out[-1:] * float("nan")])


def raising(*given: Any) -> torch.Tensor:
    raise RuntimeError("CUDA error: no kernel image is available\nmore")


@pytest.mark.parametrize("shape", [SHAPE, SHAPE._replace(softcap=2.0), SHAPE._replace(alibi=True, window=9)])
def test_the_fastest_of_those_that_are_right_is_taken(shape: AttentionShape, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("quick", "sleepy", "leaking", "forgetful", "poisoned", "raising"):
        planted(name, monkeypatch)
    choice = choose_kernel(shape, ROW, "cpu", torch.float32, measuring=True)
    right = {"quick", "sleepy"} if shape.softcap else {"quick", "sleepy", "sdpa"}  # sdpa knows no cap
    assert choice.backend in right - {"sleepy"} and set(choice.milliseconds) == right
    assert choice.milliseconds["sleepy"] >= 50 > choice.milliseconds[choice.backend]
    assert list(choice.milliseconds.values()) == sorted(choice.milliseconds.values())
    for name in ("leaking", "forgetful", "poisoned"):
        assert "computes something else here" in choice.ineligible[name]
    assert "no kernel image" in choice.ineligible["raising"] and "\n" not in choice.ineligible["raising"]
    assert "runs on cuda" in choice.ineligible["torch_varlen"] and "slow formula" in choice.ineligible["reference"]
    assert choice.versions["torch"] in torch.__version__
    assert "4 documents, 50 tokens, 4/2 heads of 16, float32" in choice.measured_on
    assert choice.sentence().startswith(f"fastest of {len(right)}: ") and " sleepy " in choice.sentence()


def test_in_a_graph_a_kernel_that_is_not_traced_pays_for_its_second_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    planted("sleepy", monkeypatch, traced="stands in the graph itself")
    planted("dozing", monkeypatch)
    monkeypatch.delitem(BACKENDS, "sdpa")
    plain, compiled = (
        choose_kernel(SHAPE._replace(compiled=compiled), ROW, "cpu", torch.float32, measuring=True)
        for compiled in (False, True)
    )
    assert (plain.backend, compiled.backend) == ("dozing", "sleepy")
    assert compiled.milliseconds["dozing"] >= 70 > compiled.milliseconds["sleepy"] >= 50
    assert "backward in a graph, cpu" in compiled.measured_on and "in a graph" not in plain.measured_on


def test_one_kernel_timed_is_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the first one took all the time: the order of auto decides, not that the others came too late."""
    monkeypatch.setattr(timing, "SECONDS", 0.02)
    monkeypatch.setattr(timing.measure, "__defaults__", (0.02,))
    planted("sleepy", monkeypatch, auto_rank=31)  # behind sdpa
    planted("quick", monkeypatch, auto_rank=32)
    real = timing.forward_backward
    monkeypatch.setattr(timing, "forward_backward", lambda *given: (time.sleep(0.03), real(*given))[1])
    choice = choose_kernel(SHAPE, ROW, "cpu", torch.float32, measuring=True)
    assert choice.backend == "sdpa" and choice.reason == "first in the order of auto"
    assert choice.ineligible["quick"] == "was not timed, the 0.02 s for it were over"


def late_leak(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries, options: Any) -> torch.Tensor:
    """The last 8 tokens of each document see the whole row before them: small numbers, a leak all the same."""
    out, crossing = attend_reference(q, k, v, row, options), leaking(q, k, v, row, options)
    last = torch.cat([torch.arange(max(a, b - 8), b) for a, b in row.spans])
    return out.index_copy(0, last, crossing[last])


def no_window(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries, options: Any) -> torch.Tensor:
    return attend_reference(q, k, v, row, options._replace(window=None))


def too_large(*given: Any) -> torch.Tensor:
    return attend_reference(*given) * 1.045


def after_the_fourth(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries, options: Any) -> torch.Tensor:
    """The later ones are one."""
    first, rest = row.lengths[:4].tolist(), int(row.lengths[4:].sum())
    return attend_reference(q, k, v, Boundaries.from_lengths([*first, rest] if rest else first), options)


def above_500(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries, options: Any) -> torch.Tensor:
    """Wrong only where documents are long."""
    return attend_reference(q, k, v, row, options) * (1 + (row.max_seqlen > 500))


WRONG = {
    "late_leak": (None, [1100, 1100]),
    "no_window": (1024, [1100, 30]),
    "no_window ": (100, [50, 50, 50, 50, 1500]),
    "too_large": (None, [300, 20]),
    "leaking": (None, [700]),  # the run's own row has no seam
    "after_the_fourth": (None, [64] * 20),
    "above_500": (None, [20, 501]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_fault_is_found_whatever_the_runs_own_documents_are_like(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (window, lengths), name = WRONG[name], name.strip()
    planted(name, monkeypatch)
    row, shape = Boundaries.from_lengths(lengths), SHAPE._replace(window=window)
    times, failed, _ = measure(["sdpa", name], shape, row, "cpu", torch.float32, seconds=60)
    assert set(times) == {"sdpa"} and "computes something else" in failed[name]


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1, 1, 300], [1] * 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_documents_of_one_token_speak_against_nobody(lengths: list[int], dtype: torch.dtype) -> None:
    times, failed, _ = measure(["sdpa", "reference"], SHAPE, Boundaries.from_lengths(lengths), "cpu", dtype, seconds=60)
    assert set(times) == {"sdpa", "reference"}, failed


def test_a_baseline_that_fails_judges_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    planted("quick", monkeypatch)
    for fault in ("poisoned", "raising", "too_large"):
        monkeypatch.setitem(BACKENDS, "sdpa", Backend(**{**vars(BACKENDS["sdpa"]), "function": f"{__name__}:{fault}"}))
        times, failed, _ = measure(["quick", "sdpa"], SHAPE, ROW, "cpu", torch.float32)
        assert set(times) == {"quick"} and set(failed) == {"sdpa"}


def test_a_kernel_that_stops_the_device_ends_the_run_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    planted("raising", monkeypatch)

    def dead(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(timing, "wait_for", dead)
    with pytest.raises(InputError, match=r"'raising' stopped the device .*; start again with another one, such as"):
        measure(["raising"], SHAPE, ROW, "cpu", torch.float32)


def test_rounding_of_half_precision_is_no_fault() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        times, failed, _ = measure(["sdpa"], SHAPE, Boundaries.from_lengths([500, 1, 2, 90]), "cpu", dtype)
        assert set(times) == {"sdpa"}, failed


def test_what_failed_is_not_taken_although_it_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    planted("leaking", monkeypatch)
    planted("raising", monkeypatch)
    for name in ("sdpa", "reference"):
        monkeypatch.setitem(BACKENDS, name, Backend(**{**vars(BACKENDS[name]), "auto_rank": 99}))
    monkeypatch.setitem(BACKENDS, "sdpa", Backend(**{**vars(BACKENDS["sdpa"]), "devices": ("cuda",)}))
    choice = choose_kernel(SHAPE, ROW, "cpu", torch.float32, measuring=True)
    assert choice.backend == "reference" and set(choice.ineligible) >= {"leaking", "raising"}


def test_the_time_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    planted("sleepy", monkeypatch)
    planted("quick", monkeypatch, auto_rank=2)
    begin = time.perf_counter()
    times, failed, late = measure(["sleepy", "quick"], SHAPE, ROW, "cpu", torch.float32, seconds=0.02)
    assert set(times) == {"sleepy"} and failed == {} and late == ["quick"]
    assert time.perf_counter() - begin < 1


@pytest.fixture
def only_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a torch with CUDA brings, and no package beside it."""
    brought = ("torch.", "triton")
    monkeypatch.setattr(choosing, "import_problem", lambda module: None if module.startswith(brought) else "absent")


def test_nothing_is_measured_where_times_must_not_matter(only_torch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "measure", lambda *given: pytest.fail("measured"))
    on_cpu = choose_kernel(SHAPE, ROW, "cpu", torch.float32)
    assert on_cpu.backend == "sdpa" and on_cpu.milliseconds == {} and "runs on cuda" in on_cpu.ineligible["flex"]
    capped = SHAPE._replace(softcap=50.0)
    assert choose_kernel(capped, ROW, "cuda", torch.float32).backend == "flex"
    torch.use_deterministic_algorithms(True)
    try:
        exactly = choose_kernel(SHAPE, ROW, "cuda", torch.bfloat16)
        assert exactly.backend == "torch_varlen" and "deterministic" in exactly.reason
        assert choose_kernel(capped, ROW, "cuda", torch.float32).backend == "reference"
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_kernel_that_must_be_compiled_is_taken_only_where_no_other_can(
    only_torch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[list[str]] = []
    monkeypatch.setattr(
        timing, "measure", lambda names, *given: (tried.append(names), (dict.fromkeys(names, 1.0), {}, []))[1]
    )
    monkeypatch.setattr(timing, "described", lambda *given: "")
    assert choose_kernel(SHAPE, ROW, "cuda", torch.bfloat16, measuring=True).backend == "torch_varlen"
    assert tried == [["torch_varlen", "sdpa"]]
    assert "name it to use it" in choose_kernel(SHAPE, ROW, "cuda", torch.bfloat16, measuring=False).ineligible["flex"]


def test_measuring_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    choose_kernel(SHAPE, ROW, "cpu", torch.float32, measuring=True)
    assert torch.equal(before, torch.get_rng_state())
