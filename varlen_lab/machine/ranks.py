"""Which of several processes this one is, and which it should start, as the environment says.

    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT   one of several: torchrun, Slurm or a person started it
    NPROC_PER_NODE, NNODES, NODE_RANK, ADDR, PORT            it starts several; these are XTuner's names

What is wrong with them is said here, in one sentence, before anything waits for a process that cannot come.
"""

from __future__ import annotations

import os
import re
import socket
from typing import NamedTuple

from varlen_lab.errors import InputError
from varlen_lab.files.windows import WINDOWS

NUMBERS = {  # name -> least, most, what it is
    "NPROC_PER_NODE": (1, 9999, "the number of processes to start on this machine, such as 2"),
    "NNODES": (1, 9999, "the number of machines, such as 2"),
    "NODE_RANK": (0, 9998, "the number of this machine, the first is 0"),
    "PORT": (1, 65535, "a free TCP port of the first machine, such as 29500"),
    "RANK": (0, 999_998, "the number of this process, the first is 0"),
    "WORLD_SIZE": (1, 999_999, "the number of processes on all machines"),
    "LOCAL_RANK": (0, 9998, "the number of this process on its machine, the first is 0"),
    "LOCAL_WORLD_SIZE": (1, 9999, "the number of processes on this machine"),
    "MASTER_PORT": (1, 65535, "a free TCP port of the first machine, such as 29500"),
    "SLURM_PROCID": (0, 999_998, "the number of this task, as srun sets it"),
    "SLURM_NTASKS": (1, 999_999, "the number of tasks, as srun sets it"),
    "SLURM_LOCALID": (0, 9998, "the number of this task on its machine, as srun sets it"),
    "VARLEN_LAB_WAIT": (1, 604_800, "how many seconds processes wait for each other, such as 900"),
}
COUNTED_BY = {"RANK": "WORLD_SIZE", "LOCAL_RANK": "WORLD_SIZE", "NODE_RANK": "NNODES", "SLURM_PROCID": "SLURM_NTASKS"}
START_THEM = "start processes with NPROC_PER_NODE=2, torchrun or --launcher slurm, which set all of them"


class Place(NamedTuple):
    """One of several, and where they meet."""

    what: str  # process or machine
    number: int
    total: int
    host: str
    port: int
    names: tuple[str, str]  # of the variables that say the number and the port


def number(name: str, default: int | None = None) -> int:
    """A variable's value, ``default`` where it is not set. InputError when it is no number, or one that cannot be."""
    least, most, meaning = NUMBERS[name]
    text = os.environ.get(name, None if default is None else str(default))
    if text is None:
        raise InputError(f"{name} is not set, it is {meaning}.")
    if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) <= most:
        raise InputError(f"{name} is {text!r}, it is {meaning}.")
    count = COUNTED_BY.get(name)
    if count is not None and count in os.environ and int(text) >= number(count):
        raise InputError(f"{name} is {text} and {count} is {os.environ[count]}; the numbers run from 0, correct one.")
    return int(text)


def need(names: tuple[str, ...], reason: str, remedy: str) -> None:
    """InputError that names what is missing of ``names``."""
    if missing := [name for name in names if not os.environ.get(name)]:
        raise InputError(f"{reason} and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not; {remedy}.")


def this_process() -> Place | None:
    """Which process this is; None where it is the only one, or has not been told. InputError for what cannot be."""
    known = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in os.environ]
    if not known:
        return None
    for name in known:
        number(name)
    need(("RANK", "WORLD_SIZE"), f"{' and '.join(known)} {'is' if len(known) == 1 else 'are'} set", START_THEM)
    count = number("WORLD_SIZE")
    if count > 1:
        refuse_on_windows()
    if count == 1 and "LOCAL_RANK" not in os.environ:
        return None  # some clusters tell it to every lonely process
    need(("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"), "RANK and WORLD_SIZE are set", START_THEM)
    number("LOCAL_WORLD_SIZE", 1)
    address, names = os.environ["MASTER_ADDR"], ("RANK", "MASTER_PORT")
    return Place("process", number("RANK"), count, address, number("MASTER_PORT"), names)


def is_first() -> bool:
    """Whether this is the only process, or of several the one that speaks and writes for all of them."""
    return os.environ.get("RANK", "0") == "0"


def to_start() -> tuple[int, Place | None]:
    """How many processes to start here, 0 for none, and which of several machines this is. InputError as above."""
    if "RANK" in os.environ:  # it was started itself
        return 0, None
    here, machines = number("NPROC_PER_NODE", 1), number("NNODES", 1)
    if "NODE_RANK" in os.environ and number("NODE_RANK") >= machines:
        raise InputError(f"NODE_RANK is {number('NODE_RANK')} and NNODES is not set, so there is one machine; set it.")
    if here == machines == 1:  # it asks for nobody, whatever else PORT and ADDR are for on this machine
        return 0, None
    refuse_on_windows()
    port = number("PORT", 29500)
    if machines == 1:
        check_address()
        return here, None
    remedy = "set NODE_RANK=0, 1, ... and the first machine's name as ADDR"
    need(("NODE_RANK", "ADDR"), f"NNODES is {machines}", remedy)
    return here, Place("machine", number("NODE_RANK"), machines, os.environ["ADDR"], port, ("NODE_RANK", "PORT"))


def refuse_on_windows() -> None:
    """InputError on Windows: torch for Windows comes without the store its launcher meets at, and without NCCL."""
    if WINDOWS:
        raise InputError(
            "several processes do not work with torch for Windows, which lacks libuv and NCCL; start one process "
            "(without NPROC_PER_NODE, NNODES and torchrun), or run this in WSL."
        )


def check_address() -> None:
    """InputError when ADDR is set and is no address of this machine, the only one."""
    host = os.environ.get("ADDR")
    if host is None:
        return
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except (OSError, UnicodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise InputError(
            f"ADDR is {host!r}, which is not an address of this machine ({reason}), and NNODES says there is no other; "
            "set NNODES and NODE_RANK, or leave ADDR out."
        ) from None


def export_slurm_ranks() -> None:
    """Put the names of torch.distributed beside Slurm's. InputError outside of a Slurm step."""
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    if missing := [name for name in names if name not in os.environ]:
        raise InputError(f"--launcher slurm needs {', '.join(missing)} in the environment; start it with srun.")
    rank, size, local = (str(number(name)) for name in names)
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST") or "127.0.0.1"
    job = int(re.sub(r"\D", "", os.environ.get("SLURM_JOB_ID", "")) or 0)
    tasks_here = os.environ.get("SLURM_NTASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE", "")
    facts = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": local,
        "LOCAL_WORLD_SIZE": (re.match(r"\d+", tasks_here) or [size])[0],
        "MASTER_ADDR": first_host(nodes),
        "MASTER_PORT": str(20000 + job % 20000),  # two jobs on a machine take different ones
    }
    for name, value in facts.items():
        os.environ.setdefault(name, value)


def first_host(nodes: str) -> str:
    """The first machine of a Slurm list: ``gpu[03-05,9],cpu1`` -> ``gpu03``."""
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes.strip())
    if not found:
        raise InputError(f"SLURM_NODELIST is {nodes!r}, it is a list of machines such as gpu[03-05].")
    return found[1] + (found[2] or "")
