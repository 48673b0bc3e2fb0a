"""Ctrl-C, SIGTERM and SIGHUP at every phase of ``train``: one line, the signal's exit code, nothing half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.machine import signals
from varlen_lab.training import trainer
from varlen_lab.training.checkpoint import checkpoints_in, read_checkpoint
from varlen_lab.training.history import History

GO_ON = "stopped by SIGTERM; go on with --resume\n"
PREPARING = ("load_tokenizer", "build_model", "planned_data", "decide_kernel", "check_in_first_process", "make_engine")
STEPPING = ("held_out_loss", "refuse_nonfinite", "rng_state")
ENDS = {"SIGINT": (130, "error: interrupted\n"), "SIGTERM": (143, GO_ON), "SIGHUP": (143, GO_ON.replace("TERM", "HUP"))}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Python's own, as a command finds them, and as it must leave them."""
    numbers = [getattr(signal, name) for name in ENDS if hasattr(signal, name)]
    before = [
        signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL) for number in numbers
    ]
    during = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == during
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def signalled(number: int, call: Callable[..., Any], at: int = 1) -> Callable[..., Any]:
    """``call``, in whose ``at``-th call the process gets a signal."""
    calls = []

    def called(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            signal.raise_signal(number)
        return call(*args, **more)

    return called


@pytest.fixture
def words(small: Config, tmp_path: Path) -> list[str]:
    config = small.with_mode("varlen").replace(max_steps=6, save_steps=2, evaluation_freq=1, evaluation_share=0.2)
    path = tmp_path / "c.py"
    path.write_text(render(config), encoding="utf-8")
    return ["train", str(path), "--quiet"]


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "w").rglob("*"))


@pytest.mark.parametrize("name", [name for name in ENDS if hasattr(signal, name)])
@pytest.mark.parametrize("phase", PREPARING)
def test_a_signal_before_the_first_step(
    name: str, phase: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(trainer, phase, signalled(getattr(signal, name), getattr(trainer, phase)))
    assert (main(words), capsys.readouterr().err) == ENDS[name]
    assert left(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("phase", STEPPING)
def test_a_signal_in_a_step_or_a_save(
    name: str, phase: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """SIGTERM: step and save are finished. Ctrl-C: what was saved is whole. And ``--resume`` is the whole run."""
    whole = trainer.train(trainer_config(words).replace(work_dir=str(tmp_path / "whole")), progress=False)
    at = 4 if phase == "held_out_loss" else 2  # in step 4, or in the checkpoint of step 4
    with monkeypatch.context() as patch:
        patch.setattr(trainer, phase, signalled(getattr(signal, name), getattr(trainer, phase), at))
        assert (main(words), capsys.readouterr().err) == ENDS[name]
    saved = checkpoints_in(tmp_path / "w")
    assert [read_checkpoint(path)["step"] for path in saved][-1] == (2 if name == "SIGINT" else last_step(tmp_path))
    assert not [one for one in left(tmp_path) if "partial" in one]
    assert main([*words, "--resume"]) == 0
    assert History.read(tmp_path / "w" / "history.jsonl").losses == whole.losses


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a system without it")
def test_a_terminal_that_closes_during_a_step_is_what_ended_the_run(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(trainer, "refuse_nonfinite", signalled(signal.SIGHUP, trainer.refuse_nonfinite))
    assert (main(words), capsys.readouterr().err) == ENDS["SIGHUP"]


def trainer_config(words: list[str]) -> Config:
    from varlen_lab.config.text import load_config

    return load_config(words[1])


def last_step(tmp_path: Path) -> int:
    return int(History.read(tmp_path / "w" / "history.jsonl").records[-1]["step"])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_what_a_library_makes_of_a_signal_in_a_write(
    name: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """torch writes from C++, where Ctrl-C becomes an error of its own."""

    def interrupted(*_: Any) -> None:
        try:
            signal.raise_signal(getattr(signal, name))
        except BaseException:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0") from None

    if name == "SIGTERM":  # a save is finished, so the write does not see it
        monkeypatch.setattr(torch, "save", signalled(signal.SIGTERM, torch.save, at=2))
    else:
        monkeypatch.setattr(torch, "save", second_time(torch.save, interrupted))
    assert (main(words), capsys.readouterr().err) == ENDS[name]
    assert [path.name for path in checkpoints_in(tmp_path / "w")][-1] == (
        "iter_2.pth" if name == "SIGINT" else "iter_5.pth"
    )
    assert not [one for one in left(tmp_path) if "partial" in one]


def second_time(first: Callable[..., Any], then: Callable[..., Any]) -> Callable[..., Any]:
    calls = []

    def called(*args: Any, **more: Any) -> Any:
        calls.append(1)
        return (first if len(calls) == 1 else then)(*args, **more)

    return called


def test_a_signal_in_the_last_step_ends_a_finished_run(words: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    """``train && convert`` converts it: nothing is left to train."""
    monkeypatch.setattr(trainer, "held_out_loss", signalled(signal.SIGTERM, trainer.held_out_loss, at=6))
    assert main(words) == 0 and last_step(tmp_path) == 6


# ------------------------------------------------------------------------------------------------- what is heard


def test_what_was_swallowed_is_raised_again() -> None:
    def swallow(number: int) -> None:
        with suppress(BaseException):
            signal.raise_signal(number)

    with pytest.raises(KeyboardInterrupt), signals.heeded():
        swallow(signal.SIGINT)
    with pytest.raises(signals.Terminated, match="SIGTERM"), signals.heeded():
        swallow(signal.SIGTERM)
        signals.raise_heard()
        raise AssertionError("it went on")
    with pytest.raises(ValueError, match="a bug"), signals.heeded():  # which keeps its traceback
        raise ValueError("a bug")
    with signals.heeded():
        pass


def test_what_comes_right_behind_is_the_same_request() -> None:
    """As SIGHUP and SIGTERM of a terminal that closes: the second would break into the tidying up of the first."""
    tidied = []
    with pytest.raises(signals.Terminated, match="SIGTERM"), signals.heeded(), signals.heeded():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            tidied.append(True)
    assert tidied


def test_what_is_heard_where_an_object_ends_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Ending:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(signals.Terminated), signals.heeded():
        one = Ending()
        del one
    assert capsys.readouterr().err == ""


VERB = """
import sys, signal, time, types
from varlen_lab import cli
from varlen_lab.cli.registry import VERBS, Verb

def run(args):
    print("begun", flush=True)
    time.sleep(60)

class Slow:  # the end of a process takes a moment
    def __del__(self, sleep=time.sleep):
        print("ending", flush=True)
        sleep(1)

slow = Slow()
sys.modules["varlen_lab.cli.long"] = types.SimpleNamespace(add_arguments=lambda parser: None, run=run)
VERBS["long"] = Verb("long", "long", "long")
sys.argv[1:] = ["long"]
sys.exit(cli.main())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="a system without it")
@pytest.mark.parametrize("name", ENDS)
def test_any_verb_ends_in_one_line_with_the_code_of_the_signal(name: str) -> None:
    """Whatever comes behind it, while Python takes itself apart too."""
    words: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    process = subprocess.Popen([sys.executable, "-c", VERB], **words)
    try:
        assert process.stdout.readline() == "begun\n"  # type: ignore[union-attr]
        process.send_signal(getattr(signal, name))
        assert process.stdout.readline() == "ending\n"  # type: ignore[union-attr]
        process.send_signal(signal.SIGHUP)
        said = process.communicate(timeout=20)[1]
    finally:
        process.kill()
    assert (process.returncode, said) == (130 if name == "SIGINT" else 143, ENDS[name][1].split(";")[0].rstrip() + "\n")


def test_who_ignores_signals_still_does() -> None:
    """As ``nohup`` has it for SIGHUP, and a shell's ``&`` for Ctrl-C."""
    if not hasattr(signal, "SIGHUP"):
        pytest.skip("Windows has none")
    before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)]
    try:
        with signals.heeded():
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGINT, before[1])


TWICE = """
import os, signal, time
from multiprocessing import get_context
from varlen_lab.machine.signals import heeded

def stubborn():
    time.sleep(60)

child = get_context("fork").Process(target=stubborn)
with heeded():
    child.start()
    try:
        print(child.pid, flush=True)
        time.sleep(60)
    finally:
        print("tidying", flush=True)
        time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="a process group is Unix'")
def test_a_second_ctrl_c_ends_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", TWICE], stdout=subprocess.PIPE, encoding="utf-8")
    try:
        child = int(process.stdout.readline())  # type: ignore[union-attr]
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "tidying\n"  # type: ignore[union-attr]
        process.send_signal(signal.SIGINT)  # within half a second: a launcher that passes on the same press
        time.sleep(2 * signals.ONE_PRESS)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        with pytest.raises(ProcessLookupError):
            for _ in range(100):
                os.kill(child, 0)
                time.sleep(0.1)
    finally:
        process.kill()


# ------------------------------------------------------------------------------------------------- whole groups


def started(config: Config, folder: Path, **more: Any) -> subprocess.Popen[str]:
    """``varlen-lab train`` as a group of processes of its own, working in ``folder/w``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "c.py").write_text(render(config.replace(work_dir=str(folder / "w"), **more)), encoding="utf-8")
    command = [sys.executable, "-m", "varlen_lab", "train", "c.py", "--quiet"]
    return subprocess.Popen(
        command, cwd=folder, start_new_session=True, encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def processes_of(session: int) -> list[str]:
    """What still runs of a group, by the names of its processes."""
    found = subprocess.run(["ps", "-o", "stat=,args=", "-s", str(session)], capture_output=True, encoding="utf-8")
    return [line for line in found.stdout.splitlines() if not line.startswith("Z")]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="a process group is Unix'")
@pytest.mark.parametrize("name", list(ENDS))
def test_a_signal_to_a_whole_group_with_workers(name: str, small: Config, tmp_path: Path) -> None:
    """As a terminal and a batch system send it. Workers that died first would end the run without a checkpoint."""
    config = small.with_mode("varlen").replace(max_steps=10**5, max_epochs=10**5, dataloader_num_workers=2)
    process = started(config, tmp_path, save_steps=10**5)
    history = tmp_path / "w" / "history.jsonl"
    try:
        end = time.monotonic() + 120
        while not history.exists() or len(history.read_text().splitlines()) < 5:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, getattr(signal, name))
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    code, words = ENDS[name]
    assert (process.returncode, said) == (code, words) and processes_of(process.pid) == []
    saved = checkpoints_in(tmp_path / "w")
    assert [read_checkpoint(path)["step"] for path in saved] == ([] if name == "SIGINT" else [last_step(tmp_path)])
