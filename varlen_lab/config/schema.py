"""The one schema of a training run: every setting once, with its default, its rule and its comment."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from varlen_lab.errors import InputError, nearest

PARTS = ("Settings", "Model & Tokenizer", "Dataset & Dataloader", "Scheduler & Optimizer", "Runtime")
MODES = ("unpacked", "packed", "varlen")
LARGEST = 2**63  # no count and no seed reaches it: what computes with them has 64 bits
SHOWN = 60  # characters of a long value that an error quotes
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # a text literal can hold it, UTF-8 and tokenizers cannot
ADAPTED = ("method", ("lora", "qlora"))


class SettingError(InputError):
    """A setting breaks a rule; ``load`` adds the file and the line."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


def setting(
    default: Any,
    where: str,
    comment: str,
    *,
    least: float | None = None,
    choices: tuple = (),
    needs: tuple[str, tuple] | None = None,
) -> Any:
    """One row of the schema. ``where`` is ``"part/heading"``; ``least`` and ``choices`` are its rule.

    ``needs`` names another setting and its values without which this one has no effect.
    """
    rule = {"where": where, "comment": comment, "least": least, "choices": choices, "needs": needs}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=rule)
    return field(default=default, metadata=rule)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run, validated as a whole; names and meanings are XTuner's where XTuner has them."""

    # fmt: off
    pretrained_model_name_or_path: str | None = setting(None, "1/Model", "hub name or folder; None trains model_config from scratch")
    use_varlen_attn: bool = setting(False, "1/Model", "attention stays inside documents; needs pack_to_max_length")
    data_path: str | list = setting("builtin:docstrings", "1/Data", "hub name, file (.jsonl .json .parquet .csv), builtin:docstrings, or a list of them")
    prompt_template: str = setting("tokenizer", "1/Data", "name of a chat template; 'tokenizer' uses the tokenizer's own")
    max_length: int = setting(2048, "1/Data", "tokens a row holds; longer documents are truncated and counted", least=2)
    pack_to_max_length: bool = setting(True, "1/Data", "several documents share a row")
    batch_size: int = setting(1, "1/Scheduler & Optimizer", "rows (documents when unpacked) a device takes at once", least=1)
    accumulative_counts: int = setting(16, "1/Scheduler & Optimizer", "batches that make one optimizer step", least=1)
    dataloader_num_workers: int = setting(0, "1/Scheduler & Optimizer", "processes that collate batches", least=0)
    max_epochs: int = setting(3, "1/Scheduler & Optimizer", "passes over the data", least=1)
    max_steps: int | None = setting(None, "1/Scheduler & Optimizer", "stop after this many optimizer steps; None runs all epochs", least=1)
    optim_type: str = setting("AdamW", "1/Scheduler & Optimizer", "AdamW or SGD", choices=("AdamW", "SGD"))
    lr: float = setting(2e-5, "1/Scheduler & Optimizer", "peak learning rate", least=0)
    loss_weighting: str = setting("token", "1/Scheduler & Optimizer", "what a token counts: token, sample (1/its document), pack (1/its row), longalign", choices=("token", "sample", "pack", "longalign"))
    betas: tuple = setting((0.9, 0.999), "1/Scheduler & Optimizer", "AdamW's two averages (SGD: the first is its momentum)")
    weight_decay: float = setting(0.0, "1/Scheduler & Optimizer", "pulls weights towards 0", least=0)
    max_norm: float = setting(1.0, "1/Scheduler & Optimizer", "gradients are clipped to this norm; 0 does not clip", least=0)
    warmup_ratio: float = setting(0.03, "1/Scheduler & Optimizer", "share of the steps in which lr rises; then a cosine to 0", least=0)
    save_steps: int = setting(500, "1/Save", "write iter_N.pth every so many steps (and at the end)", least=1)
    save_total_limit: int = setting(2, "1/Save", "checkpoints kept, the newest; -1 keeps all", least=-1)
    evaluation_freq: int = setting(500, "1/Evaluate the generation performance during the training", "answer evaluation_inputs every so many steps; 0 never", least=0)
    evaluation_share: float = setting(0.0, "1/Evaluate the generation performance during the training", "share of the documents held out, to measure their loss every evaluation_freq steps", least=0)
    SYSTEM: str = setting("", "1/Evaluate the generation performance during the training", "system prompt of the data and of evaluation_inputs")
    evaluation_inputs: list = setting([], "1/Evaluate the generation performance during the training", "questions to watch the model with")
    model_config: dict | None = setting(None, "2/", "architecture to train from scratch, as in a config.json")
    method: str = setting("full", "2/", "full trains all weights; lora and qlora thin matrices beside them, qlora on weights in four bits", choices=("full", "lora", "qlora"))
    lora_r: int = setting(64, "2/", "rank of the thin matrices", least=1, needs=ADAPTED)
    lora_alpha: int = setting(16, "2/", "their product is scaled by lora_alpha / lora_r", least=1, needs=ADAPTED)
    lora_dropout: float = setting(0.1, "2/", "share of their input dropped", least=0, needs=ADAPTED)
    gradient_checkpointing: bool = setting(False, "2/", "recompute activations instead of keeping them: less memory, a third more time")
    recompute: str = setting("all", "2/", "what gradient_checkpointing recomputes: all of a layer, or what is cheap (no products, no attention)", choices=("all", "cheap"))
    torch_compile: bool = setting(False, "2/", "compile the layers with torch.compile: a minute first, then faster on a GPU")
    attn_backend: str = setting("auto", "2/", "kernel for varlen attention", choices=("auto", "reference", "sdpa", "flash_attn", "torch_varlen", "flex"))
    dtype: str = setting("auto", "2/", "fp32, bf16 or fp16; auto is bf16 on a GPU that has it, fp32 on a CPU", choices=("auto", "fp32", "bf16", "fp16"))
    master_weights: bool = setting(True, "2/", "weights, gradients and momenta in fp32; False: in bf16, half the memory, small updates are rounded away")
    dataset_map_fn: str = setting("auto", "3/", "how a record is read: auto (by its fields), pretrain (its text, whole), msagent_react", choices=("auto", "pretrain", "msagent_react"))
    skip_bad: bool = setting(False, "3/", "leave out and count the records that are no dialogue; False stops at the first")
    pack_strategy: str = setting("best_fit", "3/", "best_fit keeps documents whole, concat cuts them as XTuner does", choices=("best_fit", "concat"))
    overlong: str = setting("truncate", "3/", "documents longer than max_length: truncate, split, drop or error", choices=("truncate", "split", "drop", "error"))
    start_factor: float = setting(1e-5, "4/", "lr of the first warm-up step, as a share of lr", least=0)
    seed: int = setting(0, "5/", "fixes weights from scratch and the order of the data", least=0)
    device: str = setting("auto", "5/", "auto, cpu or cuda", choices=("auto", "cpu", "cuda"))
    visualizer: str | None = setting(None, "5/", "'tensorboard' writes curves to work_dir/tensorboard", choices=("tensorboard",))
    work_dir: str | None = setting(None, "5/", "where checkpoints go; None is work_dirs/<name of this file>")
    # fmt: on
    name: str = field(default="", compare=False, metadata={})

    def __post_init__(self) -> None:
        for row in schema():
            object.__setattr__(self, row.name, checked(row, getattr(self, row.name)))
        if self.use_varlen_attn and not self.pack_to_max_length:
            raise SettingError(
                "use_varlen_attn",
                "use_varlen_attn = True needs pack_to_max_length = True, there are no seams in a row of one document; "
                "set pack_to_max_length = True, or use_varlen_attn = False.",
            )
        if (self.pretrained_model_name_or_path is None) == (self.model_config is None):
            raise SettingError(
                "pretrained_model_name_or_path",
                "exactly one of pretrained_model_name_or_path and model_config must be set; "
                "name a model to fine-tune, or describe one to train from scratch.",
            )
        if self.evaluation_freq and not (self.evaluation_inputs or self.evaluation_share):
            raise SettingError(
                "evaluation_freq",
                f"evaluation_freq = {self.evaluation_freq} has nothing to ask; fill evaluation_inputs, set "
                "evaluation_share, or set it to 0.",
            )
        if self.evaluation_share and not self.evaluation_freq:
            raise SettingError(
                "evaluation_share",
                f"evaluation_share = {self.evaluation_share} holds documents out that evaluation_freq = 0 never looks "
                "at; set evaluation_freq, or evaluation_share = 0.0.",
            )
        for row in schema():
            if not effective(self, row) and getattr(self, row.name) != row.default:
                name, values = row.metadata["needs"]
                raise SettingError(
                    row.name,
                    f"{row.name} = {shown(getattr(self, row.name))} has no effect with {name} = {getattr(self, name)!r}; "
                    f"remove it, or set {name} to {' or '.join(map(repr, values))}.",
                )
        if self.method == "qlora" and self.pretrained_model_name_or_path is None:
            raise SettingError(
                "method",
                "method = 'qlora' quantises a pretrained model and model_config starts from random weights; name one "
                "in pretrained_model_name_or_path, or use method = 'lora'.",
            )

    @property
    def mode(self) -> str:
        """``unpacked``, ``packed`` or ``varlen``: what the two switches say together."""
        return MODES[self.pack_to_max_length + self.use_varlen_attn]

    def replace(self, **changes: Any) -> Config:
        """A copy with some settings changed; an unknown name is refused with the near one."""
        for name in changes:
            if name != "name" and name not in setting_names():
                raise SettingError(name, unknown(name))
        return dataclasses.replace(self, **changes)

    def with_mode(self, mode: str) -> Config:
        """The same run in another of the three modes."""
        return self.replace(pack_to_max_length=mode != "unpacked", use_varlen_attn=mode == "varlen")


def schema() -> list[dataclasses.Field]:
    return [row for row in dataclasses.fields(Config) if row.metadata]


def effective(config: Config, row: dataclasses.Field) -> bool:
    """Whether a setting does anything, given the one it needs."""
    needs = row.metadata["needs"]
    return needs is None or getattr(config, needs[0]) in needs[1]


def setting_names() -> list[str]:
    return [row.name for row in schema()]


def unknown(name: str) -> str:
    return f"unknown setting {shown(name)}{nearest(name, setting_names())}."


def checked(row: dataclasses.Field[Any], value: Any) -> Any:
    """The value in the type of its row, or a SettingError that says value, rule and name."""
    kinds: dict[str, Any] = {
        "str": str,
        "int": int,
        "float": float,
        "bool": bool,
        "tuple": tuple,
        "list": list,
        "dict": dict,
    }
    words = [word.strip() for word in str(row.type).split("|")]
    if value is None and "None" in words:
        return value
    kind = kinds[words[0]]
    if len(words) > 1 and isinstance(value, tuple(kinds[word] for word in words if word != "None")):
        kind = type(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < LARGEST else float("inf")
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    told = f"{row.name} is {shown(value)}"
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SettingError(row.name, f"{told}, it must be {' or '.join(words)}.")
    least, choices = row.metadata["least"], row.metadata["choices"]
    if least is not None and not value >= least:
        raise SettingError(row.name, f"{told}, it must be at least {least}.")
    if kind is int and value >= LARGEST:
        raise SettingError(row.name, f"{told}, it must be below 2**63.")
    if kind is float and not value < float("inf"):
        raise SettingError(row.name, f"{told}, it must be a finite number.")
    if row.name in ("evaluation_share", "lora_dropout") and not value < 1:
        raise SettingError(row.name, f"{told}, it is a share and must be below 1.")
    if choices and value not in choices:
        raise SettingError(row.name, f"{told}, it must be one of {', '.join(choices)}{nearest(value, choices)}.")
    if row.name == "data_path" and isinstance(value, list) and not (value and all(isinstance(v, str) for v in value)):
        raise SettingError(row.name, f"{told}, a list of it must hold names or files; write them as text.")
    if row.name == "evaluation_inputs" and not all(isinstance(one, str) for one in value):
        raise SettingError(row.name, f"{told}, it must hold questions; write them as text.")
    if row.name == "betas" and not (len(value) == 2 and all(isinstance(b, float) and 0 <= b < 1 for b in value)):
        raise SettingError(row.name, f"{told}, it must be two numbers of at least 0 and below 1.")
    if row.name == "save_total_limit" and value == 0:
        raise SettingError(row.name, f"{told}, the last checkpoint must stay; use -1 to keep all.")
    if row.name == "warmup_ratio" and value > 1:
        raise SettingError(row.name, f"{told}, it is a share of all steps and at most 1.")
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and HALF_CHARACTER.search(text):
            raise SettingError(row.name, f"{told}, which holds half of a character (a lone surrogate); write it whole.")
    return value


def shown(value: Any) -> str:
    """A value as a sentence quotes it: in one line, and cut in the middle where it has no end."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]} ... {text[-SHOWN // 2 :]}"
