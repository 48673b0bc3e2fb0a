"""What a run goes on from: ``iter_N.pth``.

A checkpoint holds the weights with everything needed to understand them. The plan of a run is a pure function of
config and data (``plan.plan_steps``), so the step number is the whole position in it. What must not have changed
meanwhile is compared, and a difference is named instead of trained on.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from varlen_lab.config.schema import Config, setting_names
from varlen_lab.config.text import load_text
from varlen_lab.errors import InputError, first_line
from varlen_lab.files.windows import WINDOWS
from varlen_lab.files.writing import add_to_digest, remove, written_whole
from varlen_lab.models.fingerprints import differ
from varlen_lab.training.plan import same_plan

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = "varlen_lab checkpoint 2"
RENAMED_SINCE = {"varlen_lab checkpoint 1": {"dice": "rng_state"}}  # earlier format -> its keys, and what they are now
RUN_FILE = "run.pth"  # in a checkpoint that is a folder, as DeepSpeed's are: everything but the shards
# settings that say where, how often and by which exact kernel, not what is computed
MAY_CHANGE = {
    "attn_backend",
    "isolate",
    "work_dir",
    "save_steps",
    "save_total_limit",
    "checkpoint_format",
    "evaluation_freq",
    "evaluation_inputs",
    "dataloader_num_workers",
    "visualizer",
    "gradient_checkpointing",
}


def save_checkpoint(
    path: Path, contents: dict[str, Any], write: Callable[[dict[str, Any], IO[bytes]], object] | None = None
) -> None:
    """Write ``contents`` (tensors and plain values), whole or not at all; InputError for a full disk.

    ``write``: what does so, by default ``torch.save``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_told(path), written_whole(path) as file:
        (write or torch.save)({"format": FORMAT, **contents}, file)
        if path.is_dir():  # a run of several processes wrote it; no file can take the place of a folder
            remove(path)


@contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """InputError where the block, which writes ``path`` of a run or a part of it, finds no room."""
    try:
        yield
    except (OSError, RuntimeError) as problem:
        # torch's zip writer turns a full disk into a RuntimeError, in one of two wordings; any other one is a bug
        if isinstance(problem, RuntimeError) and not re.search("PytorchStreamWriter|inline_container", str(problem)):
            raise
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else first_line(problem)
        raise InputError(
            f"{path} could not be written ({reason}); checkpoints saved before are whole: make room, then go on with "
            "--resume."
        ) from None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running anything in it; InputError when it is not one of ours."""
    path = Path(path)
    if not path.exists():
        near = ", ".join(sorted(p.name for p in path.parent.glob("iter_*.pth"))) or "no iter_N.pth"
        raise InputError(f"there is no checkpoint {path}; {path.parent} has {near}.")
    if path.is_dir():
        if not (path / RUN_FILE).is_file():
            raise InputError(
                f"{path} is a folder without {RUN_FILE}, it is no checkpoint; pass an iter_N.pth of a work_dir."
            )
        path = path / RUN_FILE
    try:
        # mapped, not read: who needs the step or the config alone does not load the weights. Windows deletes no file
        # that is mapped, and a resumed run deletes old checkpoints
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=not WINDOWS)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as problem:
        raise InputError(
            f"{path} cannot be read as a checkpoint ({type(problem).__name__}); it is cut short, or it holds more than "
            "weights and plain values and was made by another program."
        ) from None
    found = contents.get("format") if isinstance(contents, dict) else None
    if not str(found).startswith("varlen_lab checkpoint "):
        raise InputError(
            f"{path} was not written by varlen-lab train, so its model is unknown; pass an iter_N.pth of a work_dir."
        )
    if found != FORMAT and found not in RENAMED_SINCE:
        raise InputError(
            f"{path} has the format {found!r}, this version reads {', '.join([*RENAMED_SINCE, FORMAT])}; convert it "
            "with the version that wrote it."
        )
    return {**renamed(contents, RENAMED_SINCE.get(found, {})), "format": FORMAT}


def renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The same values in the same order, each key in ``names`` under its new name."""
    return {names.get(name, name): value for name, value in values.items()}


def checkpoints_in(work_dir: Path) -> list[Path]:
    """All ``iter_N.pth`` of a work dir, oldest first."""
    found = [path for path in work_dir.glob("iter_*.pth") if re.fullmatch(r"iter_\d+", path.stem)]
    return sorted(found, key=lambda path: int(path.stem[5:]))


def data_fingerprint(rows: Dataset) -> str:
    """Twelve hex digits of what the rows hold, whatever cache or folder they came from."""
    digest = hashlib.sha256()
    table = rows.with_format("arrow")[:]
    add_to_digest(digest, (table[name] for name in ("input_ids", "labels", "seq_lengths")))
    return digest.hexdigest()[:12]


def open_checkpoint(path: Path, config: Config, meta: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint that this run may go on from; ``meta``: of its history.

    InputError when it belongs to another config, other data or another plan.
    """
    state = read_checkpoint(path)
    trained = load_text(state["config"], f"the config inside {path}")
    for name in setting_names():
        before, now = getattr(trained, name), getattr(config, name)
        if name not in MAY_CHANGE and before != now:
            raise InputError(
                f"{path} was trained with {name} = {before!r} and the config says {now!r}, so the run would not be the "
                "same; put the setting back, or start anew in another work_dir."
            )
    processes, fingerprint = meta["processes"], meta["data"]
    if state.get("processes", 1) != processes:
        raise InputError(
            f"{path} was trained in {state.get('processes', 1)} processes and there are {processes} now, a step would "
            f"hold other documents; start {state.get('processes', 1)}."
        )
    if state.get("data") != fingerprint:
        raise InputError(
            f"{path} was trained on other data than {config.data_path!r} gives now (fingerprint {state.get('data')}, "
            f"now {fingerprint}); put the data back, or start anew in another work_dir."
        )
    was = state.get("meta", {})
    # costs come from the model as this transformers builds it
    if not same_plan(was.get("plan", meta["plan"]), meta["plan"]):
        raise InputError(
            f"{path} was trained on these rows in another order than they are planned in now, some would come twice; "
            f"go on with the versions that wrote it (transformers {was.get('transformers')}), or start anew in another "
            "work_dir."
        )
    if differ(was.get("base"), meta.get("base")):
        raise InputError(
            f"{path} is an adapter that was trained beside other weights than those of "
            f"{config.pretrained_model_name_or_path!r} now (fingerprint {was['base'][:12]}, now {meta['base'][:12]}); "
            "put the model back, or start anew in another work_dir."
        )
    return state


def rng_state() -> dict[str, torch.Tensor]:
    """The states of the random generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_rng_state(states: dict[str, torch.Tensor]) -> None:
    """Put the generators back."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
