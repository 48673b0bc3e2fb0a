"""Several processes: who starts them, how they end, and who goes first.

    NPROC_PER_NODE=2 varlen-lab train CONFIG            one machine; as with XTuner's command
    torchrun --nproc-per-node 2 -m varlen_lab train CONFIG
    srun varlen-lab train CONFIG --launcher slurm       a process a task

All three end in the same place: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in the environment, which
is what Accelerate and torch.distributed read.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from varlen_lab.errors import InputError
from varlen_lab.machine.environment import cores
from varlen_lab.machine.meeting import COME_WITHIN, check_port, meet
from varlen_lab.machine.ranks import Place, number, this_process
from varlen_lab.machine.signals import STOPPED

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
LAUNCHERS = ("none", "pytorch", "slurm")


def start_processes(count: int, words: list[str], machine: Place | None = None) -> int:
    """Run ``varlen-lab WORDS`` in ``count`` processes here and wait; returns the exit code.

    ``machine``: which one of several this is; they meet first. When a process dies the others are ended, and its rank
    is named. InputError when a port is taken, and for machines that do not come.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it says, we say shorter
    nodes, address = 1, "127.0.0.1:0"  # torch finds a free port
    if machine is not None:  # several agree on an address beforehand
        nodes, address = machine.total, f"{machine.host}:{machine.port}"
    elif "PORT" in os.environ:
        address = f"127.0.0.1:{number('PORT')}"
        check_port(number("PORT"), "PORT")
    met = meet(machine) if machine else []
    # or every process would start a thread on every core
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // count)))
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=count,
        run_id="varlen_lab",  # the same on all machines; runs are told apart by where they meet
        rdzv_backend="static" if machine else "c10d",
        rdzv_endpoint=address,
        rdzv_configs={"rank": machine.number, "timeout": COME_WITHIN} if machine else {},
        max_restarts=0,
        monitor_interval=0.5,
    )
    try:
        elastic_launch(config, sys.executable)(*as_here(), "-m", "varlen_lab", *words)
    except ChildFailedError as failure:
        rank, first = failure.get_first_failure()
        if first.exitcode in (1, 2, 130, STOPPED):  # it has said why, as alone
            return int(first.exitcode)
        how = signal.Signals(-first.exitcode).name if first.exitcode < 0 else f"exit code {first.exitcode}"
        raise InputError(
            f"process {rank} of {count} ended with {how} and the others were stopped; what was saved is whole, "
            "go on with --resume."
        ) from None
    except SignalException as asked:  # the processes had 30 s to save
        return 130 if asked.sigval == signal.SIGINT else STOPPED
    finally:
        met.clear()  # the store of the first machine lives as long as the processes
    return 0


def as_here() -> list[str]:
    """The flag with which ``python -m`` imports nothing from the current folder, unless this process does so too.

    The command ``varlen-lab`` does not, and its processes must not run a ``torch.py`` that came with somebody's model.
    """
    return [] if {"", os.getcwd()} & set(sys.path) else ["-P"]


def is_lost_connection(problem: RuntimeError) -> bool:
    """Whether torch.distributed says that a process at the other end is gone."""
    words = ("Connection closed by peer", "Connection reset by peer", "remote worker crashing", "NCCL", "recvmsg")
    return "WORLD_SIZE" in os.environ and any(word in str(problem) for word in words)


@cache
def end_with_launcher() -> None:
    """End this process soon after the launcher that started it is gone, if one did: a killed launcher ends nobody.

    What is being written is lost, never half there. Without it two trainings would hold the GPUs of one.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # Slurm ends its tasks itself
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def join_processes(card: str | None = None) -> list[Any]:
    """Meet the other processes of this run, if there are any; keep what comes back until they are connected."""
    place = this_process()
    if place is None:
        return []
    end_with_launcher()
    return meet(place, card)


def waiting_group() -> Any:
    """A group for waiting without a limit; formed while all are there: who dies later is missed in it at once."""
    from datetime import timedelta

    import torch.distributed as dist

    # gloo: its time-out is ours, the GPUs have no part in the waiting, and it sees a connection close
    return dist.new_group(backend="gloo", timeout=timedelta(days=7))


def first_process_first(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """``work()`` in the first process of each machine, then in the others: what is cached is made once.

    The others wait as long as it takes (a week), or until a process is gone (RuntimeError): the time-out of the GPUs'
    collectives does not run meanwhile. ``accelerator``: one of ``make_accelerator``.
    """
    if accelerator.num_processes == 1:
        return work()
    import torch.distributed as dist

    waiting = accelerator.waiting_group  # type: ignore[attr-defined]
    result = work() if accelerator.is_local_main_process else None
    dist.barrier(waiting)
    if result is None:
        result = work()
    dist.barrier(waiting)
    return result
