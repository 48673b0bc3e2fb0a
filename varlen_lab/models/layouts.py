"""Checkpoints in the layout of their original remote code, mapped to native classes tensor by tensor.

A layout is a list of rules. A rule names one original tensor, the native tensors it holds, and how to split it:

    Rule("model.layers.*.self_attn.W_pack.weight", (Q, K, V), thirds)      Baichuan keeps q, k and v in one matrix

``*`` stands for the layer. Every tensor of a checkpoint must match a rule or be one that is computed anew
(``ignored``); anything else is refused, for a tensor that is silently left out is a wrong model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from varlen_lab.errors import InputError

NativeConfig = Mapping[str, Any]  # the config of the native class as a dict
State = dict[str, torch.Tensor]

# Names of a native class. (GLM has another name for gate and up only, DeepSeek-V2 for its experts.)
Q, K, V, O = (f"model.layers.*.self_attn.{name}_proj.weight" for name in "qkvo")
Q_BIAS, K_BIAS, V_BIAS, O_BIAS = (f"model.layers.*.self_attn.{name}_proj.bias" for name in "qkvo")
GATE, UP, DOWN = (f"model.layers.*.mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
NORM_1, NORM_2 = "model.layers.*.input_layernorm.weight", "model.layers.*.post_attention_layernorm.weight"
EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def unsplit(tensor: torch.Tensor, config: NativeConfig) -> Sequence[torch.Tensor]:
    """One original tensor is one native tensor."""
    return (tensor,)


def thirds(tensor: torch.Tensor, config: NativeConfig) -> Sequence[torch.Tensor]:
    """q, k and v of equal size, one after the other along the first axis."""
    return tensor.chunk(3)


@dataclass(frozen=True)
class Rule:
    """One original tensor and the native tensors it is made of."""

    original: str
    native: tuple[str, ...]
    split: Callable[[torch.Tensor, NativeConfig], Sequence[torch.Tensor]] = unsplit


@dataclass(frozen=True)
class Layout:
    """An original layout: its config in native words, its rules, and the tensors it stores but does not need."""

    native_config: Callable[[dict[str, Any]], dict[str, Any]]
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = (r"rotary_emb\.inv_freq$",)
    prepare: Callable[[State], State] = dict  # what rules cannot say, done first

    def native_weights(self, original: State, config: NativeConfig) -> State:
        """The tensors of an original checkpoint under the names, and in the shapes, of the native class."""
        rules = {rule.original: rule for rule in self.rules}
        native: State = {}
        for name, tensor in self.prepare(original).items():
            if any(re.search(pattern, name) for pattern in self.ignored):
                continue
            layer, general = layer_of(name)
            if general not in rules:
                raise InputError(
                    f"the checkpoint has a tensor {name!r} that its layout does not know; it is another model, "
                    "or a newer version of it."
                )
            rule = rules[general]
            for target, part in zip(rule.native, rule.split(tensor, config), strict=True):
                native[target.replace("*", layer)] = part.contiguous()
        return native


def layer_of(name: str) -> tuple[str, str]:
    """``model.layers.3.mlp`` -> ``("3", "model.layers.*.mlp")``; the layer is ``""`` where there is none."""
    found = re.search(r"\.(\d+)\.", name)
    return (found[1], name[: found.start(1)] + "*" + name[found.end(1) :]) if found else ("", name)


def unchanged(*names: str) -> tuple[Rule, ...]:
    """Rules for tensors whose original name is the native one."""
    return tuple(Rule(name, (name,)) for name in names)


def renamed(original: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The settings of an original config that exist, under their native names."""
    return {native: original[name] for name, native in names.items() if name in original}


LLAMA_SETTINGS = {
    name: name
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "initializer_range",
        "hidden_act",
        "head_dim",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "tie_word_embeddings",
    )
}
LLAMA_REST = unchanged(O, GATE, UP, DOWN, NORM_1, NORM_2, EMBED, NORM, HEAD)  # all but q, k and v
