"""``visualizer``: curves through other packages, which may be missing, fail and talk, and never end a training."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import varlen_lab.training.trainer as trainer
from varlen_lab.config.schema import Config
from varlen_lab.config.text import override, render
from varlen_lab.errors import InputError
from varlen_lab.training.curves import Drawing, Pen, check_visualizer
from varlen_lab.training.registry import VISUALIZERS, Visualizer
from varlen_lab.training.trainer import train


def test_the_names_are_those_of_report_to_and_a_slip_is_named() -> None:
    assert set(VISUALIZERS) == {"tensorboard", "trackio", "wandb"}
    for typed, meant in (("wanb", "wandb"), ("trakio", "trackio"), ("tensorbord", "tensorboard")):
        with pytest.raises(InputError, match=f"did you mean '{meant}'"):
            override(Config(model_config={"model_type": "llama"}), [f"visualizer={typed}"])


@pytest.mark.parametrize("typed", ["visualiser=wandb", "report_to=wandb"])
def test_other_spellings_of_the_setting_are_named(typed: str) -> None:
    with pytest.raises(InputError, match=r"did you mean 'visualizer'\?$"):
        override(Config(model_config={"model_type": "llama"}), [typed])


@pytest.mark.parametrize("name", VISUALIZERS)
def test_a_missing_package_is_said_before_anything_is_read(
    name: str, small: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, VISUALIZERS[name].needs.partition(":")[0], None)
    monkeypatch.setattr(trainer, "load_tokenizer", lambda config: pytest.fail("the tokenizer was read before"))
    with pytest.raises(InputError, match=f"needs {name}, which is not installed; pip install {name}."):
        train(small.replace(visualizer=name), progress=False)


def test_a_folder_called_like_a_package_is_not_the_package(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wandb leaves a folder ``wandb`` beside a script; Python can import it, as a package without anything in it."""
    (tmp_path / "curves_of_nobody").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("curves_of_nobody")
    monkeypatch.setitem(VISUALIZERS, "wandb", Visualizer("wandb", "", "curves_of_nobody:init", "pip install wandb"))
    with pytest.raises(InputError, match="not installed"):
        check_visualizer(small.replace(visualizer="wandb"))


# ------------------------------------------------------------------------------------------------- one that fails


def open_broken(drawing: Drawing) -> Pen:
    """Fails where ``drawing`` was told to, and says things; found by name, as a real one is."""
    where = BROKEN["where"]
    print("Welcome to our dashboard!")
    print("Welcome to our dashboard!", file=sys.stderr)

    def fail(part: str) -> None:
        print(f"Uploading {part} ...")
        if part in where:
            raise OSError(28, "No space left on device")

    fail("open")
    return Pen(lambda step, numbers, texts: fail("draw"), lambda well: fail("close"))


BROKEN: dict[str, Any] = {"where": ()}


@pytest.fixture
def broken(small: Config, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    def config(*where: str) -> Config:
        monkeypatch.setitem(BROKEN, "where", where)
        return small.replace(visualizer="broken")

    # a record of the registry is a choice at once
    record = Visualizer("broken", f"{__name__}:open_broken", "json:loads", "pip install broken")
    monkeypatch.setitem(VISUALIZERS, "broken", record)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    return config


@pytest.mark.parametrize("where", [("open",), ("draw",), ("close",), ("draw", "close")])
def test_one_that_fails_ends_no_training_and_is_said_once(
    where: tuple[str, ...],
    small: Config,
    broken: Callable[..., Config],
    recwarn: pytest.WarningsRecorder,
    capfd: pytest.CaptureFixture[str],
) -> None:
    history = train(broken(*where), progress=False)
    assert history.checkpoint is not None and history.checkpoint.is_file()
    said = [str(one.message) for one in recwarn if "broken" in str(one.message)]
    assert sum("No space left on device" in one for one in said) == 1
    times = {"open": 1, "draw": len(history.records), "close": 1}
    failed = sum(times[part] for part in where)
    assert said[1:] == ([f"broken failed {failed} times in this run"] if failed > 1 else [])
    assert "dashboard" not in (out := "".join(capfd.readouterr())) and "Uploading" not in out


def test_curves_change_no_number(small: Config, broken: Callable[..., Config], tmp_path: Path) -> None:
    plain = train(small.replace(work_dir=str(tmp_path / "plain")), progress=False)
    with pytest.warns(UserWarning, match="broken failed"):
        drawn = train(broken("draw"), progress=False)
    assert drawn.losses == plain.losses


def test_ctrl_c_is_no_failure_of_a_visualizer(broken: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def open_pressed(drawing: Drawing) -> Pen:
        def draw(*given: Any) -> None:
            raise KeyboardInterrupt

        return Pen(draw, ended.append)

    monkeypatch.setattr(sys.modules[__name__], "open_broken", open_pressed)
    with pytest.raises(KeyboardInterrupt):
        train(broken(), progress=False)
    assert ended == [False]  # closed, as a run that did not end well


# ------------------------------------------------------------------------------------------------- the real ones


def test_a_resumed_run_goes_on_under_its_key_and_a_new_one_gets_its_own(small: Config, tmp_path: Path) -> None:
    first, again, anew = (Drawing(tmp_path, {}, after).key for after in (0, 5, 0))
    assert first == again != anew
    (tmp_path / "run_id").write_bytes(b"\xff\x00 not one of ours")
    assert Drawing(tmp_path, {}, 5).key not in (first, anew)


def test_a_resumed_run_draws_each_step_once_in_tensorboard(small: Config, tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = small.replace(visualizer="tensorboard", save_steps=1, save_total_limit=-1)
    history = train(config, progress=False)
    train(config, progress=False, resume=tmp_path / "w" / "iter_1.pth")
    events = loader.EventAccumulator(str(tmp_path / "w" / "tensorboard"))
    events.Reload()
    drawn = events.Scalars("loss")
    assert [event.step for event in drawn] == [record["step"] for record in history.records]
    assert [event.value for event in drawn] == pytest.approx(history.losses)


def varlen_lab(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a folder of its own, without a home and without a network of any use."""
    nowhere = {"HOME": str(folder), "HTTPS_PROXY": "http://127.0.0.1:9", "TRACKIO_DIR": str(folder / "trackio")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "TRACKIO"))}
    return subprocess.run(
        [sys.executable, "-m", "varlen_lab", *words],
        cwd=folder,
        env={**kept, **nowhere, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


@pytest.fixture
def mine(small: Config, tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(
        render(small.with_mode("varlen").replace(work_dir="w", save_steps=1, save_total_limit=-1)), encoding="utf-8"
    )
    return path


def test_a_warning_in_a_thread_of_the_package_counts_as_its_failure(
    broken: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    def open_warning(drawing: Drawing) -> Pen:
        def warn() -> None:
            warnings.warn_explicit("the batch could not be persisted.", UserWarning, json.__file__, 1)

        def draw(*given: Any) -> None:
            thread = threading.Thread(target=warn)
            thread.start()
            thread.join()

        return Pen(draw, lambda well: None)

    monkeypatch.setattr(sys.modules[__name__], "open_broken", open_warning)
    train(broken(), progress=False)
    said = [str(one.message) for one in recwarn if "persisted" in str(one.message)]
    assert len(said) == 1 and said[0].startswith("broken fails (the batch could not be persisted);")
    warnings.warn_explicit("shown as ever", UserWarning, json.__file__, 2)
    assert str(recwarn.pop(UserWarning).message) and "shown as ever" in [str(one.message) for one in recwarn]


@pytest.mark.slow
def test_trackio_keeps_the_numbers_and_says_nothing(mine: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    words = ("train", "mine.py", "--cfg-options", "visualizer=trackio")
    for done in (varlen_lab(tmp_path, *words), varlen_lab(tmp_path, *words, "--resume", "w/iter_1.pth")):
        assert done.returncode == 0, done.stderr
        assert "rackio" not in done.stdout + done.stderr
    assert "w-" in (listed := tracked(tmp_path, "list", "runs"))
    assert listed.count("w-") == 1  # the resumed run is the same one
    steps = json.loads((tmp_path / "w" / "history.jsonl").read_text(encoding="utf-8").splitlines()[-1])["step"]
    key = (tmp_path / "w" / "run_id").read_text(encoding="utf-8")
    values = json.loads(tracked(tmp_path, "get", "metric", "--run", f"w-{key}", "--metric", "loss", "--json"))
    assert {value["step"] for value in values["values"]} == set(range(1, steps + 1))


def tracked(folder: Path, *words: str) -> str:
    code = "import sys; from trackio.cli import main; sys.argv[0] = 'trackio'; main()"
    command = [sys.executable, "-c", code, *words, "--project", "varlen_lab"]
    environment = {**os.environ, "TRACKIO_DIR": str(folder / "trackio"), "HOME": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_wandb_without_a_login_keeps_the_numbers_and_says_how_to_send_them(mine: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    words = ("train", "mine.py", "--cfg-options", "visualizer=wandb")
    done = [
        varlen_lab(tmp_path, *words),
        varlen_lab(tmp_path, *words, "--resume", "w/iter_1.pth", WANDB_MODE="offline"),
    ]
    assert [one.returncode for one in done] == [0, 0], done
    notes = [[line for line in one.stderr.splitlines() if not line.startswith("varlen_lab: ")] for one in done]
    assert re.fullmatch(r"note: wandb has no login here .*: wandb sync w.wandb.offline-\*", notes[0].pop())
    assert notes == [[], []]
    assert "wandb" not in done[0].stdout + done[1].stdout
    kept = list((tmp_path / "w" / "wandb").glob("offline-run-*/run-*.wandb"))
    key = (tmp_path / "w" / "run_id").read_text(encoding="utf-8")
    assert [path.name for path in kept] == [f"run-{key}.wandb"] * 2  # the resumed run is the same one


@pytest.mark.slow
@pytest.mark.parametrize("name", VISUALIZERS)
def test_a_place_that_cannot_be_written_costs_the_curves_alone(name: str, mine: Path, tmp_path: Path) -> None:
    pytest.importorskip(name)
    (tmp_path / "w").mkdir()
    for taken in (tmp_path / "trackio", tmp_path / "w" / "tensorboard", tmp_path / "w" / "wandb"):
        taken.write_text("a file where a folder should be", encoding="utf-8")
    done = varlen_lab(tmp_path, "train", "mine.py", "--cfg-options", f"visualizer={name}", WANDB_MODE="offline")
    assert done.returncode == 0 and "saved w" in done.stdout, done.stderr
    assert done.stderr.count("note: ") in (1, 2) and "Traceback" not in done.stderr
    assert f"{name} fails" in done.stderr


@pytest.mark.slow
@pytest.mark.alone
def test_of_two_processes_the_first_alone_draws(mine: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    words = ("train", "mine.py", "--cfg-options", "visualizer=tensorboard")
    done = varlen_lab(tmp_path, *words, NPROC_PER_NODE="2")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "w" / "tensorboard").glob("events*"))) == 1
