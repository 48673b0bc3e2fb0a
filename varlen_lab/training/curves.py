"""The numbers of a run as curves, in the package that ``visualizer`` names. A package that fails never ends a run.

An opener gets a ``Drawing`` and returns a ``Pen``; to add a package, write one, and its record in ``registry.py``.
What these packages print is meant for people who call them; here it would stand between the lines of a run.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from varlen_lab.config.schema import Config, setting_names
from varlen_lab.errors import InputError, first_line, plural
from varlen_lab.files.writing import written_whole
from varlen_lab.training.registry import VISUALIZERS, Visualizer

PROJECT = "varlen_lab"  # in which trackio and wandb list a run, where their own variables name no other


@dataclass(frozen=True)
class Drawing:
    """What a visualizer is told of a run: where its files lie, its settings, the step after which it goes on."""

    work_dir: Path
    facts: dict[str, Any]
    after: int = 0

    @cached_property
    def key(self) -> str:
        """Eight hex digits that name this run alone: its id; of a run that has none yet, what ``run_id`` keeps."""
        path = self.work_dir / "run_id"
        kept = path.read_text(encoding="utf-8", errors="replace") if self.after and path.is_file() else ""
        if re.fullmatch("[0-9a-f]{8}", kept):
            return kept
        if "run" in self.facts:
            return str(self.facts["run"])
        key = secrets.token_hex(4)
        if not path.exists() or re.fullmatch("[0-9a-f]{8}", path.read_text(encoding="utf-8", errors="replace")):
            with written_whole(path, "w") as file:
                file.write(key)
        return key


class Pen(NamedTuple):
    """``draw(step, numbers, texts)`` takes dicts by name; ``close(ended_well)`` comes last; ``note`` is for people."""

    draw: Callable[[int, dict[str, float], dict[str, str]], object]
    close: Callable[[bool], object]
    note: str = ""


def check_visualizer(config: Config) -> None:
    """InputError when the package that ``visualizer`` names is not installed, with the command that brings it."""
    chosen = VISUALIZERS[str(config.visualizer)]
    try:
        resolve_name(chosen.needs)
    except (ImportError, AttributeError):  # a folder of this name beside the config can be imported, and is empty
        raise InputError(
            f"visualizer = {chosen.name!r} needs {chosen.name}, which is not installed; {chosen.install}."
        ) from None


@contextmanager
def curves(config: Config, work_dir: Path, facts: dict[str, Any], after: int) -> Iterator[Callable[..., None]]:
    """``draw(record)`` into what the config's ``visualizer`` names: numbers become curves, answers texts.

    ``facts``: what was run; ``after``: the step a run is resumed from.
    """
    settings = {name: getattr(config, name) for name in setting_names()}
    chosen = VISUALIZERS[str(config.visualizer)]
    ask, pen = Failing(chosen), None

    def draw(record: dict[str, Any]) -> None:
        if pen is None:  # said already
            return
        no_loss = record.get("untrained", False)  # the curve has a gap there
        numbers = {
            name: value
            for name, value in record.items()
            if isinstance(value, (int, float)) and name != "step" and not (name == "loss" and no_loss)
        }
        texts = {f"sample_{number}": text for number, text in enumerate(record.get("samples", []))}
        ask(pen.draw, record["step"], numbers, texts)

    with ask.listening():
        pen = ask(resolve_name(chosen.function), Drawing(work_dir, {**settings, **facts}, after))
        if pen is not None and pen.note:
            warnings.warn(pen.note, stacklevel=1)
        well = False
        try:
            yield draw
            well = True
        finally:
            if pen is not None:
                ask(pen.close, well)


class Failing:
    """Calls into a package whose failures are counted and cost curves, not the run: the first is said, with a number.

    What it prints is dropped. What it warns of counts as a failure: trackio writes in a thread of its own, and a
    warning is all that a full disk becomes there.
    """

    def __init__(self, chosen: Visualizer) -> None:
        self.name = chosen.name
        self.problems: list[str] = []
        self.said = False
        self.folder = str(Path(str(sys.modules[chosen.needs.partition(":")[0]].__file__)).parent)

    def __call__(self, call: Callable[..., Any], *given: Any) -> Any:
        """What the call returns; None where it fails."""
        result = None
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            try:
                result = call(*given)
            except Exception as problem:  # of whatever kind: a full disk, no login, a bug over there
                self.problems.append(getattr(problem, "strerror", None) or first_line(problem))
        if self.problems and not self.said:
            self.said = True
            warnings.warn(
                f"{self.name} fails ({self.problems[0]}); training goes on without it, history.jsonl in the work dir "
                "has all numbers",
                stacklevel=1,
            )
        return result

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Warnings of the package are ours to tell while the block runs; those of others are shown as ever."""
        usual = warnings.showwarning

        def show(message: Any, category: type[Warning], filename: str, *more: Any, **named: Any) -> None:
            if filename.startswith(self.folder) and issubclass(category, UserWarning):
                self.problems.append(str(message).rstrip("."))
            else:
                usual(message, category, filename, *more, **named)

        warnings.showwarning = show
        try:
            yield
        finally:
            warnings.showwarning = usual
            if len(self.problems) > 1:
                warnings.warn(f"{self.name} failed {plural(len(self.problems), 'time')} in this run", stacklevel=1)


# ------------------------------------------------------------------------------------------------- the packages


def open_tensorboard(drawing: Drawing) -> Pen:
    """Event files in ``work_dir/tensorboard``; what an earlier run drew there after this step is not shown any more."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(drawing.work_dir / "tensorboard"), purge_step=drawing.after + 1)

    def draw(step: int, numbers: dict[str, float], texts: dict[str, str]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        for name, text in texts.items():
            writer.add_text(name, text, step)

    return Pen(draw, lambda well: writer.close())


def open_trackio(drawing: Drawing) -> Pen:
    """A run named after the work dir in trackio's own folder, or where its variables say (TRACKIO_SPACE_ID)."""
    import trackio

    run = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        name=f"{drawing.work_dir.name}-{drawing.key}",
        resume="allow",
        config=drawing.facts,
        embed=False,  # no dashboard opens in a notebook
    )
    return Pen(lambda step, numbers, texts: run.log({**numbers, **texts}, step=step), lambda well: trackio.finish())


def open_wandb(drawing: Drawing) -> Pen:
    """A run in ``work_dir/wandb``, sent as it goes; without a login or a network it is kept there to be sent later."""
    import wandb

    mode, note = os.environ.get("WANDB_MODE", "online"), ""
    if mode == "online" and not wandb.login(prompt=False, verify=False):  # init would ask, and wait for an answer
        mode, note = "offline", "wandb has no login here (`wandb login`)"
    try:
        run = start_wandb(drawing, mode)
    except wandb.errors.CommError as problem:
        mode, note = "offline", f"wandb does not reach its server ({first_line(problem)})"
        run = start_wandb(drawing, mode)
    # its own count of steps refuses those that a resumed run takes once more
    run.define_metric("*", step_metric="step")
    return Pen(
        lambda step, numbers, texts: run.log({**numbers, **texts, "step": step}),
        lambda well: run.finish(exit_code=0 if well else 1),
        note and f"{note}; the curves are kept, send them with: wandb sync {drawing.work_dir / 'wandb' / 'offline-*'}",
    )


def start_wandb(drawing: Drawing, mode: str) -> Any:
    """The run, new or gone on with under the key of the work dir; CommError where no server answers in 30 s."""
    import wandb

    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=os.environ.get("WANDB_NAME", drawing.work_dir.name),
        id=os.environ.get("WANDB_RUN_ID", drawing.key),
        resume="allow",
        dir=drawing.work_dir,
        config=drawing.facts,
        mode=mode,
        settings=wandb.Settings(silent=True, console="off", init_timeout=30),
    )
