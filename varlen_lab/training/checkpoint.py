"""What a run goes on from: ``iter_N.pth``.

A checkpoint holds the weights with everything needed to understand them. The plan of a run is a pure function of
config and data (``plan.plan_steps``), so the step number is the whole position in it. What must not have changed
meanwhile is compared, and a difference is named instead of trained on.

Behind it stands the digest of its bytes (``damage``), which is compared before anything is read. A damaged checkpoint
is refused, and the newest one before it that is whole is named: to go on from that one is a person's choice.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves

from varlen_lab.config.schema import Config, setting_names
from varlen_lab.config.text import load_text
from varlen_lab.errors import InputError, first_line, quoted
from varlen_lab.files.checksums import bytes_free, seal
from varlen_lab.files.places import megabytes
from varlen_lab.files.reading import parse_json, read_tensors
from varlen_lab.files.windows import WINDOWS
from varlen_lab.files.writing import add_to_digest, remove, written_whole
from varlen_lab.models.fingerprints import changed_setting, differ
from varlen_lab.training.contents import NOT_OURS, check_contents
from varlen_lab.training.damage import RUN_FILE, check_bytes, check_files
from varlen_lab.training.plan import same_plan

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = "varlen_lab checkpoint 3"
# earlier format -> its keys, and what they are now; these have no digest behind them
RENAMED_SINCE = {"varlen_lab checkpoint 1": {"dice": "rng_state"}, "varlen_lab checkpoint 2": {}}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
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

    def finish(draft: Path) -> None:
        seal(draft)
        if path.is_dir():  # a run of several processes wrote it; no file can take the place of a folder
            remove(path)

    with full_disk_told(path):
        check_room(path.parent, bytes_of(contents))
        with written_whole(path, finish=finish) as file:
            (write or torch.save)({"format": FORMAT, **contents}, file)


def bytes_of(contents: Any) -> int:
    """What the tensors in a checkpoint will take on the disk, those that share their memory once."""
    sizes = {}
    for one in tree_leaves(contents):
        if hasattr(one, "to_local"):  # shared out over processes, and all of it is written
            sizes[one.to_local().data_ptr()] = one.numel() * one.itemsize
        elif isinstance(one, torch.Tensor):
            sizes[one.data_ptr()] = one.untyped_storage().nbytes()
    return sum(sizes.values())


def check_room(folder: Path, size: int) -> None:
    """OSError, as a full disk gives it, where so many bytes find no room."""
    free = bytes_free(folder)
    if size > free:
        raise OSError(errno.ENOSPC, f"it needs {megabytes(size)}, and its disk has {megabytes(free)} left")


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
        raise InputError(f"{path} could not be written ({reason}); {after_failed_write(path, problem)}.") from None


def after_failed_write(path: Path, problem: OSError | RuntimeError) -> str:
    """What to do, and the newest checkpoint that is whole, when ``path`` of a run could not be written."""
    # of a checkpoint that is a folder, its parts lie in a draft until all are there
    folder = next((one for one in path.parents if not one.name.endswith(".partial")), path.parent)
    if not folder.is_dir():
        return (
            f"{folder} is gone, and with it what was saved there: bring it back and go on with --resume, or start anew"
        )
    remedy = "make room" if getattr(problem, "errno", errno.ENOSPC) not in FORBIDDEN else "let it be written"
    return f"{remedy}, then {otherwise(folder / path.name)} (--resume)"


def read_checkpoint(path: str | Path, *names: str) -> dict[str, Any]:
    """Read a checkpoint, if it is as it was written, without running anything in it; ``names``: keys it must have.

    InputError when it is damaged or not one of ours, with the newest one before it that is neither.
    """
    path = Path(path)
    if not there(path):
        near = ", ".join(one.name for one in checkpoints_in(path.parent)) or "no iter_N.pth"
        raise InputError(f"there is no checkpoint {path}; {path.parent} has {near}.")
    try:
        contents = opened(path)
    except InputError as problem:
        raise refused(path, str(problem)) from None
    return needed(path, contents, *names)


def needed(path: Path, contents: dict[str, Any], *names: str) -> dict[str, Any]:
    """The same contents; InputError where one of the ``names`` is not among them."""
    if missing := [name for name in names if name not in contents]:
        raise refused(path, f"{path} has no {missing[0]!r}, {NOT_OURS}")
    return contents


def opened(path: Path) -> dict[str, Any]:
    """As ``read_checkpoint``, of one that is there; others beside it are not looked at."""
    file = path / RUN_FILE if path.is_dir() else path
    if path.is_dir() and not there(file):
        raise InputError(
            f"{path} is a folder without {RUN_FILE}, it is no checkpoint; pass an iter_N.pth of a work_dir."
        )
    sealed = check_bytes(file)
    # mapped, not read: who needs the step or the config alone does not load the weights. Windows deletes no file
    # that is mapped, and a resumed run deletes old checkpoints
    contents = read_tensors(file, NOT_OURS, mmap=not WINDOWS)
    found = contents.get("format") if isinstance(contents, dict) else None
    if not isinstance(found, str) or not found.startswith("varlen_lab checkpoint "):
        raise InputError(
            f"{path} was not written by varlen-lab train, so its model is unknown; pass an iter_N.pth of a work_dir."
        )
    if found != FORMAT and found not in RENAMED_SINCE:
        raise InputError(
            f"{path} has the format {quoted(found)}, this version reads {', '.join([*RENAMED_SINCE, FORMAT])}; convert "
            "it with the version that wrote it."
        )
    if found == FORMAT and not sealed:
        raise InputError(f"{path} is damaged, the digest behind it is gone.")
    contents = {**renamed(contents, RENAMED_SINCE.get(found, {})), "format": FORMAT}
    check_contents(contents, str(path))
    return contents


def refused(path: Path, why: str) -> InputError:
    """The error to raise for a checkpoint that cannot be used: a sentence, which this ends with what to go on from."""
    return InputError(f"{why.removesuffix('.')}; {otherwise(path)}.")


def otherwise(path: Path) -> str:
    """``go on from iter_20.pth, which is whole``: the newest checkpoint before this one, or else after it, that can be
    read; or that there is none."""
    number = number_of(path)
    others = [one for one in reversed(checkpoints_in(path.parent)) if one.name != path.name]
    for one in sorted(others, key=lambda one: number_of(one) > number):  # each half stays as it is, newest first
        with suppress(InputError):
            check_files(one, opened(one))
            return f"go on from {one}, which is whole"
    return f"there is no other checkpoint in {path.parent}" + " that is whole" * bool(others)


def there(path: Path) -> bool:
    """Whether a file or folder has this name; InputError for a name that cannot be looked up."""
    try:
        return path.exists()
    except (OSError, ValueError) as problem:  # a loop of links, a folder that may not be entered, a zero byte
        raise InputError(
            f"{path} cannot be read ({getattr(problem, 'strerror', None) or problem}); name another."
        ) from None


def renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The same values in the same order, each key in ``names`` under its new name."""
    return {names.get(name, name): value for name, value in values.items()}


def checkpoints_in(work_dir: Path) -> list[Path]:
    """All ``iter_N.pth`` of a work dir, oldest first."""
    return sorted((path for path in work_dir.glob("iter_*.pth") if number_of(path) >= 0), key=number_of)


def number_of(path: Path) -> int:
    """N of an ``iter_N.pth``; -1 of any other name."""
    found = re.fullmatch(r"iter_([0-9]{1,18})\.pth", path.name)
    return int(found[1]) if found else -1


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
    state = read_checkpoint(path, "step", "config", "rng_state", "scheduler", "losses")
    # DeepSpeed keeps weights and optimizer in shards, FSDP2 may keep the weights there
    if state.get("engine") != "zero":
        needed(path, state, "optimizer", *(() if "shards" in state else ("model",)))
    if state["step"] > meta["steps"]:
        raise refused(path, f"{path} has step = {state['step']:,} and the run has {meta['steps']:,} steps, {NOT_OURS}")
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


def check_model(path: Path, state: dict[str, Any], now: str) -> None:
    """InputError where the config of the model, ``now`` as JSON, is not the one that a checkpoint was trained with.

    The folder of a model can be edited: its weights fit as before, and the steps that are left would be another run's.
    """
    before: dict[str, Any] = parse_json(
        state.get("model_config", now), f"the model_config in {path}", NOT_OURS, words=True
    )
    stated: dict[str, Any] = parse_json(now, "the config of the model", NOT_OURS, words=True)
    if name := changed_setting(before, stated):
        was, found = (quoted(one[name]) if name in one else "not there" for one in (before, stated))
        raise InputError(
            f"{path} was trained with {name} = {was} in the config of the model, which is {found} now, so the run "
            "would not be the same; put the model back, or start anew in another work_dir."
        )


def rng_state() -> dict[str, torch.Tensor]:
    """The states of the random generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_rng_state(states: dict[str, torch.Tensor]) -> None:
    """Put the generators back; InputError for a state that is none."""
    try:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])
        if "mps" in states and torch.backends.mps.is_available():
            torch.mps.set_rng_state(states["mps"])
    except (RuntimeError, TypeError, ValueError) as problem:
        raise InputError(
            f"the rng_state of the checkpoint is none ({first_line(problem)}), {NOT_OURS}; take an older one."
        ) from None
