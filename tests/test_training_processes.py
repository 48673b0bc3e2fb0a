"""Several processes are one: the same losses, checkpoints that go on and convert, and nobody left waiting."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import keystr, tree_leaves_with_path
from turns import by_turns

from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.errors import InputError
from varlen_lab.files.locks import held
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.conversion import convert
from varlen_lab.training.history import History
from varlen_lab.training.trainer import train

WAYS = {
    "ddp": [],
    "fsdp": ["--fsdp"],
    "zero1": ["--deepspeed", "deepspeed_zero1"],
    "zero2": ["--deepspeed", "deepspeed_zero2"],
    "zero3": ["--deepspeed", "deepspeed_zero3"],
}

# ------------------------------------------------------------------------------------------------- two of them


def start(config: Config, folder: Path, *flags: str) -> subprocess.Popen[str]:
    """``varlen-lab train`` in two processes of their own, working in ``folder/w``; its stderr is a pipe."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "c.py").write_text(render(config.replace(work_dir=str(folder / "w"))))
    command = [sys.executable, "-m", "varlen_lab", "train", "c.py", "--quiet", *flags]
    environment = os.environ | {"NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def run(config: Config, folder: Path, *flags: str, code: int = 0) -> str:
    """``start``, waited for; what it said on stderr."""
    process = start(config, folder, *flags)
    try:
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == code, said[-3000:]
    return said


def kill_after(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait for ``path``, then SIGKILL all processes of the run."""
    try:
        wait_for(path)
        workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        for worker in workers:
            os.kill(int(worker), signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()


def all_that_is_kept(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, weights and optimizer, of all processes."""
    shards = {file.name: torch.load(file, weights_only=False) for file in path.glob("zero/*.pt")}
    whole = read_checkpoint(path)
    kept = shards or {name: whole[name] for name in ("model", "optimizer")}
    return {keystr(at): value for at, value in tree_leaves_with_path(kept) if isinstance(value, torch.Tensor)}


@pytest.fixture
def twenty(small: Config) -> Config:
    return small.with_mode("varlen").replace(max_length=96, max_steps=20, save_steps=5, accumulative_counts=2)


@pytest.mark.alone
@pytest.mark.parametrize("way", by_turns(WAYS, always=0))
def test_two_processes_are_one(way: str, twenty: Config, tmp_path: Path) -> None:
    """Twenty steps, again with a kill on the way and a resume to the same bits; and the last checkpoint converts."""
    if way.startswith("zero"):
        pytest.importorskip("deepspeed")
    alone = train(twenty.replace(accumulative_counts=4, work_dir=str(tmp_path / "alone")), progress=False)
    run(twenty, tmp_path / way, *WAYS[way])
    folder = tmp_path / way / "w"
    both = History.read(folder / "history.jsonl")
    assert len(both.losses) == 20
    assert max(abs(one - two) for one, two in zip(alone.losses, both.losses)) <= 1e-5
    assert [r["tokens"] for r in both.records] == [r["tokens"] for r in alone.records]
    assert not list(folder.glob(".*"))  # nothing half written, nothing hidden

    killed = tmp_path / "killed"
    kill_after(killed / "w" / "iter_5.pth", start(twenty, killed, *WAYS[way]))
    assert not (killed / "w" / "iter_20.pth").exists()
    run(twenty, killed, *WAYS[way], "--resume")
    assert History.read(killed / "w" / "history.jsonl").losses == both.losses
    ends = [all_that_is_kept(place / "iter_20.pth") for place in (folder, killed / "w")]
    assert ends[0].keys() == ends[1].keys() and all(
        torch.equal(value, ends[1][name]) for name, value in ends[0].items()
    )

    config = twenty.replace(work_dir=str(folder))
    done = convert(config, folder / "iter_20.pth", tmp_path / way / "hf")
    assert done.max_logit_difference == 0 and done.step == 20
    one = read_checkpoint(alone.checkpoint or "")["model"]
    from transformers import AutoModelForCausalLM

    two = AutoModelForCausalLM.from_pretrained(tmp_path / way / "hf").state_dict()
    assert max(float((value - two[name]).abs().max()) for name, value in one.items()) < 2e-3


@pytest.mark.alone
@pytest.mark.parametrize("way", by_turns(["zero1", "zero2", "zero3"], always=0))
def test_an_adapter_under_deepspeed_goes_on(way: str, twenty: Config, tmp_path: Path) -> None:
    """Its checkpoints leave out what is frozen, which DeepSpeed misses unless it is told so."""
    pytest.importorskip("deepspeed")
    config = twenty.replace(method="lora", max_steps=4, save_steps=2)
    run(config, tmp_path, *WAYS[way])
    history, last = tmp_path / "w" / "history.jsonl", tmp_path / "w" / "iter_4.pth"
    losses, kept = History.read(history).losses, all_that_is_kept(last)
    shutil.rmtree(last)
    run(config, tmp_path, *WAYS[way], "--resume")
    again = all_that_is_kept(last)
    assert History.read(history).losses == losses and again.keys() == kept.keys()
    assert all(torch.equal(value, again[name]) for name, value in kept.items())


@pytest.mark.slow
@pytest.mark.alone
def test_two_processes_in_windows_are_one(twenty: Config, tmp_path: Path) -> None:
    """Rows of like cost share a step, the same ones whether one process accumulates four or two take two each."""
    config = twenty.replace(balance="window", balance_window=3, max_steps=8)
    alone = train(config.replace(accumulative_counts=4, work_dir=str(tmp_path / "alone")), progress=False)
    run(config, tmp_path / "two")
    both = History.read(tmp_path / "two" / "w" / "history.jsonl")
    assert both.losses == pytest.approx(alone.losses, abs=1e-5)
    for name in ("tokens", "sum_squared_lengths"):
        assert [record[name] for record in both.records] == [record[name] for record in alone.records]


@pytest.mark.slow
@pytest.mark.alone
def test_a_missing_shard_is_named(twenty: Config, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    run(twenty.replace(max_steps=2), tmp_path / "z", *WAYS["zero2"])
    folder = tmp_path / "z" / "w" / "iter_2.pth"
    next((folder / "zero").glob("*rank_1*optim_states.pt")).unlink()
    with pytest.raises(InputError, match="1 of 2 optimizer shards"):
        convert(twenty, folder, tmp_path / "hf")
    with pytest.raises(InputError, match="under DeepSpeed"):
        config = twenty.replace(max_steps=2, accumulative_counts=2, work_dir=str(tmp_path / "z" / "w"))
        state = read_checkpoint(folder)
        assert state["processes"] == 2
        from varlen_lab.models.building import build_model
        from varlen_lab.training.engines import make_accelerator, make_engine

        engine = make_engine(build_model(config), config, 2, make_accelerator(config))
        engine.restore(folder, state)


@pytest.mark.slow
@pytest.mark.alone
def test_lora_in_two_processes(twenty: Config, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = twenty.replace(method="lora", lora_r=4, lora_dropout=0.0, max_steps=4, lr=1e-2)
    alone = train(config.replace(accumulative_counts=4, work_dir=str(tmp_path / "alone")), progress=False)
    for way in ("ddp", "fsdp", *(["zero2"] if find_spec("deepspeed") else [])):
        run(config, tmp_path / way, *WAYS[way])
        folder = tmp_path / way / "w"
        both = History.read(folder / "history.jsonl")
        assert both.losses == pytest.approx(alone.losses, abs=1e-5)
        done = convert(config, folder / "iter_4.pth", tmp_path / way / "adapter")
        assert done.kind == "adapter" and done.max_logit_difference == 0


@pytest.mark.slow
@pytest.mark.alone
def test_one_dies_and_the_other_is_not_left_waiting(twenty: Config, tmp_path: Path) -> None:
    process = start(twenty.replace(max_steps=100_000, save_steps=5), tmp_path)
    try:
        wait_for(tmp_path / "w" / "iter_5.pth")
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        victim = next(c for c in children if b"RANK=1\0" in Path(f"/proc/{c}/environ").read_bytes())
        os.kill(int(victim), signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2 and "process 1 of 2 ended with SIGKILL" in said
    newest = max((tmp_path / "w").glob("iter_*.pth"), key=lambda path: int(path.stem[5:]))
    assert read_checkpoint(newest)["step"] >= 5


@pytest.mark.slow
@pytest.mark.alone
def test_sigterm_saves_in_all(twenty: Config, tmp_path: Path) -> None:
    process = start(twenty.replace(max_steps=100_000, save_steps=50_000), tmp_path)
    try:
        wait_for(tmp_path / "w" / "history.jsonl", lines=5)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143 and said.endswith("stopped by SIGTERM; go on with --resume\n"), said[-2000:]
    assert "Traceback" not in said
    (saved,) = (tmp_path / "w").glob("iter_*.pth")
    steps = [json.loads(line) for line in (tmp_path / "w" / "history.jsonl").read_text().splitlines()[1:]]
    assert read_checkpoint(saved)["step"] == steps[-1]["step"]


@pytest.mark.slow
@pytest.mark.alone
def test_a_folder_in_use_is_said_once_and_nobody_waits(twenty: Config, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    with held(tmp_path / "w", "varlen-lab train", "work_dir"):
        said = run(twenty, tmp_path, code=2)
    assert said.count("is in use by") == 1 and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.alone
def test_bad_input_is_said_once(twenty: Config, tmp_path: Path) -> None:
    said = run(twenty.replace(data_path="nowhere.jsonl"), tmp_path / "b", code=2)
    assert said.count("nowhere.jsonl") == 1 and "Traceback" not in said


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_leak_is_said_once_and_is_no_bad_input(way: str, twenty: Config, tmp_path: Path) -> None:
    leaking = {**(twenty.model_config or {}), "model_type": "lfm2", "layer_types": ["conv", "full_attention"]}
    said = run(twenty.replace(model_config=leaking, isolate=False), tmp_path, *WAYS[way], code=1)
    assert said.count("error: ") == 1 and "does not keep packed documents apart" in said and "Traceback" not in said
    assert not (tmp_path / "w").exists()


def wait_for(path: Path, lines: int = 0) -> None:
    end = time.monotonic() + 120
    while not path.exists() or (lines and len(path.read_text().splitlines()) < lines):
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.1)


def test_torch_is_not_told_about_processes_here() -> None:
    assert not torch.distributed.is_initialized()
