"""Planted faults: mistakes that people have made, one record each, and what is said of them.

A checker that has never said no proves nothing. Each record can be planted in a model, in its batch or in a trainer,
and the audit, or ``LeakCheck`` where a loss alone shows it, must name it; without the fault the same must pass. To add
one: a record here, its function in ``planted_batches``, ``planted_attention``, ``planted_layers`` or
``planted_trainers``. Tests, lessons and the checks before training take them from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from varlen_lab.errors import unknown_choice

PLANTED = "varlen_lab.leaks.planted_"
BATCH, ATTENTION, LAYER, TRAINER = (f"{PLANTED}{where}:" for where in ("batches", "attention", "layers", "trainers"))
ANY = "any"  # attention

WINDOW = {"sliding_window": 8}
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64, **FACTORS}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
PLANES = {"layer_types": ["full_attention", "full_attention"]}  # Qwen3.5 without its recurrent layers
MERGED = ("merged documents", "attention ignores the seams")  # of two documents in a row both are the same


@dataclass(frozen=True)
class Fault:
    """One mistake. ``source``: where it was met, mended or made possible, a repository and the number of a thread.

    ``plant``: "module:function", called with a model and its batch; it changes the model in place and returns the
    batch to use, the same one or another. A function of ``planted_trainers`` is called with a trainer.
    ``attention``: what the model has when the fault is planted, "any" where that does not matter. ``needs``: what a
    model must have for it (``suited.NEEDS``). ``expected``: kinds of findings, one of which is named and no other;
    ``found_by``: "audit" (and so everything that audits), or "LeakCheck" alone.
    ``model`` and ``config`` are what ``models.miniature`` makes the specimen from, ``where`` and ``fix`` words of what
    is said of it. ``anywhere``: whether the model is wrong with any attention and any batch, so that it can be planted
    in a training run. ``aliases``: other names people have for it.
    """

    name: str
    about: str
    source: str
    plant: str
    expected: tuple[str, ...]
    fix: str
    where: str = ""
    attention: str = "varlen"
    needs: str = ""
    found_by: str = "audit"
    model: str = "llama"
    config: Mapping[str, Any] = field(default_factory=dict)
    anywhere: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def site(self) -> str:
        """Where it is planted: "batches", "attention", "layers" or "trainers"; of a function elsewhere "batches"."""
        module = self.plant.partition(":")[0]
        return module.removeprefix(PLANTED) if module.startswith(PLANTED) else "batches"


RECORDS = (
    Fault(
        name="default use_cache",
        about="use_cache is not passed and its default is True: with a cache transformers looks for no documents",
        source="huggingface/transformers#39194",
        plant=BATCH + "default_cache",
        expected=("use_cache",),
        fix="use_cache=False",
        attention="sdpa",
        aliases=("cache on",),
    ),
    Fault(
        name="all-ones mask",
        about="an attention_mask of ones, as tokenizers return it, switches off the search for documents",
        source="huggingface/transformers#46634",
        plant=BATCH + "all_ones_mask",
        expected=("attention_mask",),
        fix="leave attention_mask out",
        attention="sdpa",
    ),
    Fault(
        name="positions not restarted",
        about="positions run on through the row, so that nothing tells the documents apart",
        source="alex-hh/profam#468",
        plant=BATCH + "positions_run_on",
        expected=("position_ids not restarted",),
        fix="start again at 0",
        attention="eager",
        aliases=("running positions",),
    ),
    Fault(
        name="seams ignored",
        about="cu_seq_lens_q is passed to an attention that does not read it",
        source="areal-project/AReaL#1442",
        plant=BATCH + "seams_for_another_attention",
        expected=("cu_seq_lens ignored",),
        fix="attn_implementation='varlen'",
        attention="sdpa",
        aliases=("cu_seq_lens under sdpa",),
    ),
    Fault(
        name="window one too wide",
        about="a kernel counts the keys before a token, a config counts the token too",
        source="huggingface/transformers#39408",
        plant=ATTENTION + "window_too_wide",
        expected=("window",),
        fix="window_size=(7, 0)",
        model="mistral",
        config=WINDOW,
        needs="window",
    ),
    Fault(
        name="window one too narrow",
        about="the same mistake the other way round",
        source="vllm-project/vllm#3385",
        plant=ATTENTION + "window_too_narrow",
        expected=("window",),
        fix="window_size=(7, 0)",
        model="mistral",
        config=WINDOW,
        needs="window",
    ),
    Fault(
        name="window missing",
        about="the sliding window never reaches the kernel",
        source="unslothai/unsloth#8253",
        plant=ATTENTION + "window_missing",
        expected=("window",),
        fix="window_size=(7, 0)",
        model="mistral",
        config=WINDOW,
        needs="window",
    ),
    Fault(
        name="merged documents",
        about="the seam beside a one-token document is lost, and it becomes a part of its neighbour",
        source="modelscope/ms-swift#9904",
        plant=ATTENTION + "merged_documents",
        expected=MERGED,
        fix="Boundaries.from_lengths",
    ),
    Fault(
        name="bidirectional",
        about="the kernel is not told to be causal, and its default is not",
        source="huggingface/candle#3606",
        plant=ATTENTION + "bidirectional",
        expected=("bidirectional",),
        fix="window_size=(-1, 0)",
        aliases=("bidirectional kernel",),
    ),
    Fault(
        name="seams lost in the mask",
        about="a layer makes its seams from the mask, which knows no documents, and forgets those it was given",
        source="fla-org/flash-linear-attention#842",
        plant=BATCH + "one_document",
        expected=("attention ignores the seams",),
        fix="pass the seams",
    ),
    Fault(
        name="keywords dropped",
        about="the layers of a class do not hand on the keywords that they do not know",
        source="huggingface/transformers#39997",
        plant=LAYER + "keywords_dropped",
        expected=("keywords dropped",),
        fix="train this class unpacked",
        where="LlamaAttention of layers 0, 1",
        aliases=("kwargs dropped",),
    ),
    Fault(
        name="padding counts",
        about="the seam before the padding at the end of a row is missing, so that it is part of the last document",
        source="NVIDIA-NeMo/RL#3182",
        plant=BATCH + "last_seam_missing",
        expected=MERGED,
        fix="Boundaries.from_lengths",
    ),
    Fault(
        name="seams a token late",
        about="a length was counted with one token more than the document has",
        source="NVIDIA-NeMo/Speech#14437",
        plant=BATCH + "late_seams",
        expected=("wrong attention", *MERGED),
        fix="attend(backend='reference')",
    ),
    Fault(
        name="learned positions run on",
        about="the kernel knows the seams, and the table of positions is read on to the end of the row",
        source="huggingface/nanoVLM#201",
        plant=BATCH + "positions_run_on",
        expected=("position_ids not restarted",),
        fix="start again at 0",
        model="gpt2",
        needs="learned positions",
    ),
    Fault(
        name="chunk ignored",
        about="attention in chunks stands in the mask only, and the kernel is given none",
        source="huggingface/transformers#37351",
        plant=ATTENTION + "chunk_ignored",
        expected=("chunk",),
        fix="train this model unpacked",
        where="Llama4TextAttention of layer 0",
        model="llama4_text",
        config={"attention_chunk_size": 8, "floor_scale": 8192},
        needs="chunk",
    ),
    Fault(
        name="softcap dropped",
        about="scores are to be capped, and the cap never reaches the kernel",
        source="vllm-project/vllm-metal#665",
        plant=ATTENTION + "softcap_dropped",
        expected=("keyword ignored",),
        fix="an attention that knows softcap",
        model="gemma2",
        config={"attn_logit_softcapping": 2.0},
        needs="softcap",
    ),
    Fault(
        name="sinks dropped",
        about="scores without the learned one that takes weight from all others: the kernel knows no sinks",
        source="vllm-project/vllm-metal#550",
        plant=ATTENTION + "sinks_dropped",
        expected=("keyword ignored",),
        fix="an attention that knows s_aux",
        where="GptOssAttention of layers 0, 1",
        model="gpt_oss",
        needs="sinks",
    ),
    Fault(
        name="scale dropped",
        about="the kernel divides scores by the root of the head width where the config says another number",
        source="mlc-ai/mlc-llm#3426",
        plant=ATTENTION + "scale_dropped",
        expected=("wrong attention",),
        fix="attend(backend='reference')",
        where="Gemma2Attention of layers 0, 1",
        model="gemma2",
        needs="a scale of its own",
    ),
    Fault(
        name="longrope in a mixed row",
        about="one document beyond the original length turns all others by the long factors too",
        source="ggml-org/llama.cpp#24875",
        plant=LAYER + "long_factors_at_8",
        expected=("rope scaling",),
        fix="rows of their own",
        where="rope_type 'longrope'",
        config={"rope_parameters": LONGROPE},
        needs="longrope",
        attention=ANY,
    ),
    Fault(
        name="dynamic NTK in a mixed row",
        about="frequencies follow the longest document of the row",
        source="QwenLM/Qwen#401",
        plant=LAYER + "dynamic_from_8",
        expected=("rope scaling",),
        fix="rows of their own",
        where="rope_type 'dynamic'",
        config={"rope_parameters": DYNAMIC},
        needs="dynamic",
        attention=ANY,
    ),
    Fault(
        name="one layer without seams",
        about="of several layers one makes its seams anew from a mask that knows none: the row is one document to it",
        source="fla-org/flash-linear-attention#1088",
        plant=ATTENTION + "one_layer_without_seams",
        expected=("attention ignores the seams",),
        fix="pass the seams",
        where="LlamaAttention of layer 1",
        config={"num_hidden_layers": 4},
    ),
    Fault(
        name="short convolution",
        about="a causal convolution of width 3 runs over the seams: the first two tokens of a document are wrong",
        source="huggingface/transformers#46588",
        plant=LAYER + "short_convolution",
        expected=("recurrent layer",),
        fix="unpacked",
        where="ShortConvolution of layer 1",
        anywhere=True,
        attention=ANY,
    ),
    Fault(
        name="recurrence",
        about="a layer carries its state along the row and nobody resets it",
        source="modelscope/ms-swift#9565",
        plant=LAYER + "recurrence",
        expected=("recurrent layer",),
        fix="unpacked",
        where="RunningMean of layer 1",
        anywhere=True,
        aliases=("state leak",),
        attention=ANY,
    ),
    Fault(
        name="norm of the row",
        about="a normalisation takes its statistics from all tokens of the row",
        source="pytorch/pytorch#70529",
        plant=LAYER + "norm_of_the_row",
        expected=("recurrent layer",),
        fix="unpacked",
        where="NormOfTheRow of layer 1",
        anywhere=True,
        attention=ANY,
    ),
    Fault(
        name="border label",
        about="the last token of a document is trained to predict the first of the next",
        source="pytorch/torchtitan#4075",
        plant=BATCH + "border_label",
        expected=("border label",),
        fix="first label of every document to -100",
        aliases=("label at a border",),
        attention=ANY,
    ),
    Fault(
        name="prompts trained",
        about="a mask says which tokens are answers, and packing loses it: the labels train the prompts too",
        source="huggingface/trl#3728",
        plant=BATCH + "prompts_trained",
        expected=("prompts trained",),
        fix="label -100 wherever",
        attention=ANY,
    ),
    Fault(
        name="3-D positions",
        about="positions of time, height and width restart in every document, and nobody looks for documents in them",
        source="axolotl-ai-cloud/axolotl#3817",
        plant=BATCH + "planes_restart",
        expected=("3-D positions",),
        fix="four planes",
        attention="sdpa",
        needs="positions of several planes",
        model="qwen3_5_text",
        config=PLANES,
        aliases=("3-D positions that restart",),
    ),
    Fault(
        name="3-D positions that run on",
        about="positions of time, height and width run on through the row, and seams come to an attention without them",
        source="radixark/miles#1272",
        plant=BATCH + "planes_run_on",
        expected=("3-D positions",),
        fix="four planes",
        attention="sdpa",
        needs="positions of several planes",
        model="qwen3_5_text",
        config=PLANES,
    ),
    Fault(
        name="mean of means",
        about="a loop takes the mean over each batch by itself and averages these: a token counts by its neighbours",
        source="huggingface/transformers#37766",
        plant=TRAINER + "mean_of_means",
        expected=("mean of means",),
        fix="one token count",
        attention=ANY,
        found_by="LeakCheck",
    ),
)


class Faults(dict[str, Fault]):
    """The records by their names; an alias is found too."""

    def __missing__(self, name: str) -> Fault:
        found = next((fault for fault in self.values() if name in fault.aliases), None)
        if found is None:
            raise KeyError(str(unknown_choice("fault", name, self)))
        return found


FAULTS = Faults({record.name: record for record in RECORDS})
