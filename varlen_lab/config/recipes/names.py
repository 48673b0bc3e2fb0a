"""The recipes by name: XTuner's names for our eleven families, put together from tables, and our own tiny ones.

A name is ``model_method_dataset_eEPOCHS`` and sometimes more: ``internlm_7b_full_oasst1_e3``. Which names exist stands
in LISTS (XTuner does not ship every combination); what a name means follows from its parts, and the few that XTuner
sets otherwise stand in EXCEPTIONS. Nothing is read from disk, so no shipped copy of a file could drift from the schema.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from varlen_lab.config.recipes.datasets import DATASETS, SHANGHAI
from varlen_lab.config.recipes.models import MODELS, MODERN
from varlen_lab.config.recipes.tiny import TEMPLATES
from varlen_lab.config.recipes.tiny import settings as tiny_settings
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError, nearest

METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "lr": 2e-5},
    "lora": {"method": "lora", "lr": 2e-4},
    "qlora": {"method": "qlora", "lr": 2e-4},
}

FIVE = "alpaca_e3 alpaca_enzh_e3 alpaca_enzh_oasst1_e3 alpaca_zh_e3"
TEN = f"{FIVE} code_alpaca_e3 lawyer_e3 oasst1_512_e3 oasst1_e3 open_platypus_e3"
THIRTEEN = f"{TEN} arxiv_gentitle_e3 colorist_e5 sql_e3"
FIFTEEN = f"{THIRTEEN} medical_e1 openorca_e1 tiny_codes_e1"
WITH_MOSS = f"{FIFTEEN} moss_sft_all_e1 moss_sft_all_e2_gpu8 moss_sft_plugins_e1"
INTERNLM2 = "alpaca_e3 arxiv_gentitle_e3 code_alpaca_e3 colorist_e5 lawyer_e3 oasst1_512_e3 oasst1_e3 sql_e3"
REACT = "msagent_react_e3_gpu8"

# (models, method, what follows)
LISTS: list[tuple[str, str, str]] = [
    (
        "gemma_2b gemma_2b_it gemma_7b gemma_7b_it internlm2_1_8b internlm2_chat_1_8b llama3_8b_instruct qwen1_5_0_5b "
        "qwen1_5_0_5b_chat qwen1_5_110b qwen1_5_14b qwen1_5_14b_chat qwen1_5_1_8b qwen1_5_1_8b_chat qwen1_5_4b "
        "qwen1_5_4b_chat qwen1_5_72b qwen1_5_72b_chat qwen1_5_7b qwen1_5_7b_chat qwen1_5_110b_chat",
        "full qlora",
        "alpaca_e3",
    ),
    ("qwen1_5_110b_chat", "qlora", "alpaca_e3_16k_2gpus"),
    (
        "baichuan_13b_chat chatglm2_6b chatglm3_6b_base chatglm3_6b internlm_chat_7b llama2_7b_chat qwen_7b_chat",
        "qlora",
        FIFTEEN,
    ),
    ("baichuan_13b_base baichuan_7b llama_7b qwen_7b internlm_7b llama2_7b", "qlora", WITH_MOSS),
    ("internlm_7b llama2_7b internlm_20b internlm2_20b internlm2_7b", "qlora", REACT),
    ("internlm_7b", "qlora", "oasst1_mmlu_e3"),
    ("internlm_7b", "full", f"{FIVE} oasst1_e3"),
    ("baichuan2_13b_chat baichuan2_7b_chat internlm_chat_20b", "qlora", TEN),
    ("qwen_1_8b_chat qwen_1_8b qwen_72b", "qlora", f"{FIVE} code_alpaca_e3"),
    ("baichuan2_13b_base baichuan2_7b_base internlm_20b", "qlora", THIRTEEN),
    ("deepseek_coder_6_7b_base deepseekcoder_6_7b_instruct", "qlora", "code_alpaca_e3"),
    ("deepseek_moe_16b_base deepseek_moe_16b_chat", "full qlora", "oasst1_e3"),
    ("deepseek_v2_chat llama3_8b deepseek_v2_lite_chat", "full", "alpaca_e3"),
    ("deepseek_v2_lite_chat", "full", "alpaca_e3_32k_varlen"),
    ("internlm2_20b internlm2_7b", "qlora", INTERNLM2),
    ("internlm2_chat_20b internlm2_chat_7b", "qlora", "alpaca_e3 code_alpaca_e3 lawyer_e3 oasst1_512_e3 oasst1_e3"),
    ("yi_34b yi_6b", "qlora", "alpaca_enzh_e3"),
    ("internlm2_5_chat_7b", "qlora", "alpaca_e3 oasst1_e3"),
    ("llama2_70b llama2_7b", "full", "wizardlm_e1"),
    ("llama2_70b", "qlora", "open_platypus_e1"),
    ("llama2_70b_int8", "lora", "open_platypus_e1"),
    ("llama3_70b_instruct", "qlora", "alpaca_e3_2k_gpu8"),
    ("mistral_7b", "qlora", "skypile_pretrain_e1"),
    ("starcoder", "qlora", "stack_exchange_example"),
    ("zephyr_7b_beta", "qlora", "alpaca_e3"),
]

# The same for models XTuner has none for; varlen attention is on in these.
MODERN_LISTS = [(" ".join(MODERN), "full lora qlora", "alpaca_e3 oasst1_e3")]

DEEPSEEK_V2 = {"accumulative_counts": 1, "dataloader_num_workers": 4, "lr": 1e-5, "save_steps": 50}
QWEN_110B = {"accumulative_counts": 1, "lr": 1e-4}
THIN = {"lora_r": 16, "lora_dropout": 0.05}
CHAT = {"prompt_template": "internlm_chat"}  # for the base model too, where all weights are trained

# Read from XTuner's files, 2026-11-24. Its llama2_70b_full_wizardlm_e1 trains 3 epochs; ours does what its name says.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "deepseek_moe_16b_base_qlora_oasst1_e3": THIN,
    "deepseek_moe_16b_chat_qlora_oasst1_e3": THIN,
    "deepseek_v2_chat_full_alpaca_e3": DEEPSEEK_V2 | {"evaluation_freq": 25},
    "deepseek_v2_lite_chat_full_alpaca_e3": DEEPSEEK_V2 | {"evaluation_freq": 50},
    "deepseek_v2_lite_chat_full_alpaca_e3_32k_varlen": DEEPSEEK_V2
    | {"evaluation_freq": 50, "max_length": 32768, "use_varlen_attn": True},
    "internlm2_5_chat_7b_qlora_alpaca_e3": {"accumulative_counts": 1},
    "internlm_7b_full_alpaca_e3": CHAT,
    "internlm_7b_full_alpaca_enzh_e3": CHAT,
    "internlm_7b_full_alpaca_enzh_oasst1_e3": CHAT,
    "internlm_7b_full_alpaca_zh_e3": CHAT,
    "internlm_7b_full_oasst1_e3": CHAT,
    "llama2_70b_full_wizardlm_e1": {"accumulative_counts": 4},
    "llama2_70b_int8_lora_open_platypus_e1": THIN | {"lr": 3e-4},
    "llama2_70b_qlora_open_platypus_e1": {"lr": 3e-4},
    "llama2_7b_full_wizardlm_e1": {"batch_size": 2, "evaluation_freq": 200},
    "llama2_7b_qlora_msagent_react_e3_gpu8": {"prompt_template": "default"},
    "llama3_70b_instruct_qlora_alpaca_e3_2k_gpu8": {
        "batch_size": 1,
        "accumulative_counts": 2,
        "dataloader_num_workers": 4,
        "lr": 1e-4,
        "evaluation_freq": 50,
    },
    "mistral_7b_qlora_skypile_pretrain_e1": {"lora_dropout": 0.05},
    "qwen1_5_110b_chat_full_alpaca_e3": QWEN_110B | {"lr": 1e-5, "dataloader_num_workers": 4},
    "qwen1_5_110b_chat_qlora_alpaca_e3": QWEN_110B,
    "qwen1_5_110b_chat_qlora_alpaca_e3_16k_2gpus": QWEN_110B | {"max_length": 16384, "evaluation_freq": 50},
    "qwen1_5_110b_full_alpaca_e3": QWEN_110B | {"lr": 1e-5, "dataloader_num_workers": 4},
    "qwen1_5_110b_qlora_alpaca_e3": QWEN_110B | {"dataloader_num_workers": 4},
    "starcoder_qlora_stack_exchange_example": {
        "max_epochs": 1,
        "lr": 1e-4,
        "weight_decay": 0.05,
        "evaluation_freq": 200,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
    },
}


class Parts(NamedTuple):
    """What a name says."""

    model: str
    method: str
    dataset: str
    rest: str


@cache
def table() -> dict[str, Parts]:
    """All names put together from tables, and their parts."""
    found = {}
    for models, methods, suffixes in LISTS + MODERN_LISTS:
        for model in models.split():
            for method in methods.split():
                for suffix in suffixes.split():
                    dataset, _, rest = re.match(r"(.+?)(_e(\d.*))?$", suffix).groups()  # type: ignore[union-attr]
                    found[f"{model}_{method}_{suffix}"] = Parts(model, method, dataset, rest or "")
    return found


def config_names() -> list[str]:
    """Every config name, sorted."""
    return sorted([*table(), *TEMPLATES])


def settings(name: str) -> dict[str, Any]:
    """What a name decides, as its difference from the schema's defaults."""
    if name in TEMPLATES:
        return tiny_settings(TEMPLATES[name])
    model, method, dataset, rest = table()[name]
    row = (MODELS | MODERN)[model]
    epochs = re.match(r"\d+", rest)
    return {
        "pretrained_model_name_or_path": row.path,
        "prompt_template": row.template,
        "evaluation_inputs": SHANGHAI,
        **({"max_epochs": int(epochs[0])} if epochs else {}),
        "use_varlen_attn": model in MODERN,
        "skip_bad": True,  # nobody can correct a record on the hub; XTuner leaves those it cannot read out, too
        **METHODS[method],
        **DATASETS[dataset],
        **({"batch_size": 8, "accumulative_counts": 1, "dataloader_num_workers": 2} if rest.endswith("gpu8") else {}),
        **EXCEPTIONS.get(name, {}),
    }


def named_config(name: str) -> Config:
    """The Config of that name, or an InputError that suggests the near one."""
    if name not in table() and name not in TEMPLATES:
        hint = nearest(name, config_names()) or "; varlen-lab list-cfg shows all."
        raise InputError(f"there is no config named {name!r}{hint}")
    return Config(**settings(name), name=name)


def config_facts(name: str) -> dict[str, Any]:
    """What a person chooses a config by. ``gpu_gib`` is a rule of thumb for one process without sharing out."""
    if name in TEMPLATES:
        return {"family": TEMPLATES[name], "size": "tiny", "method": "full", "dataset": "docstrings", "gpu_gib": 0}
    model, method, dataset, _ = table()[name]
    row = (MODELS | MODERN)[model]
    # 16 bytes a weight to train all of it (XTuner's own figure), 2 frozen in bf16, about 0.6 in four bits; and rows
    bytes_each = {"full": 16, "lora": 2, "qlora": 0.6}[method]
    gib = round(row.billions * bytes_each * 1e9 / 2**30 + 3)
    return {"family": row.family, "size": f"{row.billions:g}B", "method": method, "dataset": dataset, "gpu_gib": gib}
