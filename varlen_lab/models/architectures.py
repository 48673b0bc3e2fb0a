"""Two architectures transformers has no native class for, put together from classes it has.

``varlen_baichuan``       Llama with ALiBi in place of rotary positions (13B), a normalised output matrix (2), or both
``varlen_deepseek_moe``   DeepSeek-V2's experts under Llama's attention (DeepSeek-MoE 16B)

``register_architectures`` makes them known to transformers' Auto classes; a saved folder of such a model opens wherever
that was called. (Importing this module imports transformers' models, so nobody imports it at the top.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2ForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding


def alibi_slopes(heads: int) -> torch.Tensor:
    """One slope a head, float32 (heads,): 2^(-8/n), 2^(-16/n), ... for the power of two n below, then between them.

    8 heads: 1/2, 1/4, ..., 1/256. 12 heads: those eight, then 2^-0.5, 2^-1.5, 2^-2.5, 2^-3.5. (Press et al. 2022.)
    """
    power = 2 ** math.floor(math.log2(heads))
    steps = [8 * (i + 1) / power for i in range(power)]
    steps += [4 * (2 * i + 1) / power for i in range(heads - power)]
    return torch.tensor([2.0**-step for step in steps])


class BaichuanConfig(LlamaConfig):
    """Llama's config and two facts."""

    model_type = "varlen_baichuan"
    alibi: bool = False
    norm_head: bool = False


class AlibiAttention(LlamaAttention):
    """Llama's attention; our attention functions read its slopes."""

    @property
    def alibi_slopes(self) -> torch.Tensor:
        """(heads,) on the device of the weights."""
        return alibi_slopes(self.config.num_attention_heads).to(self.q_proj.weight.device)


class NoRotary(nn.Module):
    """Rotary positions that turn nothing: cos 1, sin 0."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, T, head dim) each."""
        ones = torch.ones(*position_ids.shape, self.head_dim, dtype=x.dtype, device=x.device)
        return ones, torch.zeros_like(ones)


class NormHead(nn.Linear):
    """An output matrix whose rows are normalised in every forward pass; what is trained is the matrix before."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, F.normalize(self.weight))


class BaichuanForCausalLM(LlamaForCausalLM):
    """Baichuan 13B and Baichuan 2. ALiBi needs one of our attentions: transformers' own would not see the slopes."""

    config_class = BaichuanConfig

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        if config.alibi:
            head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
            self.model.rotary_emb = NoRotary(head_dim)
            for layer in self.model.layers:
                layer.self_attn.__class__ = AlibiAttention  # the same weights, one fact more
        if config.norm_head:
            self.lm_head.__class__ = NormHead


class DeepseekMoeConfig(DeepseekV2Config):
    """DeepSeek-V2's config; ``qk_rope_head_dim`` is the head dim."""

    model_type = "varlen_deepseek_moe"


class DeepseekMoeForCausalLM(DeepseekV2ForCausalLM):
    """DeepSeek-MoE 16B: attention of Llama, experts of DeepSeek-V2."""

    config_class = DeepseekMoeConfig

    def __init__(self, config: DeepseekMoeConfig) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.model.layers):
            layer.self_attn = LlamaAttention(config, number)
        # Llama's attention takes cos and sin; DeepSeek-V2's embedding gives complex numbers
        self.model.rotary_emb = LlamaRotaryEmbedding(config)
        self.post_init()


def register_architectures() -> None:
    """Make both known to AutoConfig and AutoModelForCausalLM; calling it again changes nothing."""
    classes: list[tuple[Any, Any]] = [
        (BaichuanConfig, BaichuanForCausalLM),
        (DeepseekMoeConfig, DeepseekMoeForCausalLM),
    ]
    for config, model in classes:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)
