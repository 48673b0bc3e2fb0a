"""DeepSpeed's settings: XTuner's names for the stages of ZeRO, or a person's JSON file, and what the config decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from varlen_lab.errors import InputError, nearest, quoted
from varlen_lab.files.reading import read_json

OFFLOAD = {"device": "cpu", "pin_memory": True}
ZERO_SETTINGS: dict[str, dict[str, Any]] = {  # XTuner's names
    "deepspeed_zero1": {"stage": 1},
    "deepspeed_zero2": {"stage": 2},
    "deepspeed_zero2_offload": {"stage": 2, "offload_optimizer": OFFLOAD},
    "deepspeed_zero3": {"stage": 3},
    "deepspeed_zero3_offload": {"stage": 3, "offload_optimizer": OFFLOAD, "offload_param": OFFLOAD},
}
DECIDED_BY_CONFIG = {  # keys a JSON file may hold that the config decides here
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
}
# what the loop needs, or a step whose gradient is not finite would be taken: section, key
NEEDED = {("bf16", "check_grad_overflow"), ("zero_optimization", "compute_grad_norm")}


def zero_settings(word: str) -> dict[str, Any]:
    """DeepSpeed settings by XTuner's name or from a JSON file; InputError when it is neither."""
    if word in ZERO_SETTINGS:
        return {"zero_optimization": dict(ZERO_SETTINGS[word])}
    path = Path(word)
    if not path.is_file():
        raise InputError(
            f"--deepspeed got {word!r}, it takes a JSON file or one of {', '.join(ZERO_SETTINGS)}"
            f"{nearest(word, ZERO_SETTINGS)}."
        )
    found: dict[str, Any] = without_auto(read_json(path, "correct it, --deepspeed takes settings in JSON"))
    if not isinstance(found.get("zero_optimization"), dict):
        raise InputError(f"--deepspeed {word} has no zero_optimization; write {{'zero_optimization': {{'stage': 2}}}}.")
    stage = found["zero_optimization"].get("stage")
    if type(stage) is not int or stage not in (1, 2, 3):  # true and 2.0 are equal to some of these
        raise InputError(
            f"--deepspeed {word} has stage = {quoted(stage)} in zero_optimization; write 1, 2 or 3, or drop "
            "--deepspeed."
        )
    if set_there := DECIDED_BY_CONFIG & found.keys():
        raise InputError(
            f"--deepspeed {word} sets {', '.join(sorted(set_there))}, which the config decides "
            "(batch_size, accumulative_counts, max_norm, optim_type, lr); remove it there."
        )
    for section, key in NEEDED:
        if isinstance(found.get(section), dict) and found[section].get(key) is False:
            raise InputError(
                f"--deepspeed {word} sets {key} = false in {section}, and a step that is not finite would be taken; "
                "remove it there."
            )
    return found


def without_auto(settings: Any) -> Any:
    """Settings without those that are "auto", at any depth: DeepSpeed has a default for each, or the config decides."""
    if not isinstance(settings, dict):
        return settings
    return {name: without_auto(value) for name, value in settings.items() if value != "auto"}


def with_precision(settings: dict[str, Any], precision: str) -> dict[str, Any]:
    """The settings with ``precision``, the config's dtype, switched on; InputError where they say another."""
    rest = {name: value for name, value in settings.items() if name not in ("bf16", "bfloat16", "fp16")}
    # bfloat16 is the older of two names
    said = {"bf16": settings.get("bf16", settings.get("bfloat16", {})), "fp16": settings.get("fp16", {})}
    for name, section in said.items():
        wanted = section.get("enabled", name == precision) if isinstance(section, dict) else section
        if wanted is not (name == precision):
            raise InputError(
                f"the settings of --deepspeed say {name} enabled = {wanted!r} and the config says dtype = "
                f"{precision!r}; remove {name} there, or set the dtype."
            )
        if wanted:
            rest[name] = {**section, "enabled": True}
    return rest
