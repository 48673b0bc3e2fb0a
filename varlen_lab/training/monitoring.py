"""What a run shows while it goes on, and what it hears: a bar, curves, the signal to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(title: str, total: int, done: int, show: bool) -> tqdm:
    """A bar on stderr that fits 80 columns; quiet in a pipe, and where it was not asked for."""
    from tqdm.auto import tqdm

    return tqdm(
        desc=title,
        total=total,
        initial=done,
        disable=None if show else True,  # None: only a terminal gets it
        dynamic_ncols=True,
        bar_format="{desc} {n_fmt}/{total_fmt} {bar} {remaining}{postfix}",
    )


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


@contextmanager
def tensorboard(config: Config, work_dir: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """``draw(record)`` into ``work_dir/tensorboard`` if the config asks for it: numbers as curves, answers as text."""
    if config.visualizer is None or work_dir is None:
        yield lambda record: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "visualizer = 'tensorboard' needs tensorboard, which is not installed; pip install tensorboard."
        ) from None

    def draw(record: dict[str, Any]) -> None:
        for name, value in record.items():
            no_loss = name == "loss" and record.get("untrained", False)  # the curve has a gap there
            if isinstance(value, (int, float)) and name != "step" and not no_loss:
                writer.add_scalar(name, value, record["step"])
        for number, text in enumerate(record.get("samples", [])):
            writer.add_text(f"sample_{number}", text, record["step"])

    with SummaryWriter(str(work_dir / "tensorboard")) as writer:
        yield draw
