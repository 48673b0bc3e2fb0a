"""A backend is one record: put in here and nowhere else, it is found wherever backends are listed."""

from __future__ import annotations

import math
import re
from pkgutil import resolve_name
from typing import Any

import pytest
import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.store import varlen_kernels
from varlen_lab.attention.choosing import choose, usable
from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.huggingface import hf_name_of, register
from varlen_lab.attention.reference import attend_reference
from varlen_lab.attention.registry import BACKENDS, Backend
from varlen_lab.cli import main
from varlen_lab.config import load_config
from varlen_lab.errors import InputError
from varlen_lab.machine.gpu import GpuFacts
from varlen_lab.packing.boundaries import Boundaries

CALLS: list[int] = []
DUMMY = Backend(
    name="dummy",
    hf_name="varlen_dummy",
    function=f"{__name__}:attend_dummy",
    about="anywhere: the reference under another name",
    alibi=True,
    auto_rank=0,
)


def attend_dummy(*tensors: Any) -> torch.Tensor:
    CALLS.append(len(tensors[0]))
    return attend_reference(*tensors)


@pytest.fixture
def dummy(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    monkeypatch.setitem(BACKENDS, "dummy", DUMMY)
    for names in (AttentionInterface, AttentionMaskInterface):  # what register() adds goes with the dummy
        monkeypatch.setattr(names, "_global_mapping", dict(names._global_mapping))
    CALLS.clear()


def test_it_is_a_choice_of_the_setting(dummy: None) -> None:
    config = load_config("tiny_llama_full_docstrings_e1")
    assert config.replace(attn_backend="dummy").attn_backend == "dummy"
    with pytest.raises(InputError, match="did you mean 'dummy'"):
        config.replace(attn_backend="dumy")


def test_auto_takes_it_where_it_ranks_first_and_can(dummy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("cpu", torch.float32) == "dummy"
    assert choose("cpu", torch.float32, softcap=50.0) == "reference"  # the dummy has none
    for change in (
        {"devices": ("cuda",)},
        {"dtypes": ("float16",)},
        {"modules": ("no_such_kernel",)},
        {"widest_head": 32},
        {"probe": f"{__name__}:never"},
    ):
        monkeypatch.setitem(BACKENDS, "dummy", Backend(**{**vars(DUMMY), **change}))
        assert choose("cpu", torch.float32) == "sdpa", change
        assert "dummy" not in usable("cpu", torch.float32)
    monkeypatch.setitem(BACKENDS, "dummy", Backend(**{**vars(DUMMY), "auto_rank": None}))  # there, and not for auto
    assert choose("cpu", torch.float32) == "sdpa" and "dummy" in usable("cpu", torch.float32)


def never(*asked: Any) -> bool:
    return False


def test_attend_calls_it_and_names_it_to_who_mistypes(dummy: None) -> None:
    row = Boundaries.from_lengths([3, 2])
    q, k, v = (torch.randn(5, 2, 4) for _ in range(3))
    out = attend(q, k, v, row, backend="dummy")
    torch.testing.assert_close(out, attend(q, k, v, row, backend="reference"))
    assert CALLS == [5]
    with pytest.raises(InputError, match="did you mean 'dummy'"):
        attend(q, k, v, row, backend="dumy")


def test_transformers_knows_its_name(dummy: None) -> None:
    assert "varlen_dummy" in register() and hf_name_of("dummy") == "varlen_dummy"


def test_check_env_runs_it(dummy: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("varlen_lab.cli.check_env.gpu_facts", lambda **_: GpuFacts("2.13.0"))
    assert main(["check-env"]) == 0
    assert "auto takes 'dummy'" in capsys.readouterr().out and CALLS
    monkeypatch.setitem(BACKENDS, "dummy", Backend(**{**vars(DUMMY), "auto_rank": None}))
    assert main(["check-env"]) == 0
    assert re.search("dummy +here; .*; checked, differs by", capsys.readouterr().out)


def test_the_benchmarks_run_it(dummy: None, tmp_path: Any) -> None:
    assert Bench("cpu", math.inf, tmp_path, rehearsal=True).kernels == ["dummy", "sdpa"]
    assert "dummy" in varlen_kernels()


@pytest.mark.parametrize("backend", list(BACKENDS.values()), ids=list(BACKENDS))
def test_a_record_is_whole(backend: Backend) -> None:
    assert callable(resolve_name(backend.function)) and BACKENDS[backend.name] is backend
    assert backend.hf_name.startswith("varlen_") and "flash" not in backend.hf_name
    assert backend.about and "\n" not in backend.about
    assert backend.probe is None or callable(resolve_name(backend.probe))
