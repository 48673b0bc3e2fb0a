"""One run writes to a folder at a time, what it did not write itself stays, and nothing of another run is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import load, render
from varlen_lab.errors import InputError
from varlen_lab.files.locks import NAME, held
from varlen_lab.training import trainer
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.history import History
from varlen_lab.training.trainer import train


def refuse(*given: object, **more: object) -> None:
    raise AssertionError("the data was read before the folder was looked at")


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither tokenizer, model nor data may be asked for."""
    for name in ("load_tokenizer", "build_model", "planned_data"):
        monkeypatch.setattr(trainer, name, refuse)


@pytest.fixture
def config(small: Config) -> Config:
    return small.with_mode("varlen").replace(max_steps=2, save_steps=1)


def folder_of(config: Config) -> Path:
    return Path(config.work_dir or "")


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def run_of(path: Path) -> str:
    return read_checkpoint(path)["meta"]["run"]


# ------------------------------------------------------------------------------------------------- one at a time


@pytest.mark.skipif(os.name == "nt", reason="a folder with an open file cannot be moved there")
@pytest.mark.parametrize("saves", [1, 2])
def test_a_run_whose_folder_was_moved_writes_nothing_among_the_files_of_the_next(saves: int, config: Config) -> None:
    """It made the folder anew, and its lines and checkpoints came between those of a second run there."""
    folder, aside = folder_of(config), folder_of(config).with_name("aside")

    def move(record: dict) -> None:
        if record["step"] == 1:
            folder.rename(aside)
            folder.mkdir()
            (folder / "history.jsonl").write_text("the next run's\n")

    with pytest.raises(InputError, match="is gone, or another folder by now, and with it what was saved there"):
        train(config.replace(save_steps=saves), progress=False, on_step=move)
    assert bytes_in(folder) == {"history.jsonl": b"the next run's\n"}
    aside.joinpath(NAME).unlink(missing_ok=True)
    assert len(History.read(aside / "history.jsonl").records) == 1


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_lies_where_an_earlier_run_is_kept_is_neither_followed_nor_in_the_way(
    kind: str, config: Config, tmp_path: Path
) -> None:
    folder, others = folder_of(config), tmp_path / "others"
    others.mkdir()
    run = train(config, progress=False).meta["run"]
    planted = folder / f"earlier-{run}"
    planted.write_text("mine") if kind == "file" else planted.symlink_to(others)
    with pytest.warns(UserWarning, match=rf"kept in .*earlier-{run}-2"):
        train(config, progress=False)
    assert not list(others.iterdir()) and (folder / f"earlier-{run}-2" / "history.jsonl").is_file()


def test_a_second_run_in_the_folder_is_refused_before_anything_is_read(config: Config, early: None) -> None:
    folder = folder_of(config)
    folder.mkdir()
    with held(folder, "varlen-lab train", "work_dir"):
        start = time.perf_counter()
        with pytest.raises(InputError, match=rf"in use by varlen-lab train \(process {os.getpid()}.*another work_dir"):
            train(config, progress=False)
        assert time.perf_counter() - start < 1
        assert [path.name for path in folder.iterdir()] == [NAME]


def test_the_folder_is_locked_to_the_last_step_and_free_afterwards(config: Config) -> None:
    def second(record: dict) -> None:
        with pytest.raises(InputError, match="in use by varlen-lab train"):
            train(config, progress=False)

    train(config, progress=False, on_step=second)
    assert not (folder_of(config) / NAME).exists()
    assert train(config, progress=False, resume=True).taken == 0


@pytest.mark.slow
def test_of_two_that_start_at_one_moment_one_runs(config: Config, tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text(render(config.replace(max_steps=30, save_steps=1)))
    words = [sys.executable, "-m", "varlen_lab", "train", "c.py", "--quiet"]
    both = [subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, encoding="utf-8") for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    assert sum("in use by varlen-lab train" in " ".join(text.split()) for text in said) == 1
    history = History.read(folder_of(config) / "history.jsonl")
    assert [record["step"] for record in history.records] == list(range(1, 31))
    assert {run_of(path) for path in folder_of(config).glob("iter_*.pth")} == {history.meta["run"]}


def test_drafts_of_somebody_else_stay(config: Config) -> None:
    folder = folder_of(config)
    folder.mkdir()
    names = [f".{name}-0123456789ab.partial" for name in ("iter_7.pth", "history.jsonl", "hf", "notes.txt")]
    for name in names:
        (folder / name).write_text("half")
    train(config, progress=False)
    assert sorted(path.name for path in folder.glob(".*")) == sorted(names[2:])


# ------------------------------------------------------------------------------------------------- the place


@pytest.mark.parametrize("kind", ["file", "under a file", "a loop", "a link to nowhere", "a long name", "a zero byte"])
def test_a_place_that_cannot_be_is_one_sentence_before_anything_is_read(
    kind: str, config: Config, early: None, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    places = {
        "file": "file",
        "under a file": "file/a/b",
        "a loop": "loop",
        "a link to nowhere": "nowhere",
        "a long name": "n" * 300,
        "a zero byte": "a\0b",
    }
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"^work_dir (?s:.)*cannot be written \(.*choose another"):
        train(config.replace(work_dir=str(tmp_path / places[kind])), progress=False)
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "file").read_text() == "mine"


def test_no_home_and_a_folder_that_is_gone_are_sentences(
    config: Config, early: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pwd

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    with pytest.raises(InputError, match=r"work_dir ~/x is in a home folder and there is none; set HOME"):
        train(config.replace(work_dir="~/x"), progress=False)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match=r"work_dir w cannot be written \(No such file or directory\)"):
        train(config.replace(work_dir="w"), progress=False)


def test_room_for_one_checkpoint_is_asked_for_before_the_data(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "planned_data", refuse)
    monkeypatch.setattr("varlen_lab.files.places.bytes_free", lambda folder: 100_000)
    with pytest.raises(InputError, match=r"work_dir .* needs \d.* MB and its disk has 0.1 MB left; make room"):
        train(config, progress=False)
    assert not folder_of(config).exists()


# ------------------------------------------------------------------------------------------------- people's files


def test_a_config_trained_beside_itself_stays_as_it_was_written(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = "# my notes on this run\n" + render(config.replace(work_dir=None))
    (tmp_path / "my.py").write_text(mine)
    words = ["train", "my.py", "--work-dir", ".", "--quiet"]
    with pytest.warns(UserWarning, match=r"my\.py in the work dir is not this run's and stays .* my-[0-9a-f]{8}\.py"):
        assert main(words) == 0
    assert (tmp_path / "my.py").read_text() == mine
    copy = History.read(tmp_path / "history.jsonl").meta["config_copy"]["name"]
    assert load(tmp_path / copy).replace(name="my") == load(tmp_path / "my.py").replace(work_dir=".")
    assert (
        main([*words, "--resume", "iter_1.pth", "--cfg-options", "save_steps=2"]) == 0
    )  # its own copy is kept up to date
    assert "save_steps = 2 " in (tmp_path / copy).read_text() and (tmp_path / "my.py").read_text() == mine
    assert sorted(path.name for path in tmp_path.glob("my*")) == sorted(["my.py", copy])


def test_a_copy_that_says_the_same_is_not_taken_for_the_runs_own(config: Config, tmp_path: Path) -> None:
    folder = folder_of(config)
    folder.mkdir()
    mine = folder / f"{config.name}.py"
    mine.write_text(text := render(config))
    train(config, progress=False)
    assert [path.name for path in folder.glob("*.py")] == [mine.name]
    with pytest.warns(UserWarning, match="is not this run's and stays"):
        train(config.replace(save_steps=2), progress=False, resume=folder / "iter_1.pth")
    assert mine.read_text() == text


@pytest.mark.parametrize("name", ["iter_100.pth", "iter_2.pth", "history.jsonl"])
def test_files_of_that_name_which_are_no_runs_are_refused_and_stay(name: str, config: Config, early: None) -> None:
    folder = folder_of(config)
    folder.mkdir()
    (folder / name).write_text("my own words")
    for resume in (False, True):
        with pytest.raises(
            InputError, match=rf"{name} (cannot be read|is damaged, cut short|does not begin like a history)"
        ):
            train(config, progress=False, resume=resume)
        assert bytes_in(folder) == {name: b"my own words"}


def test_weights_of_another_program_are_refused_and_stay(config: Config, early: None) -> None:
    folder = folder_of(config)
    folder.mkdir()
    torch.save({"state": torch.ones(3)}, folder / "iter_9.pth")
    before = bytes_in(folder)
    with pytest.raises(InputError, match=r"iter_9\.pth was not written by varlen-lab train; .*move it away"):
        train(config, progress=False)
    assert bytes_in(folder) == before


def test_what_comes_in_the_way_during_a_run_is_moved_and_not_written_over(config: Config) -> None:
    folder = folder_of(config)

    def put(record: dict) -> None:
        if record["step"] == 1:
            (folder / "iter_2.pth").write_text("mine")

    with pytest.warns(UserWarning, match=r"iter_2\.pth was not of this run, it is kept in .*earlier-run"):
        train(config, progress=False, on_step=put)
    assert (folder / "earlier-run" / "iter_2.pth").read_text() == "mine"
    assert read_checkpoint(folder / "iter_2.pth")["step"] == 2


def test_the_limit_deletes_checkpoints_of_this_run_alone(config: Config) -> None:
    folder, other = folder_of(config), config.replace(work_dir=f"{config.work_dir}_other")
    train(other, progress=False)
    stopped = config.replace(max_steps=4, save_total_limit=1)

    def stop(record: dict) -> None:
        if record["step"] == 2:
            os.replace(folder_of(other) / "iter_1.pth", folder / "iter_0.pth")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, progress=False, on_step=stop)
    with pytest.warns(UserWarning, match="1 checkpoint in the work dir is of another run and stays as it is"):
        train(stopped, progress=False, resume=True)
    assert sorted(path.name for path in folder.glob("*.pth")) == ["iter_0.pth", "iter_4.pth"]


def test_batches_that_were_kept_are_not_written_over(tmp_path: Path) -> None:
    from varlen_lab.training.workdir import keep_batches

    (tmp_path / "nonfinite_step_1.pt").write_text("mine")
    batches = [{"input_ids": torch.arange(4)}]
    assert keep_batches(tmp_path, "nonfinite_step_1.pt", batches).name == "nonfinite_step_1-2.pt"
    assert keep_batches(tmp_path, "nonfinite_step_1.pt", batches).name == "nonfinite_step_1-2.pt"  # the same ones
    assert (tmp_path / "nonfinite_step_1.pt").read_text() == "mine"


# ------------------------------------------------------------------------------------------------- an earlier run


def test_a_run_in_the_folder_of_another_keeps_that_one_whole(config: Config) -> None:
    folder = folder_of(config)
    first = train(config, progress=False)
    left = bytes_in(folder)
    with pytest.warns(UserWarning, match=r"held an earlier run \(2 checkpoints\), it is kept in .*earlier-\w+; it"):
        second = train(config.replace(lr=1e-3), progress=False)
    kept = folder / f"earlier-{first.meta['run']}"
    assert bytes_in(kept) == left
    assert {run_of(path) for path in folder.glob("*.pth")} == {second.meta["run"]} != {first.meta["run"]}
    assert History.read(folder / "history.jsonl").losses == second.losses
    again = train(config.replace(work_dir=str(kept)), progress=False, resume=True)  # as the note says
    assert again.taken == 0 and again.losses == first.losses


def test_a_move_that_was_cut_off_is_gone_on_with(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(config)
    first, real, moved = train(config, progress=False), os.replace, []
    left = bytes_in(folder)

    def killed(source: Path, target: Path) -> None:
        if "earlier" in str(target):
            moved.append(target)
            if len(moved) == 2:
                raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, progress=False)
    monkeypatch.undo()
    assert train(config, progress=False, resume=True).meta["run"] == first.meta["run"]  # it is still the run there
    train(config, progress=False)
    assert bytes_in(folder / f"earlier-{first.meta['run']}").keys() == left.keys()


def test_checkpoints_of_an_earlier_run_do_not_capture_resume(config: Config) -> None:
    folder, earlier = folder_of(config), config.replace(max_steps=5, work_dir=f"{config.work_dir}_earlier")
    train(earlier, progress=False)

    def stop(record: dict) -> None:
        if record["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config.replace(max_steps=3), progress=False, on_step=stop)
    for step in (4, 5):
        os.replace(folder_of(earlier) / f"iter_{step}.pth", folder / f"iter_{step}.pth")
    with pytest.warns(UserWarning, match="2 checkpoints in the work dir are of other runs and stay as they are"):
        history = train(config.replace(max_steps=3), progress=False, resume=True)
    assert (history.begun, history.taken) == (1, 2)


def test_a_run_stopped_before_its_first_checkpoint_begins_again_without_a_trace(config: Config) -> None:
    config = config.replace(save_steps=9)

    def stop(record: dict) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, progress=False, on_step=stop)
    train(config, progress=False, resume=True)
    names = sorted(path.name for path in folder_of(config).iterdir())
    assert names == ["history.jsonl", "iter_2.pth", f"{config.name}.py"]


# ------------------------------------------------------------------------------------------------- what is said


def test_a_run_from_a_checkpoint_elsewhere_says_from_which_step(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.py"
    path.write_text(render(config.replace(max_steps=3)))
    assert main(["train", str(path), "--quiet"]) == 0
    capsys.readouterr()
    words = ["train", str(path), "--work-dir", str(tmp_path / "new"), "--resume"]
    assert main([*words, str(folder_of(config) / "iter_2.pth")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the run goes on behind step 2: 1 step left" in said
    assert "resumed from step 2: 1 step taken now" in said and "from step 3 to step 3" in said and "step 0" not in said
    history = History.read(tmp_path / "new" / "history.jsonl")
    assert history.meta["begins_behind"] == 2 and [record["step"] for record in history.records] == [3]
    assert history.meta["forked"]["run"] == run_of(folder_of(config) / "iter_2.pth") != history.meta["run"]
    assert main(words) == 0
    assert "resumed from step 3: the run is finished, there is nothing to do" in capsys.readouterr().out


def test_a_run_from_elsewhere_that_ends_before_its_own_checkpoint_goes_on_from_there(config: Config) -> None:
    config = config.replace(max_steps=4, save_steps=2)
    train(config, progress=False)
    new, start = config.replace(work_dir=f"{config.work_dir}_new"), folder_of(config) / "iter_2.pth"

    def stop(record: dict) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(new, progress=False, resume=start, on_step=stop)
    os.rename(start, start.with_name("away"))
    with pytest.raises(InputError, match=r"went on from .*iter_2\.pth, which is gone"):
        train(new, progress=False, resume=True)
    os.rename(start.with_name("away"), start)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*history.jsonl had")  # nothing of it is lost
        again = train(new, progress=False, resume=True)
    assert (again.begun, again.taken) == (2, 2)
    assert [record["step"] for record in again.records] == [3, 4]


def test_a_run_from_elsewhere_does_not_go_on_from_what_has_taken_that_place(config: Config, tmp_path: Path) -> None:
    """Its history would say that it comes from the first one."""
    elsewhere = tmp_path / "best.pth"
    train(config.replace(work_dir=str(tmp_path / "one")), progress=False)
    (tmp_path / "one" / "iter_1.pth").rename(elsewhere)

    def stop(record: dict) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config.replace(save_steps=9), progress=False, resume=elsewhere, on_step=stop)
    train(config.replace(work_dir=str(tmp_path / "two")), progress=False)
    (tmp_path / "two" / "iter_1.pth").replace(elsewhere)
    with pytest.raises(InputError, match=r"went on from .*best\.pth, which is another run's by now"):
        train(config, progress=False, resume=True)


@pytest.mark.parametrize("theirs", [None, "mine.csv", "link"])
def test_what_tensorboard_drew_goes_along_unless_somebody_elses_lies_there(
    theirs: str | None, config: Config, tmp_path: Path
) -> None:
    config = config.replace(visualizer="tensorboard")
    pytest.importorskip("tensorboard")
    drawn = folder_of(config) / "tensorboard"
    drawn.parent.mkdir()
    if theirs == "link":
        (tmp_path / "theirs").mkdir()
        drawn.symlink_to(tmp_path / "theirs")
    run = train(config, progress=False).meta["run"]
    if theirs == "mine.csv":
        (drawn / theirs).write_text("mine")
    before = {path.name for path in drawn.iterdir()}
    train(config, progress=False)
    there = drawn.parent / f"earlier-{run}" / "tensorboard"
    assert there.exists() is (theirs is None)
    assert before == {path.name for path in there.iterdir()} if theirs is None else before < set(os.listdir(drawn))


def test_checkpoints_that_were_moved_are_not_said_to_stay(config: Config, tmp_path: Path) -> None:
    elsewhere = config.replace(work_dir=str(tmp_path / "elsewhere"))
    train(elsewhere, progress=False)
    train(config, progress=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(config, progress=False, resume=folder_of(elsewhere) / "iter_1.pth")
    notes = [str(one.message) for one in said]
    assert any("held an earlier run (2 checkpoints), it is kept in" in note for note in notes)
    assert not any("as they are" in note for note in notes)


def test_what_the_steps_before_were_taken_on_stays_in_the_history(config: Config) -> None:
    """The first line said that all of them were taken on what the last ones were."""
    config = config.replace(max_steps=3)
    first, folder = train(config, progress=False).meta, folder_of(config)
    other = config.replace(attn_backend="reference")
    before = bytes_in(folder)
    assert train(other, progress=False, resume=True).meta["backend"] == "sdpa"  # it took no step
    assert bytes_in(folder) == before
    with pytest.warns(UserWarning, match="the steps up to 2 were taken on backend sdpa"):
        train(other, progress=False, resume=folder / "iter_2.pth")
    meta = History.read(folder / "history.jsonl").meta
    measured = {name: first[name] for name in ("device", "dtype", "torch", "transformers")}
    assert meta["backend"] == "reference"
    assert meta["measured_before"] == [{"through": 2, "backend": "sdpa", **measured}]
    # back to a step that the first kernel took: it goes on as it began
    assert "measured_before" not in train(config, progress=False, resume=folder / "iter_2.pth").meta


def test_runs_without_an_id_go_on_as_they_did(config: Config) -> None:
    """As versions before ids left them."""
    folder = folder_of(config)

    def stop(record: dict) -> None:
        if record["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, progress=False, on_step=stop)
    state = {key: value for key, value in read_checkpoint(folder / "iter_1.pth").items() if key != "format"}
    state["meta"] = {name: value for name, value in state["meta"].items() if name not in ("run", "config_copy")}
    from varlen_lab.training.checkpoint import save_checkpoint

    save_checkpoint(folder / "iter_1.pth", state)
    first, *steps = (folder / "history.jsonl").read_text().splitlines()
    meta = {name: value for name, value in json.loads(first)["meta"].items() if name not in ("run", "config_copy")}
    (folder / "history.jsonl").write_text("\n".join([json.dumps({"meta": {**meta, "format": 2}}), *steps]) + "\n")
    history = train(config, progress=False, resume=True)
    assert (history.begun, history.taken, len(history.losses)) == (1, 1, 2)
    assert train(config, progress=False, resume=True).taken == 0
    with pytest.warns(UserWarning, match=r"held an earlier run \(2 checkpoints\), it is kept in .*earlier-run"):
        train(config, progress=False)
