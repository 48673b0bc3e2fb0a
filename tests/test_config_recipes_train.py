"""Every name trains: on the stand-in of its family, with two records in its dataset's own schema.

In the fast suite a seeded sample of 40 names, with ``-m slow`` all of them. qlora trains as LoRA here: the stand-in is
not quantised, so that it runs everywhere (``test_adapters`` has the four-bit run).
"""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import pytest

from varlen_lab.config.names import cpu_templates, dataset_settings, models, name_parts, named_config, recipes
from varlen_lab.documents.registry import OF_TOKENIZER, TEMPLATES
from varlen_lab.errors import InputError
from varlen_lab.models.building import tiny
from varlen_lab.training.trainer import train

ALPACA, ALPACA_ZH, OASST1 = dataset_settings("alpaca_enzh_oasst1")["data_path"]
MOSS_TOOLS = dataset_settings("moss_sft_plugins")["data_path"]
AGENT = [
    {"from": "system", "value": 'Tools: {"name": "weather", "description": "Says the weather."}'},
    {"from": "user", "value": "Is it nice in Rome?"},
    {
        "from": "assistant",
        "value": '<|startofthink|>```JSON\n{"api_name": "weather", "parameters": {"city": "Rome"}}\n```<|endofthink|>'
        '<|startofexec|>```JSON\n{"sky": "blue"}\n```<|endofexec|>It is.',
    },
]


def moss(turns: int, command: str, result: str) -> dict:
    said = {
        "Human": "<|Human|>: 2+2?<eoh>\n",
        "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
        "Commands": f"<|Commands|>: {command}<eoc>\n",
        "Tool Responses": f"<|Results|>: {result}<eor>\n",
        "MOSS": "<|MOSS|>: 4.<eom>\n",
    }
    chat = {f"turn_{number}": said for number in range(1, turns + 1)}
    return {"conversation_id": turns, "meta_instruction": "You are MOSS.\n", "num_turns": turns, "chat": chat}


# hub name or file -> two records as published
PUBLISHED = {
    ALPACA: [
        {"instruction": "Add.", "input": "2 and 2", "output": "4", "text": "Below is an instruction ..."},
        {"instruction": "Greet.", "input": "", "output": "Hello!", "text": "Below is an instruction ..."},
    ],
    ALPACA_ZH: [
        {
            "instruction": "Add.",
            "input": "",
            "output": "4",
            "instruction_zh": "相加",
            "input_zh": "",
            "output_zh": "四",
        },
        {
            "instruction": "Hi",
            "input": "",
            "output": "Hi",
            "instruction_zh": "你好",
            "input_zh": "",
            "output_zh": "您好",
        },
    ],
    OASST1: [
        {"text": "### Human: Hi### Assistant: Hello### Human: 2+2?### Assistant: 4"},
        {"text": "### Human: Why?### Assistant: So."},
    ],
    "./data/arxiv_data.json": [{"id": str(n), "abstract": "We do it.", "title": f"On {n}"} for n in range(2)],
    "HuggingFaceH4/CodeAlpaca_20K": [{"prompt": "Add", "completion": f"a + {n}"} for n in range(2)],
    "burkelibbey/colors": [{"color": f"#00000{n}", "description": "Nearly black"} for n in range(2)],
    "./data/CrimeKgAssitant清洗后_52k.json": [{"input": "可以吗？", "output": "不可以。"}] * 2,
    "./data/训练数据_带法律依据_92k.json": [{"reference": ["第一条"], "question": "可以吗？", "answer": "依法不可。"}]
    * 2,
    "shibing624/medical": [{"instruction": "咳嗽怎么办", "input": "", "output": "多喝水"}] * 2,
    "garage-bAInd/Open-Platypus": [
        {"input": "", "output": "4", "instruction": "2+2?", "data_source": "x"},
        {"input": "", "output": "6", "instruction": "3+3?", "data_source": "x"},
    ],
    "Open-Orca/OpenOrca": [
        {"id": "niv.1", "system_prompt": "", "question": "2+2?", "response": "4"},
        {"id": "flan.2", "system_prompt": "Be brief.", "question": "3+3?", "response": "6"},
    ],
    "b-mc2/sql-create-context": [
        {"answer": "SELECT a", "question": "Which a?", "context": "CREATE TABLE t (a INT)"},
        {"answer": "SELECT b", "question": "Which b?", "context": "CREATE TABLE t (b INT)"},
    ],
    "ArmelR/stack-exchange-instruction": [{"qid": n, "question": "How?", "response": "So."} for n in range(2)],
    "nampdn-ai/tiny-codes": [{"prompt": "Add", "main_topic": "x", "response": f"a + {n}"} for n in range(2)],
    "WizardLM/WizardLM_evol_instruct_V2_196k": [
        {"idx": "1", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"idx": "2", "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
    ],
    "./data/moss-003-sft-no-tools.jsonl": [moss(1, "None", "None"), moss(2, "None", "None")],
    MOSS_TOOLS: [moss(1, 'Calculate("2+2")', "Calculate => 4"), moss(2, 'Search("Rome")', "a city")],
    "damo/MSAgent-Bench": [
        {"id": "1", "conversations": str(AGENT)},
        {"id": "2", "conversations": str([{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello"}])},
    ],
    "builtin:docstrings": [
        {"messages": [{"role": "user", "content": f"What does f{n} do?"}, {"role": "assistant", "content": "It adds."}]}
        for n in range(2)
    ],
    "Skywork/SkyPile-150B": [{"text": "上海的景点有外滩。"}, {"text": "The sky is blue.\n"}],
}
NAMES = list(name_parts())
SAMPLE = random.Random(0).sample(NAMES, 40)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny model of each family, as a folder; the summary of the tests says what became of qlora."""
    warnings.warn("qlora names train as LoRA on the unquantised stand-in (test_adapters has four bits)", stacklevel=1)
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for family in {row.family for row in models().values()}:
        tiny(family).save_pretrained(folder / family)
        found[family] = str(folder / family)
    return found


def samples(data_path: str | list, folder: Path) -> str | list:
    """Files with two records each in place of what a recipe names."""
    if isinstance(data_path, list):
        return [str(samples(one, folder)) for one in data_path]
    path = folder / f"{abs(hash(data_path))}.json"
    path.write_text(json.dumps(PUBLISHED[data_path], ensure_ascii=False), encoding="utf-8")
    return str(path)


def trains(name: str, stand_ins: dict[str, str], folder: Path) -> None:
    config = named_config(name)
    changes = {} if config.method == "full" else {"method": "lora", "lora_r": 4}
    config = config.replace(
        pretrained_model_name_or_path=stand_ins[models()[name_parts()[name].model].family],
        data_path=samples(config.data_path, folder),
        max_length=2048,
        max_steps=1,
        evaluation_freq=0,
        device="cpu",
        dataloader_num_workers=0,
        accumulative_counts=1,
        work_dir=str(folder / "w"),
        **changes,
    )
    (loss,) = train(config, progress=False).losses
    assert 1 < loss < 20


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_names_trains(name: str, stand_ins: dict[str, str], tmp_path: Path) -> None:
    trains(name, stand_ins, tmp_path)


@pytest.mark.real
@pytest.mark.parametrize("method", ["full", "lora"])
def test_smollm2_trains_under_its_name(method: str, dialogues: Path, tmp_path: Path) -> None:
    """A model that has learned its language: its loss on digits is far below chance, ln 49152 = 10.8, at once."""
    config = named_config(f"smollm2_135m_instruct_{method}_docstrings_e1").replace(
        data_path=str(dialogues), max_length=128, accumulative_counts=1, max_steps=2, evaluation_freq=0, device="cpu",
        work_dir=str(tmp_path),
    )  # fmt: skip
    losses = train(config, progress=False).losses
    assert len(losses) == 2 and all(0.1 < loss < 5 for loss in losses)


@pytest.mark.parametrize("mode", ["packed", "varlen"])
@pytest.mark.parametrize("name", cpu_templates())
def test_a_cpu_template_trains(name: str, mode: str, dialogues: Path, tmp_path: Path) -> None:
    """Offline, with and without seams; the loss of the second step is no larger than chance: ln 2048 = 7.6."""
    config = named_config(name).with_mode(mode)
    config = config.replace(
        data_path=str(dialogues), max_steps=2, max_length=128, device="cpu", evaluation_freq=0, work_dir=str(tmp_path)
    )
    losses = train(config, progress=False).losses
    assert len(losses) == 2 and all(6.5 < loss < 8 for loss in losses)


@pytest.mark.slow
def test_all_names_train(stand_ins: dict[str, str], tmp_path: Path) -> None:
    """Each combination of family, method and dataset once; names that share all three differ in numbers only."""
    seen = set()
    for name in NAMES:
        parts = name_parts()[name]
        kind = models()[parts.model].family, parts.method, parts.dataset
        if kind not in seen:
            seen.add(kind)
            (tmp_path / name).mkdir()
            trains(name, stand_ins, tmp_path / name)
    assert len(seen) > 80


def test_every_dataset_has_its_sample() -> None:
    paths = set()
    for dataset in recipes()["datasets"]:
        path = dataset_settings(dataset)["data_path"]
        paths |= set(path) if isinstance(path, list) else {path}
    assert paths == set(PUBLISHED)
    assert {row.template for row in models().values()} <= {OF_TOKENIZER, *TEMPLATES}


@pytest.mark.parametrize("dataset", ["moss_sft_plugins", "msagent_react", "skypile_pretrain"])
def test_the_records_with_readers_of_their_own_train(dataset: str, stand_ins: dict[str, str], tmp_path: Path) -> None:
    """Whatever the sample drew."""
    trains(next(name for name, parts in name_parts().items() if parts.dataset == dataset), stand_ins, tmp_path)


def test_bad_records_of_the_hub_are_left_out_and_counted(stand_ins: dict[str, str], tmp_path: Path) -> None:
    """Nobody can correct them there: Alpaca's '<nooutput>' is left out as by XTuner, and an empty answer too."""
    path = tmp_path / "alpaca.json"
    bad = [{"instruction": "Draw.", "input": "", "output": answer} for answer in ("<nooutput>", "")]
    path.write_text(json.dumps(PUBLISHED[ALPACA] + bad))
    config = named_config("llama3_8b_instruct_full_alpaca_e3")
    config = config.replace(
        pretrained_model_name_or_path=stand_ins["llama"], data_path=str(path), device="cpu", max_steps=1,
        evaluation_freq=0, max_length=512, work_dir=str(tmp_path / "w"),
    )  # fmt: skip
    with pytest.warns(UserWarning, match=r"2 records skipped, the first: .*record 3: output is '<nooutput>'"):
        train(config, progress=False)
    with pytest.raises(InputError, match=r"record 3: .*correct the record, or set skip_bad = True"):
        train(config.replace(skip_bad=False), progress=False)
