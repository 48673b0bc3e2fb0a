"""One way to write: whole or not at all, never through a link, and two at once do not meet."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from varlen_lab.errors import InputError
from varlen_lab.files import writing
from varlen_lab.files.writing import folder_written_whole, keep_in_cache, writable, written_whole


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with written_whole(path, "w") as file:
        file.write("änd\n")
        assert not path.exists()
    assert path.read_bytes() == "änd\n".encode()
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_who_may_read_it_is_the_umasks_business(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    with written_whole(tmp_path / "ours") as file:
        file.write(b"x")
    usual, ours = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "ours"))
    assert usual == ours


def test_a_failure_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_whole(path, "w") as file:
        file.write("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_a_disk_that_takes_nothing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: the contents do not reach the disk."""
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), written_whole(path) as file:
        file.write(b"new")
    with pytest.raises(OSError, match="No space"), folder_written_whole(tmp_path / "folder") as draft:
        (draft / "b.txt").write_text("new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs.txt").write_text("theirs")
    (tmp_path / "link.txt").symlink_to("theirs.txt")
    with written_whole(tmp_path / "link.txt", "w") as file:
        file.write("ours")
    assert (tmp_path / "theirs.txt").read_text() == "theirs"
    assert not (tmp_path / "link.txt").is_symlink() and (tmp_path / "link.txt").read_text() == "ours"

    (tmp_path / "their_folder").mkdir()
    (tmp_path / "their_folder" / "kept").write_text("")
    (tmp_path / "link").symlink_to("their_folder")
    with folder_written_whole(tmp_path / "link") as draft:
        (draft / "ours").write_text("")
    assert [one.name for one in (tmp_path / "their_folder").iterdir()] == ["kept"]
    assert not (tmp_path / "link").is_symlink() and [one.name for one in (tmp_path / "link").iterdir()] == ["ours"]


@pytest.mark.parametrize("before", ["nothing", "a folder", "a file"])
def test_a_folder_takes_the_place_of_what_was_there(tmp_path: Path, before: str) -> None:
    path = tmp_path / "deep" / "folder"
    path.parent.mkdir()
    if before == "a folder":
        path.mkdir()
        (path / "old").write_text("")
    elif before == "a file":
        path.write_text("")
    with folder_written_whole(path) as draft:
        (draft / "inside").mkdir()
        (draft / "inside" / "new").write_text("new")
    assert [one.name for one in path.rglob("*")] == ["inside", "new"]
    assert [one.name for one in path.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_a_failed_folder_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """The planted fault: the block fails, or one of the two moves that put the new folder in place of the old."""
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")
    moves, real = iter(range(9)), os.replace

    def replace(source: Path, target: Path) -> None:
        if next(moves) == moment - 1:
            raise OSError("planted")
        real(source, target)

    monkeypatch.setattr(writing, "exchange", lambda *names: False)  # a system that has no move for both at once
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="planted"), folder_written_whole(path) as draft:
        (draft / "new").write_text("new")
        if moment == 0:
            raise OSError("planted")
    assert [one.name for one in path.iterdir()] == ["old"]
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]


def write_often(path: Path, letter: str) -> None:
    for _ in range(60):
        with written_whole(path, "w") as file:
            for _ in range(50):
                file.write(letter * 100)


def test_two_processes_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write_often, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            seen.add(path.read_text())
    for writer in writers:
        writer.join()
    assert all(writer.exitcode == 0 for writer in writers)
    assert seen <= {"a" * 5000, "b" * 5000} and path.read_text() in {"a" * 5000, "b" * 5000}
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_run_left_goes_after_a_day(tmp_path: Path) -> None:
    old, new = (
        tmp_path / ".documents-a.arrow-00112233aabb.partial",
        tmp_path / ".documents-b.arrow-00112233aacc.partial",
    )
    foreign = tmp_path / ".download.partial"
    for path in (old, new, foreign):
        path.write_text("half")
    for path in (old, foreign):
        os.utime(path, (0, 0))
    keep_in_cache(tmp_path / "documents-c.arrow", lambda file: file.write(b"whole"))
    assert not old.exists() and foreign.exists()
    assert new.exists()  # somebody may be writing it now


def test_a_zero_byte_in_a_name_is_one_sentence() -> None:
    with (
        pytest.raises(InputError, match="zero byte, which no name has; choose another -o"),
        writable(Path("a\0b"), "-o"),
    ):
        pass
