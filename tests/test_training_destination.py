"""Where a conversion goes: what a person has there stays, and what is ours is known bit by bit."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from varlen_lab.errors import InputError
from varlen_lab.files.manifests import MANIFEST, check_whole, digest_of_values, read_manifest, write_manifest
from varlen_lab.files.writing import folder_written_whole
from varlen_lab.training.destination import destination, overlap
from varlen_lab.training.folder import in_a_sentence


def convert_into(path: Path, *read: Path, text: str = "weights") -> None:
    """What a conversion does to a folder, without a model."""
    with (
        in_a_sentence(path),
        destination(path, *read) as place,
        folder_written_whole(place.path, place.seen or ()) as draft,
    ):
        (draft / "deep").mkdir()
        for name in ("model.safetensors", "deep/README.md"):
            (draft / name).write_text(text)
        write_manifest(draft, {"step": 3, "logits": 0.0})
        place.check_unchanged()


def names_in(path: Path) -> list[str]:
    return sorted(one.relative_to(path).as_posix() for one in path.rglob("*"))


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    convert_into(tmp_path / "hf")
    return tmp_path / "hf"


def test_the_manifest_lists_every_file_with_its_digest(ours: Path) -> None:
    assert names_in(ours) == ["deep", "deep/README.md", "model.safetensors", MANIFEST]
    facts = check_whole(ours, "copy it again")
    assert facts["step"] == 3 and list(facts["files"]) == ["deep/README.md", "model.safetensors"]


def test_no_bit_of_a_folder_of_ours_turns_over_unseen(ours: Path) -> None:
    draw = random.Random(0)
    for name in ("model.safetensors", "deep/README.md", MANIFEST):
        whole = (ours / name).read_bytes()
        places = range(len(whole)) if name == MANIFEST else [draw.randrange(len(whole)) for _ in range(20)]
        for place in places:
            body = bytearray(whole)
            body[place] ^= 1 << draw.randrange(8)
            (ours / name).write_bytes(body)
            try:
                facts = check_whole(ours, "copy it again")
            except InputError as problem:
                assert "copy it again" in str(problem)
            else:  # between two words of JSON, where it says nothing
                assert facts["step"] == 3 and len(facts["files"]) == 2 and name == MANIFEST
        (ours / name).write_bytes(whole)
    (ours / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks model\.safetensors.*copy it again"):
        check_whole(ours, "copy it again")


def test_other_peoples_files_come_along_when_a_folder_is_converted_anew(ours: Path) -> None:
    (ours / "thesis.txt").write_text("years of work")
    (ours / "deep" / "notes.txt").write_text("mine")
    convert_into(ours, text="new")
    assert (ours / "thesis.txt").read_text() == "years of work" and (ours / "deep" / "notes.txt").read_text() == "mine"
    assert (ours / "model.safetensors").read_text() == "new"
    convert_into(ours, text="newer")  # what came along was not listed as ours
    assert (ours / "thesis.txt").exists() and "thesis.txt" not in read_manifest(ours, "")["files"]


@pytest.mark.parametrize("how", ["edited", "a link", "a folder"])
def test_a_file_of_ours_that_somebody_changed_is_not_overwritten(ours: Path, how: str, tmp_path: Path) -> None:
    card = ours / "deep" / "README.md"
    text = card.read_text()
    card.unlink()
    if how == "edited":
        card.write_text("# My model")
    elif how == "a link":
        (tmp_path / "mine.md").write_text(text)
        card.symlink_to(tmp_path / "mine.md")
    else:
        card.mkdir()
    before = names_in(tmp_path)
    with pytest.raises(
        InputError, match=r"hf.deep.README\.md was changed since .*move it away, or choose another SAVE"
    ):
        convert_into(ours)
    assert names_in(tmp_path) == before


def test_a_file_of_ours_that_is_gone_is_written_again(ours: Path) -> None:
    (ours / "model.safetensors").unlink()
    convert_into(ours)
    check_whole(ours, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("[]", "it must be an object"),
        ('{"step": 3, "dtype": "float32"}', "a version that did not list its files"),
        ('{"step": 3, "files": {}}', "is damaged"),
        ('{"step": 3, "files": {}, "digest": "0"}', "is damaged"),
        ('{"files": {"thesis.txt": "0"}, "digest": DIGEST}', "lists 'thesis.txt', which is no file"),
        ('{"files": {"../a": "00112233445566778899aabbccddeeff"}, "digest": DIGEST}', r"lists '\.\./a', which is no"),
        ('{"files": {"/a": "00112233445566778899aabbccddeeff"}, "digest": DIGEST}', "lists '/a', which is no"),
        ('{"files": {"": "00112233445566778899aabbccddeeff"}, "digest": DIGEST}', "lists '', which is no"),
        ('{"files": 3, "digest": DIGEST}', "is damaged"),
        ('{"files": {"thesis.txt": "00112233445566778899aabbccddeeff"}, "digest": DIGEST}', "thesis.txt was changed"),
        ("[" * 100_000, "nested too deep"),
        ('{"files":' + '{"a":' * 900 + "1" + "}" * 900 + ', "digest": DIGEST}', "lists 'a', which is no"),
    ],
)
def test_a_folder_whose_manifest_says_nothing_of_whose_the_files_are_stays_as_it_is(
    tmp_path: Path, text: str, message: str
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    if "DIGEST" in text:
        values = json.loads(text.replace(', "digest": DIGEST', ""))
        text = text.replace("DIGEST", json.dumps(digest_of_values(values)))
    (mine / MANIFEST).write_text(text)
    with pytest.raises(InputError, match=message):
        convert_into(mine)
    assert (mine / "thesis.txt").read_text() == "years of work" and (mine / MANIFEST).read_text() == text
    assert names_in(tmp_path) == ["mine", "mine/thesis.txt", f"mine/{MANIFEST}"]


def test_a_folder_that_is_read_is_not_the_one_that_is_written(ours: Path, tmp_path: Path) -> None:
    inside = ours / "deep"
    (tmp_path / "link").symlink_to("hf")
    for said, read, words in [
        (ours, ours, "is"),
        (tmp_path / "x" / ".." / "hf", ours, "is"),
        (tmp_path / "link", ours, "is"),
        (ours, tmp_path / "link", "is"),
        (ours, inside, "holds"),
        (ours, inside / "README.md", "holds"),
        (tmp_path / "link", inside, "holds"),
        (inside, ours, "lies in"),
        (tmp_path / "link" / "new" / "below", ours, "lies in"),
    ]:
        before = {name: (tmp_path / name).stat().st_mtime_ns for name in names_in(tmp_path)}
        with pytest.raises(InputError, match=f"{words} .*which is read; choose another SAVE_DIR"):
            convert_into(said, tmp_path / "other", read)
        assert {name: (tmp_path / name).stat().st_mtime_ns for name in names_in(tmp_path)} == before
    assert overlap(tmp_path / "hf2", ours) == "" == overlap(tmp_path / "new" / "a", tmp_path / "newer")


def test_a_link_names_the_folder_that_it_leads_to(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("hf")
    convert_into(tmp_path / "link", text="new")
    assert (tmp_path / "link").is_symlink() and (ours / "model.safetensors").read_text() == "new"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file", "is a file, the model needs a folder"),
        ("file/hf", r"could not be written \(Not a directory"),
        ("loop/hf", "choose another SAVE_DIR"),
        ("loop", "choose another SAVE_DIR"),
        ("nowhere", "choose another SAVE_DIR"),
        ("x" * 300, "File name too long"),
        ("new/" + "x" * 300, "File name too long"),
        ("/".join(["x" * 250] * 20), "File name too long"),
        ("a\0b", "null"),
        ("mine", "is not empty and not a conversion of ours"),
        (".", "is not empty and not|runs in"),
        ("..", "is not empty and not|holds|runs in"),
        ("/", "disk of its own|not empty"),
    ],
)
def test_a_place_that_is_none_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("gone/away")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match=message) as caught, in_a_sentence(Path(name)), destination(Path(name)):
        raise AssertionError("it was let in")
    assert "SAVE_DIR" in str(caught.value) and sorted(os.listdir(tmp_path)) == before


def test_the_folder_a_command_runs_in_is_not_replaced_under_its_feet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match="the folder this command runs in"):
        convert_into(Path("."))


def test_two_conversions_into_one_folder_do_not_meet(tmp_path: Path) -> None:
    with destination(tmp_path / "hf"):
        with pytest.raises(InputError, match=r"hf is in use by varlen-lab convert \(process .*another SAVE_DIR"):
            convert_into(tmp_path / "hf")
        convert_into(tmp_path / "other")
    assert os.listdir(tmp_path) == ["other"]
    convert_into(tmp_path / "hf")
    assert sorted(os.listdir(tmp_path)) == ["hf", "other"]


@pytest.mark.parametrize("what", ["it was made meanwhile", "a file of ours was changed", "it was replaced"])
def test_what_another_program_wrote_meanwhile_is_not_replaced(tmp_path: Path, what: str) -> None:
    path = tmp_path / "hf"
    if what != "it was made meanwhile":
        convert_into(path)
    with (
        pytest.raises(InputError, match="was written by another program meanwhile"),
        destination(path) as place,
        folder_written_whole(place.path, place.seen or ()),
    ):
        if what == "a file of ours was changed":
            (path / "model.safetensors").write_text("retrained")
        else:
            with folder_written_whole(path) as draft:
                (draft / "model.safetensors").write_text("retrained")
        place.check_unchanged()
    assert (path / "model.safetensors").read_text() == "retrained" and os.listdir(tmp_path) == ["hf"]


def test_a_folder_that_looks_unfinished_is_somebodys(tmp_path: Path) -> None:
    for name in ("hf.unfinished", "hf.tmp", ".hf.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    convert_into(tmp_path / "hf")
    convert_into(tmp_path / "hf")
    assert len(list(tmp_path.glob("*/thesis.txt"))) == 3


def test_folders_made_on_the_way_go_when_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), destination(tmp_path / "a" / "b" / "hf"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varlen_lab.files.places.bytes_free", lambda folder: 1000)
    with (
        pytest.raises(InputError, match=r"needs 2 MB and its disk has 0\.0 MB left; make room, or choose another SAVE"),
        destination(tmp_path / "hf") as place,
    ):
        place.check_room(2_000_000)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_conversion_left_is_gone_after_the_next(tmp_path: Path) -> None:
    """Its own drafts alone, whatever signs are in the name; those of another folder may be in use."""
    target, other = tmp_path / "new[1]", tmp_path / ".newer-0123456789ab.partial"
    left = tmp_path / ".new[1]-0123456789ab.partial"
    for folder in (left, other):
        folder.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    with destination(target):
        assert not left.exists() and other.exists()
