"""What an adapter was trained beside: the same for the same weights however they are filed, another for others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.models.building import tiny
from varlen_lab.models.fingerprints import base_fingerprint, differ, weights_fingerprint
from varlen_lab.models.weights import stored_tensors, weight_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in one file."""
    path = tmp_path_factory.mktemp("model")
    tiny("llama").save_pretrained(path)
    return path


def test_the_fingerprint_is_of_the_weights_and_not_of_how_they_are_filed(folder: Path, tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "shards", max_shard_size="300KB")
    assert len(weight_files(tmp_path / "shards")) > 1
    (tmp_path / "shards" / "config.json").write_text("{}")
    found = weights_fingerprint(str(folder))
    assert found is not None and found == weights_fingerprint(str(tmp_path / "shards"))
    tiny("llama", seed=1).save_pretrained(tmp_path / "other")
    other = weights_fingerprint(str(tmp_path / "other"))
    assert differ(found, other) and not differ(found, found)


def test_one_bit_is_another_base_also_in_a_process_that_knew_the_file(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    before = weights_fingerprint(str(copy))
    path = copy / "model.safetensors"
    place = next(iter(stored_tensors(path).values())).begin
    body = bytearray(path.read_bytes())
    body[place] ^= 1
    path.write_bytes(body)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # clocks of file systems are coarse
    assert differ(before, weights_fingerprint(str(copy)))


def test_a_base_from_scratch_is_its_config_and_seed() -> None:
    config = Config(model_config={"model_type": "llama", "hidden_size": 64}, seed=1)
    found = base_fingerprint(config)
    assert found == base_fingerprint(config.replace(model_config={"hidden_size": 64, "model_type": "llama"}))
    assert differ(found, base_fingerprint(config.replace(seed=2)))


def test_what_is_not_known_differs_from_nothing(folder: Path, tmp_path: Path) -> None:
    """Nothing on the hub is asked: a name that was not downloaded has no fingerprint."""
    found = weights_fingerprint(str(folder))
    scratch = base_fingerprint(Config(model_config={"model_type": "llama"}))
    assert weights_fingerprint("nobody/has-this-model") is None and weights_fingerprint(str(tmp_path)) is None
    assert not differ(found, None) and not differ(None, found) and not differ(found, scratch)


def test_an_index_names_shards_that_are_there(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path, max_shard_size="300KB")
    weight_files(tmp_path)[1].unlink()
    with pytest.raises(InputError, match=r"lacks model-0000\d-of-0\d+.safetensors, 1 file of the \d+ that its model"):
        weights_fingerprint(str(tmp_path))
    index = tmp_path / "model.safetensors.index.json"
    for text, said in {
        "{": "no JSON",
        "[]": "must be an object",
        "{}": "has no 'weight_map'",
        '{"weight_map": []}': "no such value",
        '{"weight_map": {}}': "does not name a file",
        '{"weight_map": {"a": 1}}': "does not name a file",
        '{"weight_map": {"a": "../other.safetensors"}}': "does not name a file",
    }.items():
        index.write_text(text)
        with pytest.raises(InputError, match=said):
            weight_files(tmp_path)
