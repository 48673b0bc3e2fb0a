"""One process writes to a folder at a time; the lock ends with its holder, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from varlen_lab.errors import InputError
from varlen_lab.files.locks import NAME, check_held, held

HOLD = (
    "import sys, pathlib\n"
    "from varlen_lab.files.locks import held\n"
    "with held(pathlib.Path(sys.argv[1]), 'varlen-lab train', 'work_dir'):\n"
    "    print('held', flush=True); sys.stdin.read()\n"
)


def holding(folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_who_comes_second_is_told_who_is_there(tmp_path: Path) -> None:
    first = holding(tmp_path)
    with (
        pytest.raises(InputError, match=rf"in use by varlen-lab train \(process {first.pid}, since .*another work_dir"),
        held(tmp_path, "convert", "work_dir"),
    ):
        pass
    first.communicate("")
    assert not list(tmp_path.iterdir())
    with held(tmp_path, "convert", "work_dir"):
        assert (tmp_path / NAME).exists()
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    first = holding(tmp_path)
    first.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    first.wait()
    assert (tmp_path / NAME).exists()  # a name without a holder keeps nobody out
    with held(tmp_path, "train", "work_dir"):
        pass


def test_not_twice_in_one_process_either(tmp_path: Path) -> None:
    again = held(tmp_path, "train", "work_dir")
    with held(tmp_path, "train", "work_dir"), pytest.raises(InputError, match="in use by train"), again:
        pass


@pytest.mark.parametrize("kind", ["link", "link to nowhere", "folder"])
@pytest.mark.parametrize("beside", [True, False])
def test_what_lies_in_its_place_is_not_followed_and_lets_nobody_in(kind: str, beside: bool, tmp_path: Path) -> None:
    """It was a warning, and two could write."""
    mine, folder = tmp_path / "mine.txt", tmp_path / "run"
    mine.write_text("mine")
    folder.mkdir()
    place = tmp_path / f".run{NAME}" if beside else folder / NAME
    try:
        place.mkdir() if kind == "folder" else place.symlink_to(mine if kind == "link" else tmp_path / "nowhere")
    except OSError:
        pytest.skip("no symbolic links here")
    said, lock = "is no file, and the lock of .* lies there; take it away", held(folder, "train", "it", beside=beside)
    with pytest.raises(InputError, match=said), lock:
        pass
    assert mine.read_text() == "mine" and os.path.lexists(place) and not (tmp_path / "nowhere").exists()


def test_folders_whose_names_begin_alike_are_locked_apart(tmp_path: Path) -> None:
    """Conversions of two steps of a run, say."""
    one, other = (tmp_path / f"{'a_long_name_of_a_model_' * 4}step_{step}" for step in (1, 2))
    with held(one, "convert", "SAVE_DIR", beside=True), held(other, "convert", "SAVE_DIR", beside=True):
        pass
    again = held(one, "convert", "SAVE_DIR", beside=True)
    with held(one, "convert", "SAVE_DIR", beside=True), pytest.raises(InputError, match="in use by convert"), again:
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="a folder with an open file cannot be moved there")
def test_who_holds_a_folder_that_was_moved_is_told_and_the_lock_of_another_stays(tmp_path: Path) -> None:
    folder, aside = tmp_path / "run", tmp_path / "aside"
    folder.mkdir()
    with held(folder, "train", "work_dir"):
        check_held(folder)
        folder.rename(aside)
        with pytest.raises(InputError, match="is gone, or another folder by now"):
            check_held(folder)
        folder.mkdir()
        other = holding(folder)
        with pytest.raises(InputError, match="is gone, or another folder by now"):
            check_held(folder)
    assert (folder / NAME).exists()  # it is the other one's
    other.communicate("")
    assert not (folder / NAME).exists()


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be deleted there")
def test_a_lock_that_somebody_took_away_is_missed_when_another_holds_the_folder(tmp_path: Path) -> None:
    with held(tmp_path, "train", "work_dir"):
        (tmp_path / NAME).unlink()
        check_held(tmp_path)
        other = holding(tmp_path)
        with pytest.raises(InputError, match=rf"in use by varlen-lab train \(process {other.pid}.*\) too"):
            check_held(tmp_path)
    other.communicate("")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_child_that_outlives_its_parent_does_not_hold_on(tmp_path: Path) -> None:
    """As a loader's worker does after ``kill -9``."""
    words = (
        "import os, pathlib, sys, time\n"
        "from varlen_lab.files.locks import held\n"
        "with held(pathlib.Path(sys.argv[1]), 'train', 'work_dir'):\n"
        "    if (child := os.fork()) == 0:\n"
        "        os.close(1)\n"
        "        time.sleep(20)\n"
        "        os._exit(0)\n"
        "    print(child, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", words, str(tmp_path)], stdout=subprocess.PIPE, encoding="utf-8")
    try:
        with held(tmp_path, "train", "work_dir"):
            pass
    finally:
        os.kill(int(done.stdout), signal.SIGTERM)


def test_a_lock_on_a_full_disk_is_held_and_gone_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the holder finds no room; the lock itself needs none."""

    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with (
        held(tmp_path, "one", "folder"),
        pytest.raises(InputError, match="another process"),
        held(tmp_path, "two", "x"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
