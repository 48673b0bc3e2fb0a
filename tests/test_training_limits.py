"""What a model cannot take is one sentence before step 1, and what it can take is never refused: it runs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from expect import refused

from varlen_lab.cli import main
from varlen_lab.config.schema import MODES, Config
from varlen_lab.config.text import render
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.models.building import from_scratch
from varlen_lab.studies.comparison import compare
from varlen_lab.training import limits as limits_module
from varlen_lab.training.data import load_rows, load_tokenizer
from varlen_lab.training.trainer import train

WORDS = 2048  # of the built-in tokenizer
SIZES = {"vocab_size": WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, **SIZES}
OPT = {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2,
       "num_attention_heads": 2, **SIZES}  # fmt: skip
LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 2, **SIZES}  # fmt: skip


def with_positions(kind: dict, count: int) -> dict:
    """The architecture with room for so many positions."""
    return {**kind, "n_positions" if kind is GPT2 else "max_position_embeddings": count}


@pytest.fixture
def counted(small: Config, tmp_path: Path) -> tuple[Config, int, int]:
    """``small`` on a few short documents, all in one step; tokens of the longest document, and of the longest row."""
    path = tmp_path / "short.jsonl"
    records = [{"instruction": "Count.", "output": "one two three " * words} for words in (1, 2, 2, 3, 3, 4, 5, 6)]
    path.write_text("\n".join(map(json.dumps, records)))
    config = small.replace(data_path=str(path), max_steps=1, accumulative_counts=len(records))
    rows, _ = load_rows(config, load_tokenizer(config))
    return config, int(max(map(max, rows["seq_lengths"]))), max(map(len, rows["input_ids"]))


@pytest.mark.parametrize("kind", [GPT2, OPT], ids=["gpt2", "opt"])
@pytest.mark.parametrize("mode", MODES)
def test_a_table_is_as_long_as_the_positions_that_occur(
    counted: tuple[Config, int, int], kind: dict, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed, positions run through the row; varlen and unpacked they start anew. One fewer and it is a traceback."""
    config, document, row = counted
    needed = row if mode == "packed" else document
    enough = config.with_mode(mode).replace(model_config=with_positions(kind, needed))
    assert len(train(enough, progress=False).records) == 1
    short = enough.replace(model_config=with_positions(kind, needed - 1), work_dir=f"{config.work_dir}2")
    with refused(f"a table of {needed - 1} positions; set max_length = {needed - 1}") as caught:
        train(short, progress=False)
    assert not Path(short.work_dir or "").exists()
    assert ("run through a packed row" if mode == "packed" else "the longest document has") in str(caught.value)
    assert ("use_varlen_attn = True" in str(caught.value)) == (mode == "packed" and needed > document)
    # the limit is real: without the check the model itself falls over it
    monkeypatch.setattr(limits_module, "missing_positions", lambda *given: [])
    with pytest.raises(Exception, match=r"index out of range|cannot be trained as it is"):
        train(short, progress=False)


def test_a_comparison_asks_for_all_modes_before_the_first(counted: tuple[Config, int, int]) -> None:
    config, document, row = counted
    table = config.replace(model_config=with_positions(GPT2, document))
    assert document < row
    with refused("positions run through a packed row"):
        compare(table)
    assert compare(table, ("unpacked", "varlen")).keeps_apart


def saved_pair(folder: Path, words: int, added: tuple[str, ...] = ()) -> str:
    """A folder with a tiny Llama of so many words and the built-in tokenizer, with tokens added to it."""
    from_scratch({**LLAMA, "vocab_size": words}, "varlen", seed=0).save_pretrained(folder)
    tokenizer = type(builtin_tokenizer())(tokenizer_object=builtin_tokenizer().backend_tokenizer)
    tokenizer.chat_template = builtin_tokenizer().chat_template
    tokenizer.add_special_tokens({"eos_token": builtin_tokenizer().eos_token})
    if added:
        tokenizer.add_tokens(list(added))
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("mode", MODES)
def test_tokens_past_the_vocabulary_are_a_sentence(counted: tuple[Config, int, int], tmp_path: Path, mode: str) -> None:
    """The tokenizer got a token that the model did not, and the data has it."""
    data = tmp_path / "own.jsonl"
    data.write_text(json.dumps({"instruction": "Say it.", "output": "the <new_mark> word"}) + "\n")
    folder = saved_pair(tmp_path / "model", WORDS, ("<new_mark>",))
    config = (
        counted[0].with_mode(mode).replace(model_config=None, pretrained_model_name_or_path=folder, data_path=str(data))
    )
    with refused(rf"the data has the token {WORDS} \('<new_mark>'\) and the model knows 0 to {WORDS - 1}"):
        train(config, progress=False)
    with refused("resize_token_embeddings"):
        compare(config, (mode,))
    data.write_text(json.dumps({"instruction": "Say it.", "output": "the word"}) + "\n")
    assert train(config, progress=False).records, "a token that no document has is no reason"


def test_padding_past_the_vocabulary_is_a_sentence(counted: tuple[Config, int, int], tmp_path: Path) -> None:
    folder = saved_pair(tmp_path / "model", WORDS)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<the_pad>"})
    tokenizer.save_pretrained(folder)
    config = counted[0].replace(model_config=None, pretrained_model_name_or_path=folder, batch_size=2)
    for mode in ("unpacked", "packed"):
        with refused(rf"padding is the token {WORDS} \('<the_pad>'\)"):
            train(config.with_mode(mode), progress=False)
        assert train(config.with_mode(mode).replace(batch_size=1), progress=False).records
    assert train(config.with_mode("varlen"), progress=False).records


def test_past_what_rotary_positions_were_made_for_is_a_notice(counted: tuple[Config, int, int]) -> None:
    config, document, row = counted
    for mode, positions in (("varlen", document), ("packed", row)):
        far = config.with_mode(mode).replace(model_config=with_positions(LLAMA, document - 1))
        with pytest.warns(UserWarning, match=rf"max_length = 128 is more than the {document - 1} .*to {positions}\b"):
            train(far, progress=False)
    none_past = config.with_mode("varlen").replace(model_config=with_positions(LLAMA, document))
    with pytest.warns(UserWarning, match="none goes past it"):
        train(none_past, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(
            config.replace(model_config=with_positions(LLAMA, 128), work_dir=f"{config.work_dir}/fits"), progress=False
        )
    with pytest.warns(UserWarning, match="more than the") as told:
        compare(far)
    assert len(told) == 2, "one for positions that start anew, one for those that run on"


def test_the_check_of_data_asks_the_model(
    counted: tuple[Config, int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, document, _ = counted
    path = tmp_path / "c.py"
    path.write_text(render(config.with_mode("varlen").replace(model_config=with_positions(GPT2, document - 1))))
    assert main(["check-custom-dataset", str(path)]) == 1
    assert "the model cannot take it: the longest document has" in capsys.readouterr().out
    assert main(["check-custom-dataset", str(path), "--json"]) == 1
    assert "table of" in json.loads(capsys.readouterr().out)["refused_by_the_model"][0]
    path.write_text(render(config.with_mode("varlen").replace(model_config=with_positions(LLAMA, document - 1))))
    assert main(["check-custom-dataset", str(path)]) == 0
    assert "note: max_length = 128 is more than" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [-1, -7, WORDS])
def test_labels_that_are_no_tokens_are_a_sentence(wrong: int) -> None:
    """Data that comes with labels of its own: -1 for a mask would be trained as the first token."""
    from datasets import Dataset

    model = from_scratch(LLAMA, "varlen", seed=0)
    rows = Dataset.from_dict({"input_ids": [[5, 6, 7]], "labels": [[-100, wrong, 7]], "seq_lengths": [[3]]})
    (said,) = limits_module.unknown_labels(model, rows)
    assert f"the label {wrong} and the model has logits for 0 to {WORDS - 1}" in said
    good = Dataset.from_dict({"input_ids": [[5, 6, 7]], "labels": [[-100, 6, 7]], "seq_lengths": [[3]]})
    assert limits_module.unknown_labels(model, good) == []
    (said,) = limits_module.unknown_tokens(model, rows.map(lambda row: {"input_ids": [5, -3, 7]}), builtin_tokenizer())
    assert "the token -3 " in said


def test_a_model_with_an_adapter_has_the_same_limits(counted: tuple[Config, int, int]) -> None:
    config, document, _ = counted
    for method in ("lora", "qlora"):
        config = config.replace(method="lora", lora_r=4, lora_dropout=0.0, model_config=with_positions(LLAMA, 999))
        if method == "qlora":
            config = config.replace(model_config=None, pretrained_model_name_or_path="x", method=method)
            with refused("there is no model at 'x'"):
                limits_module.shapes_of(config)
        else:
            model = limits_module.shapes_of(config)
            assert all(parameter.is_meta for parameter in model.parameters())
            assert limits_module.Limits.of(config, model, *rows_and_tokenizer(config)).broken == []
    short = counted[0].replace(method="lora", lora_r=4, model_config=with_positions(GPT2, document - 1))
    with refused("the longest document has"):
        compare(short, ("varlen",))


def rows_and_tokenizer(config: Config) -> tuple:
    tokenizer = load_tokenizer(config)
    return load_rows(config, tokenizer)[0], tokenizer


def test_a_model_that_sees_what_it_should_say_is_not_trained(counted: tuple[Config, int, int]) -> None:
    """BERT as it is published; told to be a decoder it is one. GPT-NeoX has the same word in its config, unused."""
    bert = {"model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, **SIZES}  # fmt: skip
    for mode in MODES:
        config = counted[0].with_mode(mode)
        with refused("bert is no causal language model, its tokens see those behind them"):
            train(config.replace(model_config=bert), progress=False)
        assert len(train(config.replace(model_config=bert | {"is_decoder": True}), progress=False).records) == 1
    neox = {**bert, "model_type": "gpt_neox"}
    assert len(train(counted[0].replace(model_config=neox), progress=False).records) == 1
