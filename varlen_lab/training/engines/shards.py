"""A checkpoint that no process ever holds whole: a folder in which each process has written what it keeps.

    iter_N.pth/run.pth                                            what every checkpoint says about its run, and the list
    iter_N.pth/shards/shard-00002-model-00001-of-00003.safetensors  slices of the second process

torch.distributed.checkpoint writes and reads the slices. It does so as safetensors: its usual format has a pickled
index, and nothing of a checkpoint is ever run. One process puts the slices together without the others.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.errors import InputError, first_line
from varlen_lab.training.engines.folders import check_folder

if TYPE_CHECKING:
    from accelerate import Accelerator

FOLDER = "shards"  # inside the folder of a checkpoint
SHARDS = "shards"  # the key in run.pth: files with their sizes, names of what is trained, names of tied weights
FILES, FILE_BYTES = 16, 2**24  # what a process keeps goes into about 16 files, of 16 MiB or more
MODEL, OPTIMIZER = "model.", "optimizer."  # what names of tensors begin with


def write_shards(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write slices of all processes into ``folder``, which they call together; OSError when one of them cannot."""
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageWriter, save

    sizes = [tensor.numel() * tensor.itemsize for tensor in tensors.values()]
    limit = max(sum(sizes) // FILES, FILE_BYTES * torch.distributed.get_world_size())
    # the file of each, numbered by the bytes before it, for torch copies all that goes into a file before it writes
    places = {name: before // limit + 1 for name, before in zip(tensors, accumulate([0, *sizes[:-1]]), strict=True)}
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=places, save_distributed=True)
    try:
        with silenced():
            save(tensors, storage_writer=writer)
    except CheckpointException as problem:  # told in all processes, whichever it happened in
        reason = next(iter(problem.failures.values()))[0]
        raise reason if isinstance(reason, OSError) else OSError(first_line(reason)) from None


def written_files(folder: Path) -> dict[str, int]:
    """Name and bytes of each file that ``write_shards`` left, all processes' together."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}


def read_shards(path: Path, listed: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Fill ``tensors``, whole ones or slices, in place from a checkpoint folder; each process by itself.

    ``listed``: what run.pth has under ``SHARDS``. InputError that names a shard which is missing or damaged.
    """
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, load

    check_files(path, listed)
    try:
        with silenced():
            load(tensors, storage_reader=HuggingFaceStorageReader(str(path / FOLDER)), no_dist=True)
    except CheckpointException as problem:
        reason = first_line(next(iter(problem.failures.values()))[0])
        raise InputError(
            f"the shards in {path / FOLDER} do not give the weights of this run ({reason}); take an older checkpoint."
        ) from None


def stored_tensors(path: Path, listed: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder, by name, on the "meta" device; InputError as ``read_shards``."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    check_files(path, listed)
    stored: dict[str, Any] = HuggingFaceStorageReader(str(path / FOLDER)).read_metadata().state_dict_metadata
    return {name: torch.empty(one.size, dtype=one.properties.dtype, device="meta") for name, one in stored.items()}


def check_shards(path: Path, state: dict[str, Any], accelerator: Accelerator | None = None) -> None:
    """As ``check_files``, and byte by byte; ``state`` and ``accelerator`` as for ``check_folder``."""
    check_files(path, state[SHARDS])
    check_folder(path, state, FOLDER, accelerator)


def check_files(path: Path, listed: dict[str, Any]) -> None:
    """InputError that names a file which is not there, was not written by the run, or is not as it was written."""
    from safetensors import SafetensorError, safe_open

    files, found = listed["files"], written_files(path / FOLDER)
    missing = [name for name in files if name not in found]
    if missing:
        raise InputError(
            f"{path / FOLDER} lacks {missing[0]}, {len(missing)} of {len(files)} shards are missing; copy them from "
            "where the run was, or take an older checkpoint."
        )
    if strange := found.keys() - files.keys():  # torch would read them too
        raise InputError(f"{path / FOLDER} has {min(strange)}, which the run did not write; move it away.")
    for name, size in files.items():
        with suppress(SafetensorError, OSError), safe_open(path / FOLDER / name, framework="pt"):
            if found[name] == size:
                continue
        raise InputError(
            f"{path / FOLDER / name} is damaged, it is not what the run wrote; copy it again, or take an older "
            "checkpoint."
        )


def whole_weights(path: Path, state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint folder whose run.pth is ``state``, as a checkpoint in one file has them.

    InputError that names a file which is not as it was written.
    """
    check_shards(path, state)
    weights = whole(path, state[SHARDS], MODEL)
    return weights | {name: weights[same] for name, same in state[SHARDS]["tied"].items()}


def whole_state(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """``state`` with weights and optimizer as a checkpoint in one file has them."""
    momenta = whole(path, state[SHARDS], OPTIMIZER)
    optimizer = with_tensors(state["optimizer"], state[SHARDS]["trained"], momenta)
    return {**state, "model": whole_weights(path, state), "optimizer": optimizer}


def whole(path: Path, listed: dict[str, Any], kind: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``kind``, without that beginning, read into memory."""
    wanted = {
        name: torch.empty_like(one, device="cpu")
        for name, one in stored_tensors(path, listed).items()
        if name.startswith(kind)
    }
    read_shards(path, listed, wanted)
    return {name.removeprefix(kind): tensor for name, tensor in wanted.items()}


def split_optimizer(state: dict[str, Any], trained: list[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """An optimizer's state without its slices, and those by the name of their weight and their own."""
    from torch.distributed.tensor import DTensor

    plain: dict[int, dict[str, Any]] = {}
    slices: dict[str, torch.Tensor] = {}
    for number, values in state["state"].items():
        plain[number] = {key: value for key, value in values.items() if not isinstance(value, DTensor)}
        slices |= {f"{trained[number]}.{key}": value for key, value in values.items() if isinstance(value, DTensor)}
    return {**state, "state": plain}, slices


def with_tensors(state: dict[str, Any], trained: list[str], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The inverse of ``split_optimizer``; names of ``tensors`` may begin with ``OPTIMIZER``."""
    numbers = {name: number for number, name in enumerate(trained)}
    full = {number: dict(values) for number, values in state["state"].items()}
    for name, tensor in tensors.items():
        weight, key = name.removeprefix(OPTIMIZER).rsplit(".", 1)
        full[numbers[weight]][key] = tensor
    return {**state, "state": full}


@contextmanager
def silenced() -> Iterator[None]:
    """No logs, no warnings: torch.distributed.checkpoint logs every failure, which then comes as an exception too."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
