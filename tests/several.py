"""Work in several gloo processes of this machine, as ``torchrun`` would start them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing


def in_processes(count: int, folder: Path, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``work(*args)``, a function of a module, returned in each of ``count`` processes, by rank."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_one, (count, port, folder, work, args), nprocs=count)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _one(rank: int, count: int, port: int, folder: Path, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    torch.save(work(*args), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
