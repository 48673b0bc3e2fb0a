"""Checkpoints on a disk that loses bits and has no room: what is damaged is named, with what to go on from."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.files.checksums import seal_holds, zip_holds
from varlen_lab.files.writing import written_whole
from varlen_lab.training import checkpoint, damage
from varlen_lab.training.checkpoint import read_checkpoint, save_checkpoint
from varlen_lab.training.conversion import convert
from varlen_lab.training.engines.scattering import write_gathered
from varlen_lab.training.trainer import train

PAGE = 4096


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A checkpoint of 200 kB, and an earlier one beside it."""
    for step in (20, 40):
        weights = {"a": torch.randn(200, 200), "b": torch.randn(100)}
        save_checkpoint(tmp_path / f"iter_{step}.pth", {"step": step, "model": weights})
    return tmp_path / "iter_40.pth"


def refused_with_the_last_good(path: Path) -> None:
    with pytest.raises(InputError, match=r"iter_40\.pth is damaged.* go on from .*iter_20\.pth, which is whole\.$"):
        read_checkpoint(path)


def test_80_of_80_flipped_bits_are_found(whole: Path) -> None:
    body, rng = whole.read_bytes(), random.Random(0)
    for _ in range(80):
        place = rng.randrange(len(body))
        whole.write_bytes(body[:place] + bytes([body[place] ^ 1 << rng.randrange(8)]) + body[place + 1 :])
        refused_with_the_last_good(whole)
    whole.write_bytes(body)
    assert read_checkpoint(whole)["step"] == 40


def test_40_of_40_zeroed_pages_are_found(whole: Path) -> None:
    body = whole.read_bytes()
    for page in range(40):
        whole.write_bytes(body[: page * PAGE] + bytes(PAGE) + body[(page + 1) * PAGE :])
        refused_with_the_last_good(whole)


def test_a_checkpoint_that_was_cut_or_grew_is_refused(whole: Path) -> None:
    body = whole.read_bytes()
    for other in (body[:-1], body[:-60], body[:1000], b"", body + b"0", body + body, body[:-1] + b"\0"):
        whole.write_bytes(other)
        refused_with_the_last_good(whole)


def test_a_damaged_checkpoint_is_never_the_one_to_go_on_from(whole: Path) -> None:
    """The newest before it that is whole; else one after it; else there is none."""
    save_checkpoint(whole.with_name("iter_60.pth"), {"step": 60})
    torch.save({"model": {}}, whole.with_name("iter_30.pth"))  # somebody else's
    damaged(whole)
    refused_with_the_last_good(whole)
    damaged(whole.with_name("iter_20.pth"))
    with pytest.raises(InputError, match=r"go on from .*iter_60\.pth, which is whole"):
        read_checkpoint(whole)
    damaged(whole.with_name("iter_60.pth"))
    with pytest.raises(InputError, match=r"there is no other checkpoint in .* that is whole\.$"):
        read_checkpoint(whole)


def damaged(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 4
    path.write_bytes(body)


def test_a_damaged_newest_checkpoint_is_neither_resumed_nor_passed_over(small: Config, tmp_path: Path) -> None:
    config = small.replace(save_steps=1)
    train(config, progress=False)
    newest = Path(small.work_dir or "") / "iter_3.pth"
    damaged(newest)
    files = {path.name: path.read_bytes() for path in newest.parent.iterdir()}
    for resume in (True, newest):
        with pytest.raises(InputError, match=r"iter_3\.pth is damaged.* go on from .*iter_2\.pth, which is whole"):
            train(config, progress=False, resume=resume)
    with pytest.raises(InputError, match=r"iter_3\.pth is damaged"):
        convert(config, newest, tmp_path / "hf")
    assert {path.name: path.read_bytes() for path in newest.parent.iterdir()} == files
    assert train(config, progress=False, resume=newest.with_name("iter_2.pth")).taken == 1
    assert convert(config, newest, tmp_path / "hf").step == 3


def test_earlier_formats_are_held_against_the_sums_of_their_parts(tmp_path: Path) -> None:
    for number in (1, 2):
        path = tmp_path / f"iter_{number}.pth"
        torch.save({"format": f"varlen_lab checkpoint {number}", "step": number, "w": torch.randn(10_000)}, path)
        assert read_checkpoint(path)["step"] == number
        body = bytearray(path.read_bytes())
        body[-20_000] ^= 1
        path.write_bytes(body)
        with pytest.raises(InputError, match="is damaged, cut short, or no checkpoint at all"):
            read_checkpoint(path)


def test_what_several_processes_filled_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts have no sums; of format 3 it has a digest as any other."""
    weights = {"a": torch.randn(1000), "b": torch.randn(3, 4)}
    save_checkpoint(tmp_path / "iter_3.pth", {"model": weights}, write_gathered)
    assert seal_holds(tmp_path / "iter_3.pth") and not zipfile.ZipFile(tmp_path / "iter_3.pth").infolist()[5].CRC
    with written_whole(tmp_path / "iter_2.pth") as file:
        write_gathered({"format": "varlen_lab checkpoint 2", "model": weights}, file)
    assert zip_holds(tmp_path / "iter_2.pth")
    for step in (2, 3):
        found = read_checkpoint(tmp_path / f"iter_{step}.pth")["model"]
        assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_file_is_compared_once_while_it_stays_as_it_is(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = damage.seal_holds
    monkeypatch.setattr(damage, "seal_holds", lambda path: calls.append(path) or real(path))
    for _ in range(3):
        read_checkpoint(whole)
    assert calls == [whole]
    save_checkpoint(whole, {"step": 41})
    assert read_checkpoint(whole)["step"] == 41 and calls == [whole, whole]


def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    torch.save({"format": checkpoint.FORMAT, "step": 1, "config": "a" * 10**6}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "iter_1.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))
    assert (tmp_path / "iter_1.pth").stat().st_size < 10**4
    with pytest.raises(InputError, match="no checkpoint at all"):
        read_checkpoint(tmp_path / "iter_1.pth")


def test_the_digest_cannot_be_left_out(whole: Path) -> None:
    """A file of this format without one was cut behind the archive, or its mark was damaged."""
    torch.save({"format": checkpoint.FORMAT, "step": 40}, whole)
    refused_with_the_last_good(whole)


def test_room_is_looked_for_before_a_byte_is_written(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "bytes_free", lambda folder: 10**6)
    monkeypatch.setattr(torch, "save", lambda *_: pytest.fail("it was written"))
    tied = torch.zeros(10**6)
    with pytest.raises(InputError, match=r"iter_60\.pth could not be written \(it needs 4 MB, .* 1 MB left\).*room"):
        save_checkpoint(whole.with_name("iter_60.pth"), {"model": {"a": tied, "b": tied.view(1000, 1000)}})
    assert {path.name for path in whole.parent.iterdir()} == {"iter_20.pth", "iter_40.pth"}


@pytest.mark.parametrize("name", ["a\0b", "loop", "/dev/null", "x" * 300])
def test_a_name_that_is_no_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / name)
