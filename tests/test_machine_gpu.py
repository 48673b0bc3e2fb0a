"""Machines one has not got are a handful of values: each obstacle is named with its remedy."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from varlen_lab.machine.gpu import (
    GIB,
    GpuFacts,
    automatic_device,
    automatic_dtype,
    driver_versions,
    flash_attn_wheel,
    runs_on,
    why_no_mps,
    why_unusable,
)

GOOD = GpuFacts("2.11.0+cu130", "13.0", "580.159", "13.0", True, "NVIDIA H100", (9, 0), ("sm_80", "sm_90"), 79 * GIB)
SMI = "| NVIDIA-SMI 580.159.04    Driver Version: 580.159.04    CUDA Version: 13.0     |"

CASES = [
    ({"usable": False, "driver": None, "driver_cuda": None}, "no NVIDIA GPU here"),
    ({"usable": False, "built_for": None, "torch": "2.13.0+cpu"}, r"2.13.0\+cpu was built without CUDA; .*2.13.0 for"),
    ({"usable": False, "driver": "535.54", "driver_cuda": "12.2"}, "13.0 and driver 535.54 runs CUDA up to 12.2; upd"),
    ({"usable": False}, "cannot start the GPU; .*CUDA_VISIBLE_DEVICES"),
    ({"name": "Tesla T4", "capability": (7, 5)}, "has code for sm_80, sm_90 and Tesla T4 is sm_75; install a torch"),
    ({"name": "B200", "capability": (10, 0)}, "has code for sm_80, sm_90 and B200 is sm_100"),
    ({"memory": 24 * GIB}, "has 24 GiB and this takes about 40; take a larger"),
]


@pytest.mark.parametrize(("change", "message"), CASES, ids=[message[:20] for _, message in CASES])
def test_an_obstacle_is_one_sentence(change: dict, message: str) -> None:
    import re

    facts = GpuFacts(**{**GOOD.__dict__, **change})
    said = why_unusable(facts, 40 * GIB)
    assert said is not None and re.search(message, said) and "\n" not in said and ";" in said


def test_a_good_machine_has_none() -> None:
    assert why_unusable(GOOD, 40 * GIB) is None
    for capability in ((8, 0), (8, 6), (8, 9)):
        assert why_unusable(GpuFacts(**{**GOOD.__dict__, "capability": capability})) is None
    older = GpuFacts(**{**GOOD.__dict__, "capability": (7, 5), "code_for": ("sm_75", "sm_80")})
    assert why_unusable(older) is None  # fp16 and torch's own kernel run there
    assert "has compute capability 7.5 and this needs 8.0 or newer" in str(why_unusable(older, capability=(8, 0)))
    forward = GpuFacts(**{**GOOD.__dict__, "capability": (12, 0), "code_for": ("sm_90", "compute_90")})
    assert why_unusable(forward) is None  # its driver compiles what was left as PTX


@pytest.mark.parametrize(
    ("capability", "code", "runs"),
    [
        ((7, 0), "sm_75", False),  # code of the same generation, for a newer card of it
        ((7, 5), "sm_75", True),
        ((8, 9), "sm_80", True),
        ((9, 0), "sm_90a", True),
        ((12, 0), "sm_90", False),
        ((12, 0), "sm_120", True),
        ((10, 3), "sm_100f", True),
    ],
)
def test_code_runs_on_its_own_generation(capability: tuple[int, int], code: str, runs: bool) -> None:
    assert runs_on(capability, (code,)) == runs
    facts = GpuFacts(**{**GOOD.__dict__, "capability": capability, "code_for": (code,)})
    assert automatic_device(facts) == ("cuda" if runs else "cpu")


def test_apples_gpu_is_taken_only_when_it_is_named() -> None:
    mac = GpuFacts("2.13.0", mps=True)
    assert why_no_mps(mac) is None and automatic_device(mac) == "cpu" and automatic_dtype("mps", mac) == "fp32"
    assert "finds no Apple GPU (Metal) here" in str(why_no_mps(GOOD))


def test_precision_follows_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    from varlen_lab.config.names import named_config
    from varlen_lab.errors import InputError
    from varlen_lab.models import building

    config = named_config("tiny_llama_full_docstrings_e1").replace(device="cuda")
    old = GpuFacts(**{**GOOD.__dict__, "name": "Tesla T4", "capability": (7, 5), "code_for": ("sm_75",)})
    for facts, dtype in ((old, "fp16"), (GOOD, "bf16")):
        monkeypatch.setattr(building, "gpu_facts", lambda ask_driver=True, facts=facts: facts)
        assert building.resolve_dtype(config) == dtype and building.resolve_device(config) == "cuda"
    monkeypatch.setattr(building, "gpu_facts", lambda ask_driver=True: old)
    with pytest.raises(
        InputError, match=r"dtype is 'bf16' and Tesla T4 computes it in software, .* set dtype = 'fp16'"
    ):
        building.resolve_dtype(config.replace(dtype="bf16"))
    with pytest.raises(InputError, match=r"device = 'mps' cannot be had: .* finds no Apple GPU"):
        building.resolve_device(config.replace(device="mps"))


def test_a_device_by_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """The word alone, as a lesson has it: taken, chosen, or refused in a sentence."""
    from varlen_lab.errors import InputError
    from varlen_lab.models import building

    monkeypatch.setattr(building, "gpu_facts", lambda **_: GpuFacts("2.13.0+cpu"))
    assert building.resolve_device("auto") == building.resolve_device("cpu") == "cpu"
    for word, says in (("cuda", "cannot be had"), ("mps", "cannot be had"), ("tpu", "auto, cpu, cuda or mps")):
        with pytest.raises(InputError, match=says):
            building.resolve_device(word)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_driver_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver_versions() == (None, None)
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "{SMI}"\n')
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    assert driver_versions() == ("580.159.04", "13.0")
    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    assert driver_versions() == (None, None)


def test_the_wheel_that_fits() -> None:
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"+cu13torch2.11cxx11abiTRUE-{python}-{python}-linux_" in flash_attn_wheel(GOOD)
