"""Step 6 on damaged, foreign and crafted things: each is refused in a sentence, and nothing of a person's is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from varlen_lab.cli import main
from varlen_lab.config.text import load_config, render
from varlen_lab.errors import InputError
from varlen_lab.files import writing
from varlen_lab.files.checksums import digest_file, listed
from varlen_lab.files.manifests import DIGEST, FILES, MANIFEST, digest_of_values
from varlen_lab.models.building import tiny
from varlen_lab.models.loading import load_model
from varlen_lab.models.tokenizers import open_tokenizer
from varlen_lab.training import conversion
from varlen_lab.training import folder as folders
from varlen_lab.training.checkpoint import read_checkpoint, save_checkpoint
from varlen_lab.training.conversion import convert, merge
from varlen_lab.training.trainer import train

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def made(dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``base``, the checkpoint ``lora.pth`` of an adapter on it, its config, and ``adapter``."""
    from varlen_lab.config.names import named_config

    folder = tmp_path_factory.mktemp("made")
    tiny("llama").save_pretrained(folder / "base")
    config = (
        named_config("tiny_llama_full_docstrings_e1")
        .with_mode("varlen")
        .replace(
            data_path=str(dialogues),
            max_length=128,
            max_steps=1,
            evaluation_freq=0,
            device="cpu",
            work_dir=str(folder / "w"),
            method="lora",
            pretrained_model_name_or_path=str(folder / "base"),
            model_config=None,
        )
    )
    (folder / "lora.py").write_text(render(config))
    shutil.copy(train(config, progress=False).checkpoint or "", folder / "lora.pth")
    convert(config, folder / "lora.pth", folder / "adapter")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of ``made`` that may be damaged; the base keeps its name, so it is copied aside and put back."""
    for name in ("base", "adapter"):
        shutil.copytree(made / name, tmp_path / name)
    shutil.copy(made / "lora.pth", tmp_path)
    return tmp_path


def state_of(folder: Path) -> dict[str, tuple[int, str]]:
    return {name: ((folder / name).stat().st_mtime_ns, digest) for name, digest in listed(folder).items()}


@pytest.mark.parametrize("out", ["base", "adapter", "base/new", "adapter/merged", "link", "x/../base"])
def test_merge_does_not_write_over_what_it_reads(place: Path, out: str) -> None:
    (place / "link").symlink_to("base")
    before = state_of(place)
    with pytest.raises(InputError, match="which is read; choose another SAVE_DIR"):
        merge(place / "base", place / "adapter", place / out)
    assert state_of(place) == before


def test_convert_does_not_write_over_its_checkpoint(place: Path) -> None:
    (place / "zero.pth").mkdir()
    (place / "zero.pth" / "run.pth").write_bytes((place / "lora.pth").read_bytes())
    before = state_of(place)
    for out in ("zero.pth", "zero.pth/hf", "."):
        with pytest.raises(InputError, match="which is read; choose another SAVE_DIR"):
            convert(load_config("tiny_llama_full_docstrings_e1"), place / "zero.pth", place / out)
    assert state_of(place) == before


def test_a_bit_that_turned_over_in_an_adapter_or_its_base_is_named(place: Path) -> None:
    draw = random.Random(0)
    convert_base(place)
    for folder in ("adapter", "base"):
        names = list(listed(place / folder))
        assert MANIFEST in names and "tokenizer.json" in names
        for name in names:
            path = place / folder / name
            whole = path.read_bytes()
            at = draw.randrange(len(whole)) if name != MANIFEST else whole.index(b"step") + 1
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :])
            with pytest.raises(InputError) as caught:
                merge(place / "base", place / "adapter", place / "out")
            assert name in str(caught.value) and folder in str(caught.value)
            path.write_bytes(whole)
    assert not (place / "out").exists()


def convert_base(place: Path) -> None:
    """Make of the plain folder ``base`` one of ours with the same weights, as a conversion writes it."""
    from varlen_lab.files.manifests import write_manifest

    shutil.copy(place / "adapter" / "tokenizer.json", place / "base")
    write_manifest(place / "base", {"step": 1})


def test_a_bit_that_turned_over_in_a_checkpoint_is_named(place: Path, made: Path) -> None:
    whole, draw = (place / "lora.pth").read_bytes(), random.Random(0)
    for _ in range(20):
        body = bytearray(whole)
        body[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        (place / "lora.pth").write_bytes(body)
        with pytest.raises(InputError, match=r"lora\.pth"):
            convert(load_config(str(made / "lora.py")), place / "lora.pth", place / "out")
    assert not (place / "out").exists()


def test_an_adapter_is_not_merged_into_other_weights_of_the_same_name(place: Path) -> None:
    tiny("llama", seed=7).save_pretrained(place / "base")
    with pytest.raises(
        InputError, match=r"does not fit .*base: it was trained beside weights of the fingerprint .*made"
    ):
        merge(place / "base", place / "adapter", place / "out")
    assert not (place / "out").exists()


def test_an_adapter_is_not_converted_beside_other_weights_than_it_was_trained_on(place: Path, made: Path) -> None:
    state = {key: value for key, value in read_checkpoint(place / "lora.pth").items() if key != "format"}
    config = load_config(str(made / "lora.py"))
    state["meta"]["base"] = "00112233445566778899aabbccddeeff"
    save_checkpoint(place / "other.pth", state)
    with pytest.raises(InputError, match=r"trained beside weights of the fingerprint 0011.*put back the model"):
        convert(config, place / "other.pth", place / "out")
    del state["meta"]["base"]  # of a version that noted none
    save_checkpoint(place / "earlier.pth", state)
    assert convert(config, place / "earlier.pth", place / "out").kind == "adapter"


def test_who_may_read_the_folder_may_read_its_weights(made: Path) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (made / "adapter").iterdir()}
    assert len(modes) == 1 and modes == {stat.S_IMODE((made / "lora.py").stat().st_mode)}


def resigned(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The manifest of a folder as somebody writes it who knows how, after ``change``."""
    values = json.loads((folder / MANIFEST).read_text())
    del values[DIGEST]
    values[FILES] = {name: digest_file(folder / name) for name in values[FILES] if (folder / name).is_file()}
    change(values)
    (folder / MANIFEST).write_text(json.dumps(values | {DIGEST: digest_of_values(values)}))


SETTINGS: list[dict[str, Any]] = [
    {"peft_type": 3},
    {"peft_type": "IA3"},
    {"r": "x"},
    {"target_modules": 3},
    {"target_modules": "(("},
    {"rank_pattern": 3},
    {"use_dora": True},
    {"megatron_config": {"a": 1}, "megatron_core": "evil"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_crafted_adapter_config_is_a_sentence(place: Path, settings: dict[str, Any]) -> None:
    path = place / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    resigned(place / "adapter", lambda values: None)
    with pytest.raises(InputError, match=r"does not fit|lacks|asks for a package"):
        merge(place / "base", place / "adapter", place / "out")
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for name in (MANIFEST, "adapter_config.json") for text in ("", "[]", "null", "[" * 100_000, "\udcff")]
    + [("xtuner_config.py", text) for text in ("x = ", "max_length = 'a'", "import os; os.abort()", "\udcff")]
    + [("adapter_model.safetensors", text) for text in ("", "\0" * 8, "\udcff" * 100)],
)  # fmt: skip
def test_a_crafted_file_of_an_adapter_is_a_sentence(place: Path, name: str, text: str) -> None:
    (place / "adapter" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    if name != MANIFEST:
        resigned(place / "adapter", lambda values: None)
    with pytest.raises(InputError):
        merge(place / "base", place / "adapter", place / "out")
    assert not (place / "out").exists()


@pytest.mark.parametrize("values", [{"step": "3"}, {"step": None}, {"step": True}, {"base": 3}, {"base": []}], ids=str)
def test_a_crafted_manifest_is_a_sentence(place: Path, values: dict[str, Any]) -> None:
    resigned(place / "adapter", lambda found: found.update(values))
    with pytest.raises(InputError, match="which is no such value; make it again"):
        merge(place / "base", place / "adapter", place / "out")


def test_an_adapter_that_lacks_matrices_is_not_merged_with_those_as_they_were_drawn(place: Path) -> None:
    path = place / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    save_file(dict(list(weights.items())[::2]), path)
    resigned(place / "adapter", lambda values: None)
    with pytest.raises(InputError, match=r"lacks 14 weights that its adapter_config\.json speaks of"):
        merge(place / "base", place / "adapter", place / "out")


def test_nothing_in_an_adapter_runs(place: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (place / "ran",))

    (place / "adapter" / "adapter_model.safetensors").unlink()
    torch.save({"a": Bomb()}, place / "adapter" / "adapter_model.bin")
    resigned(place / "adapter", lambda values: None)
    with pytest.raises(InputError, match="does not fit"):
        merge(place / "base", place / "adapter", place / "out")
    assert not (place / "ran").exists() and not (place / "out").exists()


PHASES: list[tuple[Any, str]] = [
    (conversion, "check_whole"),
    (conversion, "load_model"),
    (folders, "save"),
    (folders, "write_manifest"),
    (writing, "bring_along"),
    (writing, "exchange"),
    (writing, "remove"),
]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows sends no SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("module", "name"), PHASES)
def test_a_signal_at_any_phase_leaves_the_old_folder_or_the_new_one_and_no_draft(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: Any,
    name: str,
    number: signal.Signals,
) -> None:
    out = place / "out"
    out.mkdir()
    before, real = sorted(os.listdir(place)), getattr(module, name)

    def interrupted(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(module, name, real)
        os.kill(os.getpid(), number)
        return real(*given, **named)

    monkeypatch.setattr(module, name, interrupted)
    code = main(["convert", "merge", str(place / "base"), str(place / "adapter"), str(out)])
    said = capsys.readouterr().err
    assert code == (143 if number == signal.SIGTERM else 130)
    assert "Traceback" not in said and ("stopped by SIGTERM" in said or "interrupted" in said)
    assert sorted(one for one in os.listdir(place) if not one.endswith(".partial") or name != "remove") == before
    assert not os.listdir(out) or (out / MANIFEST).exists()


def test_no_model_is_opened_from_weights_that_are_not_those_converted(place: Path) -> None:
    """Not for a training that begins anew either; who saved other weights there on purpose removes the list."""
    convert_base(place)
    (weights,) = (place / "base").glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5] + bytes([whole[-5] ^ 4]) + whole[-4:])
    with pytest.raises(InputError, match=rf"{weights.name} is damaged.*or remove {MANIFEST} where .* on purpose"):
        load_model(str(place / "base"))
    (place / "base" / MANIFEST).unlink()
    load_model(str(place / "base"))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
def test_no_model_is_opened_beside_a_file_that_is_not_the_one_converted(name: str, place: Path) -> None:
    """A letter of a config or of a vocabulary opens as well as another, and means something else."""
    convert_base(place)
    file = place / "base" / name
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace("1e-06", "1e-16", 1) if "1e-06" in whole else whole + " ", encoding="utf-8")
    opens = open_tokenizer if "token" in name else load_model
    with pytest.raises(InputError, match=rf"{name} is damaged.*or remove {MANIFEST} where .* on purpose"):
        opens(str(place / "base"))
    (place / "base" / MANIFEST).unlink()
    opens(str(place / "base"))
