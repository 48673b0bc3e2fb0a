"""Several processes: who starts them, who they are, and who goes first.

    NPROC_PER_NODE=2 varlen-lab train CONFIG            one machine; as with XTuner's command
    torchrun --nproc-per-node 2 -m varlen_lab train CONFIG
    srun varlen-lab train CONFIG --launcher slurm       a process a task

All three end in the same place: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT in the environment, which
is what Accelerate and torch.distributed read.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from varlen_lab.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
LAUNCHERS = ("none", "pytorch", "slurm")


def wanted_processes() -> int:
    """``NPROC_PER_NODE`` where nobody has started processes yet, else 1."""
    text = os.environ.get("NPROC_PER_NODE", "1")
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise InputError(f"NPROC_PER_NODE is {text!r}, it is the number of processes to start, such as 2.")
    return 1 if "RANK" in os.environ else int(text)


def start_processes(count: int, words: list[str]) -> int:
    """Run ``varlen-lab WORDS`` in ``count`` processes of this machine and wait; returns the exit code.

    When one dies the others are ended, and its rank is named. NNODES, NODE_RANK, ADDR and PORT are read as XTuner
    reads them.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it says, we say shorter
    nodes = int(os.environ.get("NNODES", 1))
    # several machines agree on one address beforehand; on one machine torch finds a free port (0)
    static = nodes > 1
    address = f"{os.environ.get('ADDR', '127.0.0.1')}:{os.environ.get('PORT', 29500 if static else 0)}"
    # or every process would start a thread on every core
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=count,
        run_id=os.environ.get("SLURM_JOB_ID", str(os.getpid())),
        rdzv_backend="static" if static else "c10d",
        rdzv_endpoint=address,
        rdzv_configs={"rank": int(os.environ.get("NODE_RANK", 0)), "timeout": 900} if static else {},
        max_restarts=0,
        monitor_interval=0.5,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "varlen_lab", *words)
    except ChildFailedError as failure:
        number, first = failure.get_first_failure()
        if first.exitcode == 2:  # it has said why
            return 2
        how = signal.Signals(-first.exitcode).name if first.exitcode < 0 else f"exit code {first.exitcode}"
        raise InputError(
            f"process {number} of {count} ended with {how} and the others were stopped; what was saved is whole, "
            "go on with --resume."
        ) from None
    except SignalException as asked:  # the processes had 30 s to save
        return 0 if asked.sigval == signal.SIGTERM else 130
    return 0


def is_lost_connection(problem: RuntimeError) -> bool:
    """Whether torch.distributed says that a process at the other end is gone."""
    words = ("Connection closed by peer", "Connection reset by peer", "remote worker crashing", "NCCL", "recvmsg")
    return "WORLD_SIZE" in os.environ and any(word in str(problem) for word in words)


def export_slurm_ranks() -> None:
    """Put the names of torch.distributed beside Slurm's. InputError outside of a Slurm step."""
    missing = [name for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID") if name not in os.environ]
    if missing:
        raise InputError(f"--launcher slurm needs {', '.join(missing)} in the environment; start it with srun.")
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST") or "127.0.0.1"
    job = int(re.sub(r"\D", "", os.environ.get("SLURM_JOB_ID", "")) or 0)
    tasks_here = os.environ.get("SLURM_NTASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE", "")
    facts = {
        "RANK": os.environ["SLURM_PROCID"],
        "WORLD_SIZE": os.environ["SLURM_NTASKS"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": (re.match(r"\d+", tasks_here) or [os.environ["SLURM_NTASKS"]])[0],
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


def first_process_first(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """``work()`` in the first process of each machine, then in the others: what is cached is made once.

    The others wait as long as it takes (a week): the time-out of the GPUs' collectives does not run meanwhile.
    """
    if accelerator.num_processes == 1:
        return work()
    from datetime import timedelta

    import torch.distributed as dist

    # a group of its own: its time-out is ours, and the GPUs have no part in the waiting
    waiting = dist.new_group(backend="gloo", timeout=timedelta(days=7))
    result = work() if accelerator.is_local_main_process else None
    dist.barrier(waiting)
    if result is None:
        result = work()
    dist.barrier(waiting)
    dist.destroy_process_group(waiting)
    return result
