"""What others made: nothing of it is run, what is damaged or lies is one sentence, and no weight or word is made up."""

from __future__ import annotations

import ast
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from crafted_models import (
    ADAPTERS,
    BOMBS,
    FOLDERS,
    MODEL_CONFIGS,
    bomb_mark,
    change,
    code_everywhere,
    saved,
    tiny_adapter,
    tiny_folder,
)
from safetensors.torch import load_file, save_file

import varlen_lab
from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.errors import InputError
from varlen_lab.models.adapters import base_model_name, open_adapter
from varlen_lab.models.building import build_model, tiny
from varlen_lab.models.loading import load_model
from varlen_lab.models.merging import merged
from varlen_lab.models.tokenizers import open_tokenizer
from varlen_lab.training.data import load_rows, load_tokenizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tokenizer, as it should be."""
    return tiny_folder(tmp_path_factory.mktemp("untrusted") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def sentence(problem: BaseException) -> str:
    """What an error says, which must be for people: one line, not a page."""
    said = str(problem)
    assert "\n" not in said and len(said) < 900 and said[-1] in ".?" and ";" in said + "; did", said
    return said


def test_no_call_of_the_library_lets_code_of_a_folder_run() -> None:
    """transformers asks on stdin where it is not told, and runs what a ``y`` allows."""
    seen = 0
    for path in Path(varlen_lab.__file__).parent.rglob("*.py"):
        code = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(code)) if "from_" in code or "trust_remote_code" in code else ():
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            assert all(word.arg != "trust_remote_code" or ast.unparse(word.value) == "False" for word in node.keywords)
            name = ast.unparse(node.func)
            if node.func.attr in ("from_pretrained", "from_config") and name != "peft.PeftModel.from_pretrained":
                seen += 1
                assert any(word.arg == "trust_remote_code" for word in node.keywords), f"{path}:{node.lineno} {name}"
    assert seen > 8


def words_of(verb: str, folder: Path, config: Path, whole: Path) -> list[str]:
    """The command line on which a verb opens the model in ``folder``, which ``config`` names, too."""
    return {
        "audit": ["audit", "--model", str(folder)],
        "audit a config": ["audit", str(config)],
        "merge": ["convert", "merge", str(folder), str(whole), str(folder.parent / "out")],
        "copy-cfg": ["copy-cfg", "--model", str(folder), str(folder.parent)],
        "compare": ["compare", str(config), "--quiet"],
        "train": ["train", str(config), "--quiet"],
    }.get(verb) or [verb, str(config)]


@pytest.mark.parametrize(
    "verb",
    [
        *("audit", "audit a config", "train", "compare", "masks", "pack-report", "check-custom-dataset"),
        *("log-dataset", "merge", "copy-cfg"),
    ],
)
def test_no_verb_runs_code_of_a_folder_whatever_stdin_says(
    verb: str,
    folder: Path,
    whole: Path,
    small: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code_everywhere(folder)
    config = tmp_path / "c.py"
    config.write_text(
        render(small.with_mode("varlen").replace(pretrained_model_name_or_path=str(folder), model_config=None))
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.chdir(tmp_path)
    assert main(words_of(verb, folder, config, whole)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "needs code of its own (modeling_x.py, auto_map), which is not run here" in said and "[y/N]" not in said
    assert not bomb_mark(folder).exists()


@pytest.mark.parametrize("name", BOMBS)
def test_no_file_of_a_folder_is_run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    BOMBS[name](folder)
    for opened in (load_model, open_tokenizer):
        try:
            opened(str(folder))
        except InputError as problem:
            sentence(problem)
    assert not bomb_mark(folder).exists()


@pytest.fixture(autouse=True)
def _nothing_is_logged() -> Iterator[None]:
    """transformers logs names as they are, half characters too, which pytest cannot send from process to process."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_crafted_folder_is_a_model_or_one_sentence(name: str, folder: Path) -> None:
    FOLDERS[name](folder)
    for opened in (load_model, open_tokenizer):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                opened(str(folder))
        except InputError as problem:
            sentence(problem)


@pytest.mark.parametrize("name", MODEL_CONFIGS)
def test_a_crafted_model_config_is_a_model_or_one_sentence(name: str) -> None:
    try:
        config = Config(model_config=MODEL_CONFIGS[name], evaluation_freq=0, device="cpu")
        load_tokenizer(config)
        build_model(config)
    except InputError as problem:
        sentence(problem)


@pytest.fixture(scope="module")
def adapter(whole: Path) -> Path:
    """An adapter of that model."""
    pytest.importorskip("peft")
    return tiny_adapter(whole.parent / "adapter", whole)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_crafted_adapter_is_an_adapter_or_one_sentence(name: str, adapter: Path, whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    ADAPTERS[name](copy)
    try:
        base_model_name(copy)
        open_adapter(load_model(whole, "plain"), copy)
    except InputError as problem:
        sentence(problem)
    else:  # what peft would leave out, or begin anew, or take for a number
        assert "weights: " not in name and ".bin" not in name
    assert not bomb_mark(copy).exists()


def test_a_base_without_numbers_is_no_bug_of_ours(folder: Path, adapter: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    saved(lambda weights: weights[name].fill_(torch.nan), folder)
    with pytest.raises(InputError, match=r"q_proj has weights that are no numbers, nothing was written"):
        merged(open_adapter(load_model(folder, "plain"), adapter))


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (["model.norm.weight"], r"lacks 1 of the model's weights \(model.norm.weight\), which would begin at random"),
        (["lm_head.weight", "model.norm.weight"], r"lacks 2 .* \(lm_head.weight, model.norm.weight\)"),
        ([".layers.1."], r"lacks 9 .* \(model.layers.1.input_layernorm.weight and 8 more\)"),
    ],
)
def test_a_folder_that_lacks_weights_is_refused(lost: list[str], said: str, folder: Path) -> None:
    """They were made up at random, and the run began."""

    def lose(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if any(part in name for part in lost)]:
            del weights[name]

    saved(lose, folder)
    with pytest.raises(InputError, match=said):
        load_model(folder)


def test_an_original_layout_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    tiny("internlm").save_pretrained(tmp_path)
    change("config.json", {"model_type": "internlm", "auto_map": {}, "bias": True}, tmp_path)
    load_model(tmp_path)
    saved(lambda weights: weights.pop("model.norm.weight"), tmp_path)
    with pytest.raises(InputError, match=r"lacks 1 of the model's weights \(model\.norm\.weight\)"):
        load_model(tmp_path)


def test_what_is_computed_or_tied_is_not_missing(tmp_path: Path) -> None:
    """An output layer that is the embedding lies in no file; rotary frequencies lie in old ones and are not read."""
    model = tiny("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in weights
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load_model(tmp_path)
    assert torch.equal(again.get_output_embeddings().weight, model.get_input_embeddings().weight)


def test_weights_that_a_model_has_no_place_for_are_said(folder: Path) -> None:
    """A config that says fewer layers than there are cuts the model short."""
    change("config.json", {"num_hidden_layers": 1}, folder)
    with pytest.warns(UserWarning, match=r"has 9 weights that a LlamaForCausalLM has no place for \(model.layers.1"):
        load_model(folder)


def test_a_vocabulary_with_fewer_words_than_marks_is_one(folder: Path) -> None:
    """Four letters of DNA, and five marks, of which four were added."""
    from tokenizers import Tokenizer, models

    words = {word: number for number, word in enumerate(["<unk>", "A", "C", "G", "T"])}
    Tokenizer(models.WordLevel(words, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    marks = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk", "mask")}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **marks}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    opened = open_tokenizer(str(folder))
    assert opened is not None and opened("G")["input_ids"] == [3]


@pytest.mark.parametrize("name", [name for name in FOLDERS if name.startswith("tokenizer.json")])
def test_a_damaged_tokenizer_is_not_replaced(name: str, folder: Path) -> None:
    """The built-in one has as many words as this model, and took its place."""
    FOLDERS[name](folder)
    config = Config(pretrained_model_name_or_path=str(folder), evaluation_freq=0)
    if name == "tokenizer.json: an id that no model has":
        return
    with pytest.raises(InputError, match="tokenizer") as caught:
        load_tokenizer(config)
    sentence(caught.value)


def test_a_vocabulary_that_cannot_write_the_data_is_one_sentence(folder: Path, small: Config) -> None:
    """A class of tokenizers that wants a mark for unknown words, on a vocabulary without one."""
    change("tokenizer_config.json", {"tokenizer_class": "BertTokenizer"}, folder)
    config = small.replace(pretrained_model_name_or_path=str(folder), model_config=None)
    with pytest.raises(InputError, match=r"tokenizer.*\[UNK\]") as caught:
        load_rows(config, load_tokenizer(config))
    sentence(caught.value)


def test_an_error_never_prints_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    model = tiny("llama", num_hidden_layers=4)

    def fail(*_: object, **__: object) -> None:
        raise ValueError(" ".join(str(model).split()))

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(InputError, match="cannot be opened") as caught:
        load_model(folder)
    sentence(caught.value)


def test_nobody_asks_for_memory_that_is_not_there(folder: Path) -> None:
    sizes = {"model_type": "llama", "hidden_size": 2**17, "intermediate_size": 2**20, "num_hidden_layers": 99}
    with pytest.raises(InputError, match=r"model_config describes a llama of \d.*GB in float32, and this machine has"):
        build_model(Config(model_config=sizes, evaluation_freq=0))
    change("config.json", {"vocab_size": 2**26}, folder)
    with pytest.raises(InputError, match=r"a model with 4\.29e\+09 weights and files of 0\.\d MB; the two are of"):
        load_model(folder)
