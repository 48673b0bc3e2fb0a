"""Going on where a run stopped, bit for bit: the same weights, optimizer, schedule, dice, rows and history.

The plan of a run is a pure function of config and data (``batches.plan_steps``), so the step number is the whole
position in it. What must not have changed meanwhile is compared, and a difference is named instead of trained on.
"""

from __future__ import annotations

import hashlib
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.config.schema import Config, setting_names
from varlen_lab.config.text import load_text
from varlen_lab.errors import InputError
from varlen_lab.training import checkpoint

if TYPE_CHECKING:
    from datasets import Dataset

# settings that say where and how often, not what is computed
FREE = {
    "work_dir",
    "save_steps",
    "save_total_limit",
    "evaluation_freq",
    "evaluation_inputs",
    "dataloader_num_workers",
    "visualizer",
    "gradient_checkpointing",
}


def latest(work_dir: Path) -> Path | None:
    """The newest ``iter_N.pth`` of a work dir, or None."""
    return max(numbered(work_dir), key=lambda path: int(path.stem[5:]), default=None)


def numbered(work_dir: Path) -> list[Path]:
    """All ``iter_N.pth`` of a work dir, oldest first."""
    found = [path for path in work_dir.glob("iter_*.pth") if re.fullmatch(r"iter_\d+", path.stem)]
    return sorted(found, key=lambda path: int(path.stem[5:]))


def data_fingerprint(rows: Dataset) -> str:
    """Twelve hex digits of what the rows hold, whatever cache or folder they came from."""
    digest = hashlib.sha256()
    table = rows.with_format("arrow")[:]
    for name in ("input_ids", "labels", "seq_lengths"):
        for chunk in table[name].chunks:
            digest.update(chunk.flatten().to_numpy().tobytes())
            digest.update(chunk.value_lengths().to_numpy().tobytes())
    return digest.hexdigest()[:12]


def open_checkpoint(path: Path, config: Config, fingerprint: str, processes: int = 1) -> dict[str, Any]:
    """A checkpoint that this run may go on from; InputError when it belongs to another config or other data."""
    state = checkpoint.load(path)
    trained = load_text(state["config"], f"the config inside {path}")
    for name in setting_names():
        before, now = getattr(trained, name), getattr(config, name)
        if name not in FREE and before != now:
            raise InputError(
                f"{path} was trained with {name} = {before!r} and the config says {now!r}, so the run would not be the "
                "same; put the setting back, or start anew in another work_dir."
            )
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
    return state


def dice() -> dict[str, torch.Tensor]:
    """The states of the random generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def roll(states: dict[str, torch.Tensor]) -> None:
    """Put the generators back."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets: Slurm sends it before it takes a machine away, and a step is then finished first."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # a notebook's thread cannot take signals
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
