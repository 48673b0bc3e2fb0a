"""The kernel of a run is chosen once, told to all processes, written down, and kept by a run that goes on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from varlen_lab.attention import dispatch
from varlen_lab.attention.choosing import AttentionShape
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.attention.timing import Choice
from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.errors import InputError
from varlen_lab.models.building import families, tiny, variants
from varlen_lab.studies.comparison import compare
from varlen_lab.training import kernel
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.history import History
from varlen_lab.training.trainer import train

RECEIPT = Choice("reference", "fastest of 2", {"reference": 1.0, "sdpa": 2.0}, "5 documents", {"flex": "is slow"})


@pytest.fixture
def config(small: Config) -> Config:
    return small.with_mode("varlen").replace(max_steps=4, save_steps=2, save_total_limit=-1)


@pytest.fixture
def took(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The backends whose functions were called."""
    found: set[str] = set()
    names = {backend.function: name for name, backend in BACKENDS.items()}
    resolve = dispatch.resolve_name

    def noting(function: str) -> Any:
        found.add(names[function])
        return resolve(function)

    monkeypatch.setattr(dispatch, "resolve_name", noting)
    return found


def choosing(monkeypatch: pytest.MonkeyPatch, choice: Choice | None) -> None:
    """Let runs choose this; None: to choose at all is a fault."""
    monkeypatch.setattr(
        kernel, "choose_kernel", lambda *given, **more: choice or pytest.fail("a kernel was chosen again")
    )


def test_what_was_chosen_is_used_and_written_down(
    config: Config, took: set[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    choosing(monkeypatch, RECEIPT)
    with caplog.at_level("INFO", "varlen_lab"):
        history = train(config, progress=False)
    assert took == {"reference"} and history.meta["backend"] == "reference"
    said = caplog.text
    assert "attention backend reference (cpu, float32), fastest of 2: 1.00 ms beside sdpa 2.00" in said
    assert said.count("attention backend") == 1
    work_dir = Path(config.work_dir or "")
    assert History.read(work_dir / "history.jsonl").meta["kernel_choice"] == asdict(RECEIPT)
    assert read_checkpoint(work_dir / "iter_2.pth")["meta"]["kernel_choice"] == asdict(RECEIPT)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_compiled_run_says_so_when_it_chooses(config: Config, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(kernel, "choose_kernel", lambda shape, *given: told.append(shape.compiled) or RECEIPT)
    for compiled in (False, True):
        with pytest.raises(KeyboardInterrupt):  # before anything is compiled
            train(config.replace(torch_compile=compiled, method=method), progress=False, on_start=interrupted)
    assert told == [False, True]


def interrupted(*given: Any) -> None:
    raise KeyboardInterrupt


def test_on_a_cpu_the_receipt_says_who_could_not(config: Config) -> None:
    choice = train(config, progress=False).meta["kernel_choice"]
    assert choice["backend"] == "sdpa" and choice["milliseconds"] == {}
    assert choice["ineligible"]["torch_varlen"] == "runs on cuda, not on cpu"
    assert choice["ineligible"].keys() == BACKENDS.keys() - {"sdpa"}


def test_a_run_goes_on_with_the_kernel_it_had(
    config: Config, took: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    choosing(monkeypatch, RECEIPT)
    whole = train(config, progress=False)
    took.clear()
    choosing(monkeypatch, None)
    half = Path(config.work_dir or "") / "iter_2.pth"
    again = train(config.replace(work_dir=str(tmp_path / "again")), progress=False, resume=half)
    assert took == {"reference"} and again.losses == whole.losses[2:]
    assert again.meta["kernel_choice"] == asdict(RECEIPT) | {"reason": "kept: fastest of 2"}
    state = read_checkpoint(Path(again.checkpoint or ""))["meta"]["kernel_choice"]
    assert state == again.meta["kernel_choice"]
    third = train(config.replace(work_dir=str(tmp_path / "third")), progress=False, resume=again.checkpoint)
    assert third.meta["kernel_choice"]["reason"] == "kept: fastest of 2"


def test_a_kernel_that_is_not_here_any_more_is_named_and_another_may_be(
    config: Config, took: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config.replace(max_steps=2), progress=False)
    config = config.replace(max_steps=2)
    monkeypatch.setattr(kernel, "read_checkpoint", lambda path: {"meta": {"mode": "varlen", "backend": "torch_varlen"}})
    with pytest.raises(
        InputError, match="trained with attention backend 'torch_varlen', which runs on cuda, not on cpu"
    ):
        train(config, progress=False, resume=True)
    took.clear()
    train(config.replace(attn_backend="reference"), progress=False, resume=True)  # named: it may change


def test_a_named_kernel_that_cannot_is_refused_before_the_first_step(config: Config) -> None:
    with pytest.raises(InputError, match="'flash_attn', named by attn_backend, runs on cuda, not on cpu; set attn_"):
        train(config.replace(attn_backend="flash_attn"), progress=False)


OLD = {"mode": "varlen", "backend": "reference"}
STRANGE = {"kernel_choice": {"backend": "gone", "reason": None, "milliseconds": [], "news": 1}}


@pytest.mark.parametrize(
    ("meta", "backend"),
    [
        (OLD, "reference"),
        (OLD | STRANGE, "reference"),
        ({"mode": "packed", "backend": []}, "sdpa"),
        ("no dict", "sdpa"),
    ],
)
def test_a_checkpoint_with_another_receipt_or_none_goes_on(
    config: Config, monkeypatch: pytest.MonkeyPatch, meta: Any, backend: str
) -> None:
    config = config.replace(max_steps=2, save_steps=1)
    train(config, progress=False)
    monkeypatch.setattr(kernel, "read_checkpoint", lambda path: {"meta": meta})
    history = train(config, progress=False, resume=Path(config.work_dir) / "iter_1.pth")
    assert history.meta["backend"] == backend


def test_a_backend_that_is_gone_is_named(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config.replace(max_steps=2), progress=False)
    monkeypatch.setattr(kernel, "read_checkpoint", lambda path: {"meta": {"mode": "varlen", "backend": "gone"}})
    with pytest.raises(InputError, match="backend 'gone', which this version does not have; go on with another"):
        train(config.replace(max_steps=2), progress=False, resume=True)


def test_other_seeds_keep_the_first_ones_kernel(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And its receipt, in the files of all."""
    chosen: list[Choice] = []
    monkeypatch.setattr(kernel, "choose_kernel", lambda *given: chosen.append(RECEIPT) or RECEIPT)
    path = tmp_path / "c.py"
    path.write_text(render(config.replace(max_steps=2)), encoding="utf-8")
    modes = ("--modes", "packed", "varlen")
    assert main(["compare", str(path), *modes, "--seeds", "2", "--quiet", "-o", str(tmp_path / "out")]) == 0
    assert len(chosen) == 1
    second = json.loads((tmp_path / "out" / "comparison_1.json").read_text(encoding="utf-8"))
    assert second["runs"]["varlen"]["meta"]["kernel_choice"]["milliseconds"] == RECEIPT.milliseconds


def test_a_comparison_says_its_kernel(config: Config, monkeypatch: pytest.MonkeyPatch, took: set[str]) -> None:
    choosing(monkeypatch, RECEIPT)
    found = compare(config.replace(max_steps=2))
    assert took == {"reference"} and found.histories["varlen"].meta["kernel_choice"] == asdict(RECEIPT)
    assert "kernel_choice" not in found.histories["unpacked"].meta


@pytest.mark.slow
def test_two_real_processes_agree(tmp_path: Path) -> None:
    """Each chooses another kernel; both use the first one's."""
    program = """
import torch
from accelerate import Accelerator
from varlen_lab.attention.choosing import AttentionShape
from varlen_lab.attention.timing import Choice
from varlen_lab.training import kernel
accelerator = Accelerator(cpu=True)
kernel.choose_kernel = lambda *given: Choice(["reference", "sdpa"][accelerator.process_index], "fastest")
rows = [{"seq_lengths": [3, 2]}]
print(kernel.choose_in_first_process(AttentionShape(2, 1, 8, 8), rows, [0], accelerator, torch.float32).backend)
"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ
            | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["reference", "reference"]


def test_a_shape_is_what_the_layers_ask_for() -> None:
    """Seen by attention itself, for every family: heads, widths, cap, slopes; a window where any layer has one."""
    import torch

    for family in families():
        for variant in variants(family):
            model, seen = tiny(family, variant).eval(), []
            shape = AttentionShape.of(model)
            model.set_attn_implementation("varlen_reference")

            def noting(q: Any, k: Any, v: Any, row: Any, options: Any, seen: list = seen) -> Any:
                slopes = options.alibi_slopes is not None
                widths = (q.shape[1], k.shape[1], q.shape[2], v.shape[2])
                seen.append(AttentionShape(*widths, options.softcap, slopes, options.window))
                return torch.zeros(*q.shape[:2], v.shape[2])

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(dispatch, "resolve_name", lambda function, noting=noting: noting)
                cu = torch.tensor([0, 3, 5], dtype=torch.int32)
                positions = torch.tensor([[0, 1, 2, 0, 1]])
                model(
                    torch.ones(1, 5, dtype=torch.long), position_ids=positions, cu_seq_lens_q=cu, cu_seq_lens_k=cu,
                    max_length_q=3, max_length_k=3, use_cache=False,
                )  # fmt: skip
            assert shape in seen and {one[:6] for one in seen} == {shape[:6]}, (family, variant, shape, seen)
