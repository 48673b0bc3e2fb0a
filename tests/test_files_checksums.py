"""Every bit that turns over on the disk is found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from varlen_lab.errors import InputError
from varlen_lab.files.checksums import SEAL, check_listed, digest_file, listed, seal, seal_holds, zip_holds
from varlen_lab.files.writing import written_whole


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "a.pth"
    with written_whole(path, finish=seal) as file:
        torch.save({"model": {"w": torch.arange(5000.0)}, "step": 3}, file)
    return path


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_what_is_sealed(sealed: Path, mmap: bool) -> None:
    found = torch.load(sealed, weights_only=True, mmap=mmap)
    assert found["step"] == 3 and torch.equal(found["model"]["w"], torch.arange(5000.0))
    assert seal_holds(sealed) is True and zip_holds(sealed)


def test_no_bit_turns_over_unseen(sealed: Path) -> None:
    whole, draw = sealed.read_bytes(), random.Random(0)
    places = [draw.randrange(len(whole)) for _ in range(200)] + list(range(len(whole) - SEAL - 60, len(whole)))
    for place in places:
        body = bytearray(whole)
        body[place] ^= 1 << draw.randrange(8)
        sealed.write_bytes(body)
        assert seal_holds(sealed) is not True, place  # None: the mark itself is gone, and a reader asks for one
    sealed.write_bytes(whole[:-5])
    assert seal_holds(sealed) is not True


def test_an_archive_without_a_seal_has_its_own_sums(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"w": torch.arange(5000.0)}, path)
    assert seal_holds(path) is None and zip_holds(path)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 4
    path.write_bytes(body)
    assert not zip_holds(path)


def test_files_of_a_folder_are_compared_with_their_list(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("a", "below/b"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    digests = listed(tmp_path)
    assert list(digests) == ["a", "below/b"] and digests["a"] == digest_file(tmp_path / "a")
    check_listed(tmp_path, digests, "copy it again")
    (tmp_path / "below/b").write_bytes(b"other")
    with pytest.raises(InputError, match=r"below.b is damaged, its bytes are not those that were written; copy it"):
        check_listed(tmp_path, digests, "copy it again")
    check_listed(tmp_path, digests, "copy it again", lambda number: number == 1)
    (tmp_path / "a").unlink()
    with pytest.raises(InputError, match=r"lacks a \(1 file of 2\); copy it again"):
        check_listed(tmp_path, digests, "copy it again", lambda number: False)
