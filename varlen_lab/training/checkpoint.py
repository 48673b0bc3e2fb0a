"""``iter_N.pth``: the weights of a run with everything needed to understand them, written whole or not at all."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from varlen_lab.errors import InputError

FORMAT = "varlen_lab checkpoint 1"
RUN = "run.pth"  # in a checkpoint that is a folder, as DeepSpeed's are: everything but the shards


def save(path: Path, contents: dict[str, Any]) -> None:
    """Write ``contents`` (tensors and plain values) so that ``path`` is never half a file: temp, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with unfinished.open("wb") as file:
            torch.save({"format": FORMAT, **contents}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as problem:
        if isinstance(problem, RuntimeError) and "PytorchStreamWriter" not in str(problem):
            raise
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem).split("\n")[0]
        raise InputError(
            f"{path} could not be written ({reason}); checkpoints saved before are whole: make room, then go on with "
            "--resume."
        ) from None
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running anything in it; InputError when it is not one of ours."""
    path = Path(path)
    if not path.exists():
        near = ", ".join(sorted(p.name for p in path.parent.glob("iter_*.pth"))) or "no iter_N.pth"
        raise InputError(f"there is no checkpoint {path}; {path.parent} has {near}.")
    if path.is_dir():
        if not (path / RUN).is_file():
            raise InputError(
                f"{path} is a folder without {RUN}, it is no checkpoint; pass an iter_N.pth of a work_dir."
            )
        path = path / RUN
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as problem:
        raise InputError(
            f"{path} cannot be read as a checkpoint ({type(problem).__name__}); it is cut short, or it holds more than "
            "weights and plain values and was made by another program."
        ) from None
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise InputError(
            f"{path} was not written by varlen-lab train, so its model is unknown; pass an iter_N.pth of a work_dir."
        )
    return contents
