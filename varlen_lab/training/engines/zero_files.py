"""How DeepSpeed's shards are written and read: by the one writer and the one reader, and nothing in them is run.

DeepSpeed itself unpickles what it finds. ``ShardFiles`` gives its engine our way to read and write; its script that
puts shards together has a way of its own, which ``weights_only`` holds to weights and plain values.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.errors import InputError
from varlen_lab.files.reading import read_tensors
from varlen_lab.files.writing import written_whole
from varlen_lab.training.engines.folders import in_all, in_shares

if TYPE_CHECKING:
    from accelerate import Accelerator

# torch's own switches: for all of a process, whatever a call of torch.load says
FORCE, FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
INSTEAD = "take a checkpoint that you trust"
_switching = threading.RLock()


def in_shards() -> tuple[Any, ...]:
    """The classes that DeepSpeed's shards hold besides tensors and plain values; each only keeps what it is given."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address


class ShardFiles:
    """What a DeepSpeed engine reads and writes its checkpoints by, instead of its own way."""

    problem: OSError | None = None  # what kept a shard from being written

    def take_over(self, engine: Any) -> None:
        """Let ``engine`` call these functions for every file."""
        from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

        files = TorchCheckpointEngine()
        files.save, files.load = self.write, read_shard
        engine.checkpoint_engine = files

    def write(self, state_dict: dict[str, Any], path: str) -> None:
        """A shard, whole or not at all. A full disk is kept for ``check``: the other processes wait for this one."""
        try:
            with written_whole(Path(path)) as file:
                torch.save(state_dict, file)
        except OSError as problem:
            self.problem = problem

    def check(self) -> None:
        """The OSError of a shard that was not written, in all processes, which call this when all have written."""
        problem, self.problem = self.problem, None

        def tell() -> None:
            if problem is not None:
                raise problem

        in_all(tell)


def read_shard(path: str, map_location: object = None) -> Any:
    """What a shard holds, on the CPU; InputError where it is damaged or holds more than a shard does."""
    return read_tensors(Path(path), INSTEAD, allowed=in_shards())


def check_contents(folder: Path, accelerator: Accelerator | None = None) -> None:
    """InputError that names a shard which is damaged or holds what would have to be run; weights are not read.

    With ``accelerator`` all processes call this, and each looks at its share.
    """

    def look(rank: int, count: int) -> None:
        for path in sorted(folder.glob("*.pt"))[rank::count]:
            if not isinstance(read_tensors(path, INSTEAD, mmap=True, allowed=in_shards()), dict):
                raise InputError(f"{path} is no shard of DeepSpeed's; {INSTEAD}.")

    in_shares(accelerator, look)


@contextmanager
def weights_only() -> Iterator[None]:
    """Inside, ``torch.load`` runs nothing, whoever calls it and however; one thread at a time is inside."""
    with _switching, torch.serialization.safe_globals(list(in_shards())):
        before = {name: os.environ.pop(name, None) for name in (FORCE, FORCE_NOT)}
        os.environ[FORCE] = "1"
        try:
            yield
        finally:
            del os.environ[FORCE]
            os.environ |= {name: value for name, value in before.items() if value is not None}
