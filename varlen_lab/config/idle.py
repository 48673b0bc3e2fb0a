"""Which settings do nothing beside which others: what a command line asks for happens, or is refused.

A file may hold them all the same: step 4 of the page turns ``use_varlen_attn`` on and off and touches no other line, so
``load`` lets a setting wait until it acts. ``--cfg-options`` and ``--set`` name a setting to change what a run does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from varlen_lab.config.schema import Config, schema
from varlen_lab.errors import SettingError
from varlen_lab.packing.registry import STRATEGIES


class Idle(NamedTuple):
    """``setting`` does nothing where ``when`` holds: why, and what to do about it."""

    setting: str
    when: Callable[[Config], bool]
    why: str


def pretraining(config: Config) -> bool:
    """Text without turns that is asked nothing on the way: no template and no system prompt is ever written."""
    return config.dataset_map_fn == "pretrain" and not (config.evaluation_freq and config.evaluation_inputs)


IDLE = (
    Idle(
        "attn_backend",
        lambda config: not config.use_varlen_attn,
        "with use_varlen_attn = False, it is the kernel of varlen attention; set use_varlen_attn=True too",
    ),
    Idle(
        "isolate",
        lambda config: not config.use_varlen_attn,
        "with use_varlen_attn = False, no layer is told where documents begin; set use_varlen_attn=True too",
    ),
    Idle(
        "pack_strategy",
        lambda config: not config.pack_to_max_length,
        "with pack_to_max_length = False, nothing is packed; set pack_to_max_length=True too",
    ),
    Idle(
        "overlong",
        lambda config: config.pack_to_max_length and not STRATEGIES[config.pack_strategy].keeps_whole,
        "with pack_strategy = {0.pack_strategy!r}, which cuts documents where rows end; set pack_strategy=best_fit too",
    ),
    Idle(
        "recompute",
        lambda config: not config.gradient_checkpointing,
        "with gradient_checkpointing = False, everything is kept; set gradient_checkpointing=True too",
    ),
    Idle(
        "master_weights",
        lambda config: config.dtype in ("fp32", "fp16"),
        "with a dtype other than bf16, whose weights stay in fp32; set dtype=bf16 too",
    ),
    Idle(
        "max_epochs",
        lambda config: config.max_steps is not None,
        "with max_steps set, which ends the run or repeats the data until then; set max_steps=None too",
    ),
    Idle(
        "balance_window",
        lambda config: config.balance != "window",
        "with balance = {0.balance!r}, which sorts nothing; set balance=window too",
    ),
    Idle(
        "start_factor",
        lambda config: config.warmup_ratio == 0,
        "with warmup_ratio = 0.0, there is no warm-up to start; set warmup_ratio too",
    ),
    Idle(
        "betas",
        lambda config: config.optim_type == "SGD" and config.betas[1] != 0.999,
        "in its second number with optim_type = 'SGD', which has one momentum; leave the second at 0.999",
    ),
    Idle(
        "evaluation_freq",
        lambda config: config.evaluation_freq > 0 and not (config.evaluation_inputs or config.evaluation_share),
        "with no evaluation_inputs and evaluation_share = 0.0, it has nothing to ask; set one of the two too",
    ),
    Idle(
        "evaluation_inputs",
        lambda config: config.evaluation_freq == 0,
        "with evaluation_freq = 0, they are never asked; set evaluation_freq too",
    ),
    *(
        Idle(name, pretraining, "with dataset_map_fn = 'pretrain' and no question to ask; set dataset_map_fn=auto too")
        for name in ("prompt_template", "SYSTEM")
    ),
    *(
        Idle(row.name, lambda config: config.method == "full", "with method = 'full'; set method=lora or qlora too")
        for row in schema()
        if row.metadata["adapter"]
    ),
)


def refuse_idle(config: Config, named: Iterable[str]) -> None:
    """SettingError for the first of the ``named`` settings that does nothing in this config."""
    for name in named:
        for idle in IDLE:
            if idle.setting == name and idle.when(config):
                value = getattr(config, name)
                raise SettingError(
                    name, f"{name} = {value!r} has no effect {idle.why.format(config)}, or leave it out."
                )
