"""Machines one has not got are a handful of values: each obstacle is named with its remedy."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from varlen_lab.machine.gpu import GIB, GpuFacts, driver_versions, flash_attn_wheel, why_unusable

GOOD = GpuFacts("2.11.0+cu130", "13.0", "580.159", "13.0", True, "NVIDIA H100", (9, 0), ("sm_80", "sm_90"), 79 * GIB)
SMI = "| NVIDIA-SMI 580.159.04    Driver Version: 580.159.04    CUDA Version: 13.0     |"

CASES = [
    ({"usable": False, "driver": None, "driver_cuda": None}, "no NVIDIA GPU here"),
    ({"usable": False, "built_for": None, "torch": "2.13.0+cpu"}, r"2.13.0\+cpu was built without CUDA; .*2.13.0 for"),
    ({"usable": False, "driver": "535.54", "driver_cuda": "12.2"}, "13.0 and driver 535.54 runs CUDA up to 12.2; upd"),
    ({"usable": False}, "cannot start the GPU; .*CUDA_VISIBLE_DEVICES"),
    ({"name": "Tesla T4", "capability": (7, 5)}, r"Tesla T4 has compute capability 7.5, .* need 8.0"),
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
    forward = GpuFacts(**{**GOOD.__dict__, "capability": (12, 0), "code_for": ("sm_90", "compute_90")})
    assert why_unusable(forward) is None  # its driver compiles what was left as PTX


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


def test_a_kernel_that_does_not_import_is_named_with_the_wheel_that_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata is there, the compiled part was built for another torch: the row says both, and what would fit."""
    from varlen_lab.machine import environment

    known = environment.version
    monkeypatch.setattr(environment, "version", lambda name: "2.8.3" if name == "flash-attn" else known(name))
    monkeypatch.setattr(environment, "gpu_facts", lambda: GOOD)
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # import raises
    row = environment.flash_attention_row()
    assert row.state == "note" and "2.8.3 is installed but its kernel does not import" in row.value
    assert "+cu13torch2.11" in row.value
