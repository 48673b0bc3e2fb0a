"""Small forwards in plain torch, written from the published remote-code layouts: an oracle for the weight maps.

Each reads tensors under their original names and the original config, and shares nothing with the library.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def rotate_halves(x: torch.Tensor, theta: float) -> torch.Tensor:
    """GPT-NeoX style: dimension i turns with i + D/2. x (T, H, D)."""
    half = x.shape[-1] // 2
    angle = torch.arange(len(x))[:, None] * theta ** (-torch.arange(half) / half)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def rotate_pairs(x: torch.Tensor, theta: float) -> torch.Tensor:
    """ChatGLM: neighbours turn together, and only the first half of the head turns at all."""
    turning, rest = x.chunk(2, -1)
    pairs = turning.shape[-1] // 2
    angle = torch.arange(len(x))[:, None] * theta ** (-torch.arange(pairs) / pairs)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = turning[..., 0::2], turning[..., 1::2]
    return torch.cat([torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2), rest], -1)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slopes: torch.Tensor | None = None) -> torch.Tensor:
    """q (T, H, D), k and v (T, K, D) -> (T, H * D), causal."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])
    position = torch.arange(len(q))
    if slopes is not None:
        scores = scores + slopes[:, None, None] * (position[None, :] - position[:, None])
    scores = scores.masked_fill(position[None, :] > position[:, None], float("-inf"))
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1)


def swiglu(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def internlm2(w: State, c: dict[str, Any], ids: torch.Tensor) -> torch.Tensor:
    heads, groups = c["num_attention_heads"], c["num_key_value_heads"]
    dim, eps = c["hidden_size"] // heads, c["rms_norm_eps"]
    x = w["model.tok_embeddings.weight"][ids]
    for n in range(c["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        h = rms(x, w[layer + "attention_norm.weight"], eps)
        qkv = F.linear(h, w[layer + "attention.wqkv.weight"]).view(len(ids), groups, heads // groups + 2, dim)
        q, k, v = qkv[:, :, :-2].flatten(1, 2), qkv[:, :, -2], qkv[:, :, -1]
        q, k = rotate_halves(q, c["rope_theta"]), rotate_halves(k, c["rope_theta"])
        x = x + F.linear(attention(q, k, v), w[layer + "attention.wo.weight"])
        h = rms(x, w[layer + "ffn_norm.weight"], eps)
        x = x + swiglu(h, *(w[layer + f"feed_forward.w{i}.weight"] for i in (1, 3, 2)))
    return F.linear(rms(x, w["model.norm.weight"], eps), w["output.weight"])


def baichuan(w: State, c: dict[str, Any], ids: torch.Tensor) -> torch.Tensor:
    heads, eps = c["num_attention_heads"], c["rms_norm_eps"]
    alibi = "max_position_embeddings" not in c
    slopes = torch.tensor([2.0 ** (-8 * (h + 1) / heads) for h in range(heads)]) if alibi else None
    x = w["model.embed_tokens.weight"][ids]
    for n in range(c["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        h = rms(x, w[layer + "input_layernorm.weight"], eps)
        qkv = F.linear(h, w[layer + "self_attn.W_pack.weight"])
        q, k, v = (part.view(len(ids), heads, -1) for part in qkv.chunk(3, -1))
        if not alibi:
            q, k = rotate_halves(q, 10000.0), rotate_halves(k, 10000.0)
        x = x + F.linear(attention(q, k, v, slopes), w[layer + "self_attn.o_proj.weight"])
        h = rms(x, w[layer + "post_attention_layernorm.weight"], eps)
        x = x + swiglu(h, *(w[layer + f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down")))
    head = w["lm_head.weight"]
    return F.linear(rms(x, w["model.norm.weight"], eps), F.normalize(head) if "z_loss_weight" in c else head)


def qwen(w: State, c: dict[str, Any], ids: torch.Tensor) -> torch.Tensor:
    heads, eps = c["num_attention_heads"], c["layer_norm_epsilon"]
    x = w["transformer.wte.weight"][ids]
    for n in range(c["num_hidden_layers"]):
        layer = f"transformer.h.{n}."
        h = rms(x, w[layer + "ln_1.weight"], eps)
        qkv = F.linear(h, w[layer + "attn.c_attn.weight"], w[layer + "attn.c_attn.bias"])
        q, k, v = (part.view(len(ids), heads, -1) for part in qkv.chunk(3, -1))
        q, k = rotate_halves(q, 10000.0), rotate_halves(k, 10000.0)
        x = x + F.linear(attention(q, k, v), w[layer + "attn.c_proj.weight"])
        h = rms(x, w[layer + "ln_2.weight"], eps)
        a1, a2 = F.linear(h, w[layer + "mlp.w1.weight"]), F.linear(h, w[layer + "mlp.w2.weight"])
        x = x + F.linear(a1 * F.silu(a2), w[layer + "mlp.c_proj.weight"])
    return F.linear(rms(x, w["transformer.ln_f.weight"], eps), w["lm_head.weight"])


def chatglm(w: State, c: dict[str, Any], ids: torch.Tensor) -> torch.Tensor:
    heads, groups, dim = c["num_attention_heads"], c["multi_query_group_num"], c["kv_channels"]
    eps, theta = c["layernorm_epsilon"], 10000.0 * c.get("rope_ratio", 1)
    x = w["transformer.embedding.word_embeddings.weight"][ids]
    for n in range(c["num_layers"]):
        layer = f"transformer.encoder.layers.{n}."
        h = rms(x, w[layer + "input_layernorm.weight"], eps)
        name = layer + "self_attention.query_key_value."
        qkv = F.linear(h, w[name + "weight"], w[name + "bias"])
        q, k, v = (p.view(len(ids), -1, dim) for p in qkv.split([heads * dim, groups * dim, groups * dim], -1))
        q, k = rotate_pairs(q, theta), rotate_pairs(k, theta)
        x = x + F.linear(attention(q, k, v), w[layer + "self_attention.dense.weight"])
        h = rms(x, w[layer + "post_attention_layernorm.weight"], eps)
        gate, up = F.linear(h, w[layer + "mlp.dense_h_to_4h.weight"]).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, w[layer + "mlp.dense_4h_to_h.weight"])
    return F.linear(rms(x, w["transformer.encoder.final_layernorm.weight"], eps), w["transformer.output_layer.weight"])


def deepseek(w: State, c: dict[str, Any], ids: torch.Tensor) -> torch.Tensor:
    heads, eps = c["num_attention_heads"], c["rms_norm_eps"]
    names = ("gate", "up", "down")
    x = w["model.embed_tokens.weight"][ids]
    for n in range(c["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        h = rms(x, w[layer + "input_layernorm.weight"], eps)
        q, k, v = (F.linear(h, w[layer + f"self_attn.{p}_proj.weight"]).view(len(ids), heads, -1) for p in "qkv")
        q, k = rotate_halves(q, 10000.0), rotate_halves(k, 10000.0)
        x = x + F.linear(attention(q, k, v), w[layer + "self_attn.o_proj.weight"])
        h = rms(x, w[layer + "post_attention_layernorm.weight"], eps)
        if n < c["first_k_dense_replace"]:
            x = x + swiglu(h, *(w[layer + f"mlp.{name}_proj.weight"] for name in names))
            continue
        scores = F.linear(h, w[layer + "mlp.gate.weight"]).softmax(-1)
        chosen = scores.topk(c["num_experts_per_tok"], -1)
        out = swiglu(h, *(w[layer + f"mlp.shared_experts.{name}_proj.weight"] for name in names))
        for token in range(len(ids)):
            for weight, expert in zip(chosen.values[token], chosen.indices[token].tolist()):
                one = (w[layer + f"mlp.experts.{expert}.{name}_proj.weight"] for name in names)
                out[token] = out[token] + weight * swiglu(h[token], *one)
        x = x + out
    return F.linear(rms(x, w["model.norm.weight"], eps), w["lm_head.weight"])
