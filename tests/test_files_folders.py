"""A folder that takes another's place: at every moment one of the two is there whole, with people's files in it."""

from __future__ import annotations

import multiprocessing
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from varlen_lab.errors import InputError
from varlen_lab.files import folders, writing
from varlen_lab.files.folders import bring_along, exchange
from varlen_lab.files.writing import folder_written_whole, recover

OURS = {"weights", "deep/weights"}


@pytest.fixture(params=["in one move", "in two moves"])
def moves(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "in two moves":
        monkeypatch.setattr(writing, "exchange", lambda *names: False)
    else:
        for name in "ab":
            (tmp_path / name).mkdir()
        if not exchange(tmp_path / "a", tmp_path / "b"):
            pytest.skip("this file system does not exchange two names")
        for name in "ab":
            (tmp_path / name).rmdir()
    return str(request.param)


def old_folder(path: Path) -> None:
    """Ours, and among it a person's file, an empty folder and a link."""
    (path / "deep" / "theirs").mkdir(parents=True)
    (path / "empty").mkdir()
    for name in (*OURS, "thesis.txt", "deep/theirs/notes"):
        (path / name).write_text("old")
    (path / "link").symlink_to("deep/theirs")


def write_new(path: Path) -> None:
    with folder_written_whole(path, OURS) as draft:
        (draft / "deep").mkdir()
        for name in OURS:
            (draft / name).write_text("new")


def with_ours(text: str) -> dict[str, str]:
    theirs = {"deep/theirs/notes": "old", "empty": "a folder", "link": "a link", "thesis.txt": "old"}
    return theirs | dict.fromkeys(OURS, text)


def look(path: Path) -> dict[str, str]:
    """Every file, link and empty folder, and what it holds."""
    found = {}
    for one in path.rglob("*"):
        if one.is_symlink() or one.is_file() or not any(one.iterdir()):
            kind = "a link" if one.is_symlink() else "a folder" if one.is_dir() else one.read_text()
            found[one.relative_to(path).as_posix()] = kind
    return found


def test_what_others_have_in_a_folder_comes_along(tmp_path: Path, moves: str) -> None:
    path = tmp_path / "f"
    old_folder(path)
    path.chmod(0o750)
    before = (path / "thesis.txt").stat()
    write_new(path)
    assert look(path) == with_ours("new")
    assert os.path.samestat(before, (path / "thesis.txt").stat())
    assert os.readlink(path / "link") == "deep/theirs" and stat.S_IMODE(path.stat().st_mode) == 0o750
    assert [one.name for one in tmp_path.iterdir()] == ["f"]


def test_a_file_of_a_name_that_is_written_now_stops_it(tmp_path: Path, moves: str) -> None:
    path = tmp_path / "f"
    old_folder(path)
    with pytest.raises(InputError, match=r"thesis\.txt is no file of ours and would be lost.*move it away"):  # noqa: SIM117
        with folder_written_whole(path, OURS) as draft:
            (draft / "thesis.txt").write_text("ours")
    assert look(path) == with_ours("old") and [one.name for one in tmp_path.iterdir()] == ["f"]


def test_what_comes_at_the_last_moment_comes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    old_folder(path)

    def late(*names: Path) -> bool:
        (path / "late.txt").write_text("just now")
        return exchange(*names)

    monkeypatch.setattr(writing, "exchange", late)
    write_new(path)
    assert (path / "late.txt").read_text() == "just now"


def test_a_system_without_hard_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*given: Any, **named: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    old_folder(tmp_path / "f")
    write_new(tmp_path / "f")
    assert look(tmp_path / "f") == with_ours("new")


def killed(path: Path, moment: int) -> None:
    """The planted fault: the process ends, without any ``finally``, before its file operation of this number."""
    events = 0

    def watch(event: str, given: tuple[Any, ...]) -> None:
        nonlocal events
        if event in ("open", "ctypes.dlsym") or event.startswith(("os.", "shutil.")):
            events += 1
            if events == moment:
                os._exit(9)

    sys.addaudithook(watch)
    write_new(path)
    os._exit(0)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child is a copy of this process")
def test_who_is_killed_at_any_moment_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, moves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # which takes most of the time here, and shows nothing
    context, seen, moment = multiprocessing.get_context("fork"), [], 0
    while True:
        moment += 1
        path = tmp_path / str(moment) / "f"
        old_folder(path)
        child = context.Process(target=killed, args=(path, moment))
        child.start()
        child.join()
        if moves == "in two moves":
            recover(path)  # what the next writer begins with
        found = look(path)
        assert found in (with_ours("old"), with_ours("new")), moment
        seen.append(found == with_ours("new"))
        if child.exitcode == 0:
            break
        write_new(path)  # and it can be written anew
        assert look(path) == with_ours("new")
    assert moment > 25 and seen == sorted(seen) and seen[0] is False and seen[-1] is True


def test_a_folder_that_was_moved_aside_has_its_name_again(tmp_path: Path) -> None:
    aside = tmp_path / ".f-0123456789ab.before"
    old_folder(aside)
    (tmp_path / ".f-notes.before").mkdir()  # somebody's own
    recover(tmp_path / "f")
    assert look(tmp_path / "f") == with_ours("old") and not aside.exists()
    recover(tmp_path / "g")
    assert sorted(one.name for one in tmp_path.iterdir()) == [".f-notes.before", "f"]


def test_who_may_read_a_folder_may_read_its_files(tmp_path: Path) -> None:
    old_folder(tmp_path / "f")
    (tmp_path / "f" / "thesis.txt").chmod(0o600)
    with folder_written_whole(tmp_path / "f", OURS) as draft:
        (draft / "weights").write_text("new")
        (draft / "weights").chmod(0o600)  # as safetensors does
    (tmp_path / "usual").write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "f/weights", "f/thesis.txt")]
    assert modes[0] == modes[1] and modes[2] == 0o600


def test_a_failure_takes_the_folders_that_were_made_for_it_with_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder_written_whole(tmp_path / "a" / "b" / "f"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_name_as_long_as_names_may_be_has_a_draft(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    with folder_written_whole(path) as draft:
        (draft / "a").write_text("")
    assert (path / "a").is_file()


def test_a_pipe_is_no_file_to_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes that are files")
    old_folder(tmp_path / "f")
    os.mkfifo(tmp_path / "f" / "pipe")
    write_new(tmp_path / "f")
    assert (tmp_path / "f" / "pipe").is_fifo()

    def no_links(*given: Any, **named: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(folders.os, "link", no_links)
    with pytest.raises(PermissionError):
        bring_along(tmp_path / "f", tmp_path, OURS | {"deep", "empty", "link", "thesis.txt"})
