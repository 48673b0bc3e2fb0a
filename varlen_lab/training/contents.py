"""What may stand in a checkpoint: a value of another kind than ours is named, before anything is made of it.

A digest finds damage, not intent. Whoever wrote the file, nothing in it is run (it is read weights-only), nothing in it
is larger than what it is for, and a tensor is numbers in memory: not sparse, quantised, complex, or on no device.
Whether weights fit a model, and an optimizer's state its weights, is asked where they are put together (``fitting``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from varlen_lab.errors import InputError, quoted
from varlen_lab.files.reading import field, parse_json

NOT_OURS = "it is damaged, or made by another program"
TEXT = (str, type(None))
KINDS: dict[str, Any] = {
    "format": str,
    "step": int,
    "processes": int,
    "threads": (int, type(None)),
    "zero_stage": int,
    "config": str,
    "config_name": TEXT,
    "model_config": str,
    "data": TEXT,
    "engine": str,
    "meta": dict,
    "losses": list,
    "rng_state": dict,
    "model": dict,
    "optimizer": dict,
    "scheduler": dict,
    "scaler": dict,
    "shards": dict,
    "stream": dict,
}
LEAST = {"step": 0, "processes": 1, "threads": 1, "zero_stage": 1}
MOST = {"processes": 2**20, "threads": 2**12, "zero_stage": 3}
LONGEST = {"config": 2**20, "model_config": 2**24}  # characters
MOST_INT = 2**53  # of what is counted
MOST_PLAIN = 2**256  # of any other number, such as the seed of a generator
PLAIN = (str, int, float, bool, type(None))
TENSORS = (torch.Tensor, torch.nn.Parameter)  # no other class of tensor: it has code of its own
WITH_TENSORS = {"rng_state", "model", "optimizer", "stream"}
INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool}
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
DEEPEST, MOST_VALUES = 32, 2**26  # values, those that are named twice counted twice
SCALER = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")


def check_contents(contents: Mapping[str, Any], where: str) -> None:
    """InputError that names the first value of a checkpoint which is none that we write; ``where``: its file.

    Keys that it lacks are none: who needs one asks for it.
    """
    left = [MOST_VALUES]
    for name, value in contents.items():
        if type(name) is not str:
            raise wrong(where, "a key", name)
        check_plain(value, name[:200], where, left, name in WITH_TENSORS or name not in KINDS)
    for name in KINDS.keys() & contents.keys():
        value = field(contents, name, KINDS[name], where, NOT_OURS)
        if isinstance(value, int) and not LEAST.get(name, -MOST_INT) <= value <= MOST.get(name, MOST_INT):
            raise wrong(where, name, value)
        if isinstance(value, str) and len(value) > LONGEST.get(name, MOST_INT):
            raise InputError(f"{where} has a {name} of {len(value):,} characters; {NOT_OURS}.")
    if "model_config" in contents:
        parse_json(contents["model_config"], f"the model_config in {where}", NOT_OURS)
    for name, check in CHECKS.items():
        if name in contents:
            check(contents[name], where)


def wrong(where: str, name: str, value: Any) -> InputError:
    """The error to raise for a value that a checkpoint of ours does not have."""
    return InputError(f"{where} has {name} = {quoted(value)}, which is no such value; {NOT_OURS}.")


def check_plain(value: Any, name: str, where: str, left: list[int], tensors: bool, depth: int = 0) -> None:
    """InputError where a value is anything but texts, numbers and, where there may be some, ``tensors``, in lists and
    dicts; ``left``: how many more there may be."""
    left[0] -= 1
    if left[0] < 0 or depth > DEEPEST:
        raise InputError(f"{where} has more in {name}, or deeper, than any run writes; {NOT_OURS}.")
    if type(value) in TENSORS:
        if not tensors or not is_numbers(value):
            raise InputError(f"{where} has {name} = {described(value)}, which is no such value; {NOT_OURS}.")
    elif isinstance(value, dict):
        for key, one in value.items():
            if type(key) not in (str, int):
                raise wrong(where, f"a key of {name}", key)
            check_plain(key, f"a key of {name}", where, left, False, depth + 1)
            check_plain(one, f"{name}.{key}"[:200], where, left, tensors, depth + 1)
    elif type(value) in (list, tuple):
        for number, one in enumerate(value):
            if type(one) is not float:  # a million losses
                check_plain(one, f"{name}.{number}"[:200], where, left, tensors, depth + 1)
    elif type(value) not in PLAIN or (type(value) is int and abs(value) > MOST_PLAIN) or not writable(value):
        raise wrong(where, name, value if type(value) in PLAIN else type(value).__name__)


def writable(value: Any) -> bool:
    """Whether a text can be written at all: half a character cannot."""
    return not isinstance(value, str) or value.isascii() or not any("\ud800" <= one <= "\udfff" for one in value)


def is_numbers(tensor: torch.Tensor) -> bool:
    """Whether a tensor is numbers in this machine's memory, as those of a checkpoint are."""
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
    return plain and tensor.dtype in INTEGERS | FLOATS


def described(tensor: torch.Tensor) -> str:
    """What kind of tensor this is: to print its numbers may take them all, or there are none."""
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"a tensor ({kind}, {str(tensor.layout).removeprefix('torch.')}, {tensor.device.type})"


def check_losses(losses: list[Any], where: str) -> None:
    """Numbers, NaN among them."""
    for loss in losses:
        if type(loss) not in (int, float):
            raise wrong(where, "losses", loss)


def check_rng(states: dict[Any, Any], where: str) -> None:
    """The bytes of generators, that of the CPU among them."""
    field(states, "cpu", torch.Tensor, f"{where}: rng_state", NOT_OURS)
    for name, state in states.items():
        if not isinstance(state, torch.Tensor) or state.dtype != torch.uint8 or state.dim() != 1:
            raise wrong(where, f"rng_state.{name}", described(state) if isinstance(state, torch.Tensor) else state)


def check_weights(weights: dict[Any, Any], where: str) -> None:
    """Tensors by name."""
    for name, weight in weights.items():
        if not isinstance(name, str) or not isinstance(weight, torch.Tensor):
            raise wrong(where, f"model.{name}", type(weight).__name__)


def check_scaler(state: dict[Any, Any], where: str) -> None:
    """What torch's GradScaler says of itself: positive numbers."""
    for name in SCALER:
        value = field(state, name, (int, float), f"{where}: scaler", NOT_OURS)
        least = 0 if name == "_growth_tracker" else 2**-126  # the smallest number a scale of float32 can be
        if not (math.isfinite(value) and value >= least):
            raise wrong(where, f"scaler.{name}", value)


def check_shards(listed: dict[Any, Any], where: str) -> None:
    """Names of files, of weights that are trained, and of weights that are tied."""
    files = field(listed, "files", dict, f"{where}: shards", NOT_OURS)
    trained = field(listed, "trained", list, f"{where}: shards", NOT_OURS)
    tied = field(listed, "tied", dict, f"{where}: shards", NOT_OURS)
    for name in (*files, *trained, *tied, *tied.values()):
        if not isinstance(name, str):
            raise wrong(where, "a name in shards", name)
    for size in files.values():
        if type(size) is not int:
            raise wrong(where, "a size in shards", size)


def check_meta(meta: dict[Any, Any], where: str) -> None:
    """What a run is compared with: texts; and the receipt of its kernel, whose times are numbers."""
    for name in meta.keys() & {"mode", "backend", "plan", "base", "transformers"}:
        field(meta, name, str, f"{where}: meta", NOT_OURS)
    receipt = meta.get("kernel_choice")
    times = receipt.get("milliseconds") if isinstance(receipt, dict) else None
    if isinstance(times, dict):
        if len(times) > 1:
            field(times, str(meta.get("backend")), (int, float), f"{where}: the receipt of the kernel", NOT_OURS)
        for name, took in times.items():
            if type(name) is not str or type(took) not in (int, float):
                raise wrong(where, "a time of a kernel", took)


def check_stream(state: dict[Any, Any], where: str) -> None:
    """Where a stream stands: counts, and the documents that wait for a row, each as long as the packer takes it for."""
    place = f"{where}: stream"
    of_records = field(state, "source", dict, place, NOT_OURS)
    packer = field(state, "packer", dict, place, NOT_OURS)
    start = field(of_records, "start", dict, place, NOT_OURS)
    for holder, names in (
        (state, ("epoch", "steps", "documents", "dropped_tokens")),
        (packer, ("max_length", "lookahead", "fed", "room")),
        (of_records, ("source", "given")),
        (start, ("record", "offset")),
    ):
        for name in names:
            if not 0 <= field(holder, name, int, place, NOT_OURS) <= MOST_INT:
                raise wrong(place, name, holder[name])
    field(of_records, "first_skipped", str, place, NOT_OURS)
    if of_records.get("tokenised") not in (True, False, None):
        raise wrong(place, "tokenised", of_records["tokenised"])
    facts = field(of_records, "facts", list, place, NOT_OURS)
    if start.keys() != {"record", "offset", "state"} or of_records["source"] > len(facts):
        raise wrong(place, "start", start)
    for one in facts:
        for name in one.keys() & {"size", "time"} if isinstance(one, dict) else {"size"}:
            field(one if isinstance(one, dict) else {}, name, int, place, NOT_OURS)
    for counts in (field(state, "counts", dict, place, NOT_OURS), field(of_records, "counts", dict, place, NOT_OURS)):
        if not all(type(name) is str and type(count) is int for name, count in counts.items()):
            raise wrong(place, "counts", counts)
    check_waiting(state, packer, place)
    for row in field(state, "queue", list, place, NOT_OURS):
        ids, labels, lengths = (numbers_in(row, name, place) for name in ("input_ids", "labels", "seq_lengths"))
        if len(ids) != len(labels) or len(ids) != int(lengths.sum()) or not len(ids) or int(lengths.min()) < 1:
            raise wrong(place, "a row of the queue", f"{len(ids)} tokens, {len(labels)} labels")


def check_waiting(state: dict[Any, Any], packer: dict[Any, Any], place: str) -> None:
    """The documents that wait: their numbers, lengths and tokens, and the rows they are given to."""
    numbers, lengths = (whole_numbers(state, name, place) for name in ("numbers", "lengths"))
    ids, labels = numbers_in(state, "tokens", place), numbers_in(state, "labels", place)
    if not len(ids) == len(labels) == sum(lengths) or len(set(numbers)) != len(lengths) or min(lengths, default=1) < 1:
        raise wrong(place, "lengths", lengths)
    known = dict(zip(numbers, lengths, strict=False))
    waiting = field(packer, "waiting", list, place, NOT_OURS)
    if not all(type(one) in (list, tuple) and len(one) == 2 for one in waiting):
        raise wrong(place, "waiting", waiting)
    begun = whole_numbers(packer, "row", place)
    ready = field(state, "ready", list, place, NOT_OURS)
    rows = [whole_numbers({"ready": row}, "ready", place) for row in ready]
    named = [number for number, _ in waiting] + begun + [number for row in rows for number in row]
    if (
        sorted(named, key=str) != sorted(numbers, key=str)
        or any(known.get(number) != length for number, length in waiting)
        or any(number >= packer["fed"] for number in numbers)
        or packer["room"] != packer["max_length"] - sum(known[number] for number in begun)
    ):
        raise wrong(place, "waiting", waiting)


def whole_numbers(values: dict[Any, Any], name: str, place: str) -> list[int]:
    """A list of numbers from 0 on."""
    found = field(values, name, list, place, NOT_OURS)
    if not all(type(one) is int and 0 <= one <= MOST_INT for one in found):
        raise wrong(place, name, found)
    return list(found)


def numbers_in(values: Any, name: str, place: str) -> torch.Tensor:
    """A tensor of int32 numbers, end to end."""
    found = field(values if isinstance(values, dict) else {}, name, torch.Tensor, place, NOT_OURS)
    if found.dtype != torch.int32 or found.dim() != 1 or not found.is_contiguous() or found.requires_grad:
        raise wrong(place, name, described(found))
    return found


CHECKS: dict[str, Callable[[Any, str], None]] = {
    "losses": check_losses,
    "rng_state": check_rng,
    "model": check_weights,
    "scaler": check_scaler,
    "shards": check_shards,
    "meta": check_meta,
    "stream": check_stream,
}
