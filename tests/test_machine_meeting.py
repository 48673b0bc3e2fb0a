"""Processes that belong to a run wait for each other aloud, and end in a sentence when one cannot come."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from expect import refused
from torch.distributed import PrefixStore

from varlen_lab.machine import meeting
from varlen_lab.machine.ranks import Place
from varlen_lab.training.engines import card_of_this_process


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def place(number: int, count: int = 2, **changes: Any) -> Place:
    return Place("process", number, count, "127.0.0.1", free_port(), ("RANK", "MASTER_PORT"))._replace(**changes)


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Place]]:
    """A function that lets the first process of two have written these facts, and gives the place of the second."""
    servers = []
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)

    def there(**facts: str) -> Place:
        first = place(0)
        servers.append(meeting.serve(first))
        store = PrefixStore("varlen_lab/process/0", servers[-1])
        for name, value in ({"count": "2", "is/0": "first"} | facts).items():
            store.set(name, value)
        return first._replace(number=1)

    yield there
    servers.clear()


def test_who_is_alone_waits_for_nobody() -> None:
    assert meeting.meet(place(0, 1))


def test_the_last_one_in_waits_for_nobody(others: Callable[..., Place]) -> None:
    assert meeting.meet(others())
    assert meeting.meet(others(), card="GPU-1")
    again = others(**{"is/1": meeting.MYSELF})
    assert meeting.meet(again)  # a second run in the same processes


@pytest.mark.parametrize(
    "facts, said",
    [
        ({"count": "4"}, "process 1 cannot take part: it is one of 2 and others are not"),
        ({"is/1": "somebody"}, "another one has RANK=1 too"),
        ({"card/GPU-1": "somebody"}, "takes the same GPU; start at most one process a GPU"),
    ],
)
def test_who_does_not_fit_is_told_and_tells_the_others(
    others: Callable[..., Place], facts: dict[str, str], said: str
) -> None:
    second = others(**facts)
    with refused(said):
        meeting.meet(second, card="GPU-1")
    store = PrefixStore("varlen_lab/process/0", meeting.connect(second))
    with refused(said):
        meeting.wait_for_all(store, second._replace(number=0, total=3))


def test_who_waits_asks_the_same_few_questions_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand processes ask one store, five times a second."""
    asked: list[list[str]] = []
    store = SimpleNamespace(check=lambda keys: asked.append(keys) or (keys != ["wrong"] and len(asked) > 9))
    monkeypatch.setattr(meeting.time, "sleep", lambda _: None)
    meeting.wait_for_all(store, place(7, 1000))  # type: ignore[arg-type]
    assert len(asked) == 11 and len({str(keys) for keys in asked}) == 2


def test_who_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "SAY_AFTER", 0.1)
    monkeypatch.setenv("VARLEN_LAB_WAIT", "1")
    first = place(0, 3)
    with (
        pytest.warns(UserWarning, match=f"waiting for process 1, 2 of 3 at 127.0.0.1:{first.port}, 1 s at most"),
        refused("process 1, 2 of 3 did not come to .* in 1 s.*or wait longer with VARLEN_LAB_WAIT=SECONDS"),
    ):
        meeting.meet(first)


@pytest.mark.parametrize("host, why", [("127.0.0.1", "refused"), ("no.such.invalid", "not known"), ("a" * 99, "")])
def test_an_address_where_nobody_answers_is_named(monkeypatch: pytest.MonkeyPatch, host: str, why: str) -> None:
    monkeypatch.setattr(meeting, "SAY_AFTER", 0.1)
    monkeypatch.setenv("VARLEN_LAB_WAIT", "1")
    with (
        pytest.warns(UserWarning, match=f"waiting for an answer from {host}"),
        refused(f"process of this run does not answer at {host}.*{why}"),
    ):
        meeting.meet(place(1, host=host))


def test_a_port_that_another_program_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first cannot serve there; the second finds a program that never speaks."""
    monkeypatch.setattr(meeting, "GREET_WITHIN", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with refused(f"port {port} cannot be used on this machine .*; take another one with MASTER_PORT"):
            meeting.meet(place(0, port=port))
        with refused(f"at 127.0.0.1:{port} answers another program than the first process"):
            meeting.meet(place(1, port=port))


def test_a_first_one_that_ends_is_missed(others: Callable[..., Place], monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise RuntimeError("Connection reset by peer\nmore")

    monkeypatch.setattr(meeting, "wait_for_all", gone)
    with refused(r"the first process of this run, at .*, has ended \(Connection reset by peer\)"):
        meeting.meet(others())


def test_a_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Accelerate does: with a third process two would share one, and say so where they meet."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"GPU-{number}"))
    assert card_of_this_process("cpu") is None
    cards = []
    for number in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(number))
        cards.append(card_of_this_process("cuda"))
    assert cards == ["GPU-0", "GPU-1", "GPU-0"]


# ------------------------------------------------------------------------------------------------ real processes


def start(config_file: str, *flags: str, **environment: str) -> subprocess.Popen[str]:
    """``varlen-lab train`` with this environment; what it says on stderr is a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "varlen_lab", "train", config_file, "--quiet", *flags],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def ended(*processes: subprocess.Popen[str]) -> list[tuple[int, str]]:
    """Exit code and words of each, within a minute."""
    try:
        said = [process.communicate(timeout=60)[1] for process in processes]
        return [(process.returncode, words) for process, words in zip(processes, said)]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.alone
def test_a_killed_launcher_leaves_no_process(config_file: str, tmp_path: Path) -> None:
    options = ["--cfg-options", "max_steps=100000", "save_steps=100000"]
    launcher = start(config_file, *options, NPROC_PER_NODE="2")
    try:
        history = tmp_path / "w" / "history.jsonl"
        end = time.monotonic() + 120
        while not history.exists() or len(history.read_text().splitlines()) < 4:
            assert time.monotonic() < end
            time.sleep(0.1)
        children = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True).stdout.split()
        assert len(children) == 2
    finally:
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
    end = time.monotonic() + 10
    while alive := [child for child in children if is_running(child)]:
        assert time.monotonic() < end, alive
        time.sleep(0.1)


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.alone
def test_two_machines_and_tasks_of_slurm(config_file: str) -> None:
    """Both machines are this one. Then a task whose model is missing: the other does not wait for it."""
    both = {"NPROC_PER_NODE": "1", "NNODES": "2", "ADDR": "127.0.0.1", "PORT": str(free_port())}
    late, first = (start(config_file, **both, NODE_RANK=number) for number in "10")
    assert [code for code, _ in ended(late, first)] == [0, 0]

    slurm = {"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_JOB_ID": str(free_port())}
    tasks = []
    for number, options in enumerate([[], ["pretrained_model_name_or_path=./nowhere", "model_config=None"]]):
        flags = ["--launcher", "slurm", *(["--cfg-options", *options] if options else [])]
        tasks.append(start(config_file, *flags, **slurm, SLURM_PROCID=str(number), SLURM_LOCALID=str(number)))
    (one, waits), (two, lacks) = ended(*tasks)
    assert (one, two) == (2, 2)
    assert "process 1: " in lacks and "nowhere" in lacks and "another process of this run has ended" in waits
