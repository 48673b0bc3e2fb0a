"""One process writes to a folder at a time; the lock ends with its holder, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from varlen_lab.errors import InputError
from varlen_lab.files.locks import NAME, held

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


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    try:
        (folder / NAME).symlink_to(mine)
    except OSError:
        pytest.skip("no symbolic links here")
    with pytest.warns(UserWarning, match="cannot be locked"), held(folder, "train", "work_dir"):
        pass
    assert mine.read_text() == "mine"


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
