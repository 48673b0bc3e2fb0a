"""Planted faults: mistakes that people have made, one record each, and what the audit has to say of them.

A checker that has never said no proves nothing. Each record is planted in a tiny model or in its batch, and the audit
must name it; without the fault the same model and batch must pass. To add one: a record here, its function in
``planting``. Tests, and the checks before training, take them from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PLANTING = "varlen_lab.leaks.planting:"

LLAMA = {"model_type": "llama", "num_key_value_heads": 2}
MISTRAL = {"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8}

LAYER = ("recurrent layer", "unexplained")  # what a layer outside attention that mixes tokens is called


@dataclass(frozen=True)
class Fault:
    """One mistake. ``source``: where it was met, a repository and the number of a thread.

    ``plant``: "module:function", called with a model and its batch. It changes the model in place and returns the batch
    to use, the same one or another. ``config`` differs from ``building.TINY``; ``attention`` is what the model has when
    the fault is planted. ``expected``: kinds of findings, one of which the audit names and no other; ``fix``: words of
    its advice. ``anywhere``: whether the model is wrong with any attention and any batch, so that it can be planted in
    a training run.
    """

    name: str
    about: str
    source: str
    plant: str
    expected: tuple[str, ...]
    fix: str
    attention: str = "varlen"
    config: Mapping[str, Any] = field(default_factory=lambda: LLAMA)
    anywhere: bool = False


RECORDS = (
    Fault(
        name="default use_cache",
        about="use_cache is not passed and its default is True: with a cache transformers looks for no documents",
        source="huggingface/transformers#39194",
        plant=PLANTING + "default_cache",
        expected=("use_cache",),
        fix="use_cache=False",
        attention="sdpa",
    ),
    Fault(
        name="all-ones mask",
        about="an attention_mask of ones, as tokenizers return it, switches off the search for documents",
        source="huggingface/transformers#46634",
        plant=PLANTING + "all_ones_mask",
        expected=("attention_mask",),
        fix="leave attention_mask out",
        attention="sdpa",
    ),
    Fault(
        name="positions not restarted",
        about="positions run on through the row, so that nothing tells the documents apart",
        source="hiyouga/LlamaFactory#7318",
        plant=PLANTING + "positions_run_on",
        expected=("position_ids not restarted",),
        fix="start again at 0",
        attention="eager",
    ),
    Fault(
        name="seams ignored",
        about="cu_seq_lens_q is passed to an attention that does not read it",
        source="areal-project/AReaL#1442",
        plant=PLANTING + "seams_for_another_attention",
        expected=("cu_seq_lens ignored",),
        fix="attn_implementation='varlen'",
        attention="sdpa",
    ),
    Fault(
        name="window one too wide",
        about="a kernel counts the keys before a token, a config counts the token too",
        source="huggingface/transformers#39408",
        plant=PLANTING + "window_too_wide",
        expected=("window",),
        fix="window_size=(7, 0)",
        config=MISTRAL,
    ),
    Fault(
        name="window one too narrow",
        about="the same mistake the other way round",
        source="vllm-project/vllm#3385",
        plant=PLANTING + "window_too_narrow",
        expected=("window",),
        fix="window_size=(7, 0)",
        config=MISTRAL,
    ),
    Fault(
        name="window missing",
        about="the sliding window never reaches the kernel",
        source="unslothai/unsloth#8253",
        plant=PLANTING + "window_missing",
        expected=("window",),
        fix="window_size=(7, 0)",
        config=MISTRAL,
    ),
    Fault(
        name="merged documents",
        about="a one-token document is taken for the end of the one before it",
        source="modelscope/ms-swift#9904",
        plant=PLANTING + "merged_documents",
        expected=("merged documents",),
        fix="Boundaries.from_lengths",
    ),
    Fault(
        name="bidirectional",
        about="the kernel is not told to be causal, and its default is not",
        source="huggingface/candle#3606",
        plant=PLANTING + "bidirectional",
        expected=("bidirectional",),
        fix="window_size=(-1, 0)",
    ),
    Fault(
        name="one layer without seams",
        about="one layer of several is patched, or not patched, and takes the row for one document",
        source="axolotl-ai-cloud/axolotl#3796",
        plant=PLANTING + "one_layer_without_seams",
        expected=("attention ignores the seams", "unexplained"),
        fix="",
        config=LLAMA | {"num_hidden_layers": 4},
    ),
    Fault(
        name="short convolution",
        about="a causal convolution of width 3 runs over the seams: the first two tokens of a document are wrong",
        source="huggingface/transformers#46588",
        plant=PLANTING + "short_convolution",
        expected=LAYER,
        fix="",
        anywhere=True,
    ),
    Fault(
        name="recurrence",
        about="a layer carries its state along the row and nobody resets it",
        source="modelscope/ms-swift#9565",
        plant=PLANTING + "recurrence",
        expected=LAYER,
        fix="",
        anywhere=True,
    ),
    Fault(
        name="norm of the row",
        about="a normalisation takes its statistics from all tokens of the row",
        source="pytorch/pytorch#70529",
        plant=PLANTING + "norm_of_the_row",
        expected=LAYER,
        fix="",
        anywhere=True,
    ),
    Fault(
        name="border label",
        about="the last token of a document is trained to predict the first of the next",
        source="pytorch/torchtitan#4075",
        plant=PLANTING + "border_label",
        expected=("border label",),
        fix="first label of every document to -100",
    ),
)

FAULTS: dict[str, Fault] = {record.name: record for record in RECORDS}
