"""The ways to a kernel on machines one has not got: a handful of facts each."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from machines import A100, B200, H100, LAPTOP, M2, T4

from varlen_lab.attention import choosing
from varlen_lab.attention.choosing import choose
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.attention.routes import Route, kernel_routes
from varlen_lab.machine.gpu import DTYPES, GpuFacts, gpu_facts

HERE_WITH_TORCH = {"torch_varlen": "here", "sdpa": "here", "flex": "here", "reference": "here"}
NONE = dict.fromkeys(("flash_attn", "flash_attn_3", "flash_attn_4", "flash_attn_hub", "torch_varlen", "flex"), "no")
MACHINES: dict[str, tuple[GpuFacts, dict[str, str]]] = {
    "laptop": (LAPTOP, NONE | {"sdpa": "here", "reference": "here"}),
    "M2": (M2, NONE | {"sdpa": "here", "reference": "here"}),
    "T4": (T4, NONE | {"sdpa": "here", "reference": "here"}),
    "A100": (
        A100,
        HERE_WITH_TORCH | {"flash_attn": "fits", "flash_attn_hub": "fits", "flash_attn_3": "no", "flash_attn_4": "no"},
    ),
    "H100": (
        H100,
        HERE_WITH_TORCH | dict.fromkeys(("flash_attn", "flash_attn_hub", "flash_attn_3", "flash_attn_4"), "fits"),
    ),
    "B200": (
        B200,
        HERE_WITH_TORCH
        | dict.fromkeys(("flash_attn", "flash_attn_hub", "flash_attn_4"), "fits")
        | {"flash_attn_3": "no"},
    ),
}


def of(facts: GpuFacts, **asked: Any) -> dict[str, Route]:
    return {one.name: one for one in kernel_routes(facts, this=False, **asked)}


@pytest.mark.parametrize(("facts", "expected"), MACHINES.values(), ids=MACHINES)
def test_a_machine_has_the_routes_of_its_card(facts: GpuFacts, expected: dict[str, str]) -> None:
    found = of(facts)
    assert {name: found[name].state for name in BACKENDS} == expected
    for one in found.values():
        assert (one.state == "no") <= bool(one.why) and (one.state == "fits") <= bool(one.command)
        assert "\n" not in one.sentence() and not one.sentence().endswith(".")


def test_nothing_of_another_machine_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing.importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    for facts, _ in MACHINES.values():
        of(facts)
    choosing.import_problem.cache_clear()
    kernel_routes(LAPTOP, this=True)  # what could not run here is not imported to learn whether it is installed


def test_this_machine_begins_with_what_auto_takes() -> None:
    facts = gpu_facts()
    first = next(one for one in kernel_routes(facts, "cpu") if one.state == "here")
    assert first.name == choose("cpu", torch.float32)


def test_the_commands_fit_the_machine() -> None:
    found = of(H100)
    assert found["flash_attn_4"].command == 'pip install --pre "flash-attn-4[cu13]"'
    older = of(replace(H100, torch="2.11.0+cu128", built_for="12.8"))
    assert older["flash_attn_4"].command == "pip install --pre flash-attn-4"
    assert "+cu13torch2.11" in found["flash_attn"].note and "+cu12torch2.11" in older["flash_attn"].note
    assert found["flash_attn_hub"].command == "pip install kernels"
    assert "subdirectory=hopper" in found["flash_attn_3"].command


def test_what_a_route_cannot_do_is_its_record() -> None:
    found = of(H100)
    assert found["torch_varlen"].cannot == ("softcap", "ALiBi", "fp32", "head dims above 256", "sinks")
    assert found["flash_attn"].cannot == ("fp32", "head dims above 256", "sinks")
    assert found["flex"].cannot == ("equal bits again",) and "compiled" in found["flex"].note
    assert "downloaded" in found["flash_attn_hub"].note
    assert found["reference"].sentence() == "here"


def test_a_dtype_a_kernel_does_not_run_in_closes_its_route() -> None:
    found = of(H100, dtype="fp32")
    assert found["torch_varlen"] == Route("torch_varlen", "no", "runs in float16 or bfloat16, not in float32")
    assert found["sdpa"].state == "here"
    assert set(DTYPES) == {"fp32", "bf16", "fp16"}


def test_a_card_this_torch_has_no_code_for_has_no_route_but_says_why() -> None:
    found = of(replace(H100, code_for=("sm_75", "sm_80")), device="cuda")
    assert {one.state for one in found.values()} == {"no"}
    assert "install a torch whose CUDA version knows this card" in found["torch_varlen"].why


# --------------------------------------------------------------------------------------------- packages that are here


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a module there, or one that breaks."""

    def put(name: str, problem: Exception | None = None) -> None:
        real = choosing.importlib.import_module

        def importing(asked: str) -> Any:
            if asked == name and problem is not None:
                raise problem
            return real(asked)

        if problem is None:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setattr(choosing.importlib, "import_module", importing)
        choosing.import_problem.cache_clear()

    yield put
    choosing.import_problem.cache_clear()


def test_a_package_that_imports_is_here(package: Any) -> None:
    package("flash_attn_interface")
    found = {one.name: one for one in kernel_routes(H100)}
    assert found["flash_attn_3"].state == "here"
    assert found["flash_attn_4"].state == "fits"


def test_a_package_that_breaks_is_named_with_what_mends_it(package: Any) -> None:
    """Its metadata is there, its compiled part was built for another torch."""
    package("flash_attn.flash_attn_interface", ImportError("flash_attn_2_cuda.so: undefined symbol: _ZN3c104\nmore"))
    broken = {one.name: one for one in kernel_routes(H100)}["flash_attn"]
    assert broken.state == "broken"
    assert "does not import (flash_attn_2_cuda.so: undefined symbol: _ZN3c104); cannot" in broken.sentence()
    assert broken.command.startswith("pip install --force-reinstall --no-deps")  # pip leaves alone what it finds
    assert "wheel named flash_attn-2.*+cu13torch2.11" in broken.sentence()


# ----------------------------------------------------------------------------------- torch on another's flash attention


@pytest.fixture
def torch_lists(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What torch says of its implementations; 2.11 is not sure to say anything."""

    def put(names: list[str], active: str | None = None) -> None:
        monkeypatch.setattr(torch.nn.attention, "list_flash_attention_impls", lambda: names, raising=False)
        monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: active, raising=False)

    return put


def test_torch_can_run_on_another_flash_attention(torch_lists: Any, package: Any) -> None:
    torch_lists(["FA3", "FA4", "FA9"])
    found = of(H100)
    call = 'torch.nn.attention.activate_flash_attention_impl("FA3")'
    assert found["torch_varlen on FA3"].command == f"{call}, once flash_attn_3 is there"
    assert "head dims above 128" in found["torch_varlen on FA4"].cannot
    assert "torch_varlen on FA9" not in found and of(A100)["torch_varlen on FA3"].state == "no"
    package("flash_attn_interface")
    found = {one.name: one for one in kernel_routes(H100)}
    assert found["torch_varlen on FA3"].command == call and found["torch_varlen on FA3"].state == "fits"
    torch_lists(["FA3"], active="FA3")
    assert {one.name: one for one in kernel_routes(H100)}["torch_varlen on FA3"].state == "here"
