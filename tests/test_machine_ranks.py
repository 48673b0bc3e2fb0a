"""What the environment says of several processes: read as it stands, and what cannot be is one sentence, at once."""

from __future__ import annotations

import os
import socket

import pytest
from expect import refused

from varlen_lab.cli import main
from varlen_lab.machine import ranks

ONE_OF_TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
TWO_MACHINES = {"NPROC_PER_NODE": "8", "NNODES": "2", "NODE_RANK": "1", "ADDR": "node0", "PORT": "29600"}
SLURM = {"PROCID": "5", "NTASKS": "16", "LOCALID": "1", "STEP_NODELIST": "gpu[03-05,9]", "JOB_ID": "123456"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch):
    """A function that sets these variables, after none was; put back afterwards, also what the code under test set."""
    for name in (*ranks.NUMBERS, "MASTER_ADDR", "ADDR", *(f"SLURM_{name}" for name in SLURM)):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def put(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)

    return put


def test_what_the_page_says_is_read(environment) -> None:
    assert ranks.this_process() is None and ranks.to_start() == (0, None)
    environment({"NPROC_PER_NODE": "1", "PORT": "tcp://10.0.0.1:80", "ADDR": "no.such.invalid"})
    assert ranks.to_start() == (0, None)  # a cluster has its own use for these names, and one process has none
    environment({"ADDR": None})
    environment({"NPROC_PER_NODE": "8", "PORT": "29501"})
    assert ranks.to_start() == (8, None)
    environment(TWO_MACHINES)
    assert ranks.to_start() == (8, ("machine", 1, 2, "node0", 29600, ("NODE_RANK", "PORT")))
    environment({"NPROC_PER_NODE": None, "PORT": None})
    assert ranks.to_start() == (1, ("machine", 1, 2, "node0", 29500, ("NODE_RANK", "PORT")))
    environment(ONE_OF_TWO)
    assert ranks.this_process() == ("process", 1, 2, "node0", 29500, ("RANK", "MASTER_PORT"))
    assert ranks.to_start() == (0, None)  # it was started, and starts nobody


def test_a_lonely_process_may_be_told_so(environment) -> None:
    environment({"RANK": "0", "WORLD_SIZE": "1"})
    assert ranks.this_process() is None


@pytest.mark.parametrize("name", ranks.NUMBERS)
@pytest.mark.parametrize("value", ["two", "-1", "", "1.5", "99999999999", " 1"])
def test_what_is_no_number_is_refused_by_name(environment, name: str, value: str) -> None:
    environment({name: value})
    with refused(f"{name} is '{value}', it is "):
        ranks.number(name, 1)


WRONG_FOR_ONE = [
    ({"RANK": "x"}, "RANK is 'x'"),
    ({"RANK": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
    ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2 and WORLD_SIZE is 2"),
    ({"WORLD_SIZE": None}, "RANK and LOCAL_RANK are set and WORLD_SIZE is not"),
    ({"RANK": None}, "WORLD_SIZE and LOCAL_RANK are set and RANK is not"),
    ({"RANK": None, "WORLD_SIZE": None}, "LOCAL_RANK is set and RANK and WORLD_SIZE are not"),
    ({"LOCAL_RANK": None}, "RANK and WORLD_SIZE are set and LOCAL_RANK is not"),
    ({"MASTER_ADDR": None, "MASTER_PORT": None}, "set and MASTER_ADDR and MASTER_PORT are not"),
    ({"MASTER_ADDR": ""}, "set and MASTER_ADDR is not"),
    ({"MASTER_PORT": "99999"}, "MASTER_PORT is '99999'"),
    ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE is '0'"),
]


@pytest.mark.parametrize("change, said", WRONG_FOR_ONE)
def test_what_cannot_be_of_one_process(environment, change: dict[str, str | None], said: str) -> None:
    environment(ONE_OF_TWO | change)
    with refused(said):
        ranks.this_process()


WRONG_FOR_MACHINES = [
    ({"NPROC_PER_NODE": "two"}, "NPROC_PER_NODE is 'two'"),
    ({"PORT": "0"}, "PORT is '0'"),
    ({"NODE_RANK": "2"}, "NODE_RANK is 2 and NNODES is 2"),
    ({"NODE_RANK": None}, "NNODES is 2 and NODE_RANK is not"),
    ({"ADDR": None, "NODE_RANK": None}, "NNODES is 2 and NODE_RANK and ADDR are not"),
    ({"NNODES": None}, "NODE_RANK is 1 and NNODES is not set"),
    ({"NNODES": None, "NODE_RANK": None, "ADDR": "no.such.invalid"}, "ADDR is 'no.such.invalid'"),
    ({"NNODES": None, "NODE_RANK": None, "ADDR": "192.0.2.1"}, "not an address of this machine"),
]


@pytest.mark.parametrize("change, said", WRONG_FOR_MACHINES)
def test_what_cannot_be_started(environment, change: dict[str, str | None], said: str) -> None:
    environment(TWO_MACHINES | change)
    with refused(said):
        ranks.to_start()


def test_an_address_of_this_machine_is_one(environment) -> None:
    environment({"NPROC_PER_NODE": "2", "ADDR": "127.0.0.1"})
    assert ranks.to_start() == (2, None)


def test_slurm_is_read(environment) -> None:
    with refused("SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID in the environment; start it with srun"):
        ranks.export_slurm_ranks()
    environment({f"SLURM_{name}": value for name, value in SLURM.items()} | {"SLURM_NTASKS_PER_NODE": "4"})
    try:
        environment({"SLURM_PROCID": "16"})
        with refused("SLURM_PROCID is 16 and SLURM_NTASKS is 16"):
            ranks.export_slurm_ranks()
        environment({"SLURM_PROCID": "5"})
        ranks.export_slurm_ranks()
        assert os.environ["LOCAL_WORLD_SIZE"] == "4"
        assert ranks.this_process() == ("process", 5, 16, "gpu03", 23456, ("RANK", "MASTER_PORT"))
    finally:
        for name in [*ONE_OF_TWO, "LOCAL_WORLD_SIZE"]:
            os.environ.pop(name, None)


@pytest.mark.parametrize(
    ("nodes", "host"), [("cpu1", "cpu1"), ("a[1-3],b2", "a1"), ("n[007,9]", "n007"), ("x1,x2", "x1")]
)
def test_first_host(nodes: str, host: str) -> None:
    assert ranks.first_host(nodes) == host


@pytest.mark.parametrize("words", [["list-cfg", "--no-such"], ["train", "nowhere"], ["train"]])
def test_a_wrong_rank_costs_no_verb_its_sentence(
    environment, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    environment({"RANK": "x"})
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_train_says_it_before_it_starts_anything(
    environment, config_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for values, said in [
        ({"NPROC_PER_NODE": "two"}, "NPROC_PER_NODE is 'two'"),
        ({"NPROC_PER_NODE": None, "RANK": "x"}, "RANK is 'x'"),
        ({"RANK": "0"}, "RANK is set and WORLD_SIZE is not"),
    ]:
        environment(values)
        assert main(["train", config_file]) == 2
        assert said in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        environment({"RANK": None, "NPROC_PER_NODE": "2", "PORT": port})
        assert main(["train", config_file]) == 2
        assert f"port {port} cannot be used on this machine (Address already in use)" in capsys.readouterr().err
