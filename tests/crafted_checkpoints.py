"""Checkpoints as no run writes them: each must be refused in a sentence, or do no harm; nothing in one may be run.

``tiny_run`` trains three steps and gives a config and its last checkpoint; ``crafted`` makes others of it, under names;
``outcome`` tries one.
"""

from __future__ import annotations

import copy
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.files.checksums import seal
from varlen_lab.training.beginning import begin
from varlen_lab.training.checkpoint import FORMAT, read_checkpoint, save_checkpoint
from varlen_lab.training.conversion import convert
from varlen_lab.training.trainer import prepared, train

NAN, INF = float("nan"), float("inf")
LAUGHS: Any = ["ha"]
for _ in range(40):
    LAUGHS = [LAUGHS, LAUGHS]  # 2**40 values, in a kilobyte
DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]


def tiny_run(config: Config) -> tuple[Config, Path]:
    """A config whose run has ended, and its last checkpoint."""
    history = train(config, progress=False)
    assert history.checkpoint is not None
    return config, history.checkpoint


def save_tiny(path: Path, **contents: Any) -> None:
    """A checkpoint of a few bytes, which is whole."""
    save_checkpoint(path, {"step": 1, "model": {"a": torch.arange(8.0)}, **contents})


def write(path: Path, contents: Any) -> None:
    """As ``save_checkpoint``, of anything at all."""
    torch.save(contents, path)
    seal(path)


def put(state: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy of a state with another value at a place."""
    changed = dict(state)
    if len(place) > 1:
        inner = changed.get(place[0])
        if isinstance(inner, list | tuple):
            items = list(inner)
            items[place[1]] = value if len(place) == 2 else put(items[place[1]], place[2:], value)
            changed[place[0]] = items
        else:
            changed[place[0]] = put(inner or {}, place[1:], value)
    else:
        changed[place[0]] = value
    return changed


def odd_tensors(like: torch.Tensor) -> dict[str, Any]:
    """Tensors that are none of ours, in the place of one."""
    flat = torch.zeros(like.shape)
    return {
        "of another shape": torch.zeros(3, 5, 7),
        "of no shape": torch.tensor(1.0),
        "of whole numbers": flat.to(torch.int64),
        "of complex numbers": flat.to(torch.complex64),
        "of eight bits": flat.to(torch.float8_e4m3fn),
        "that is sparse": flat.to_sparse(),
        "that is quantised": torch.quantize_per_tensor(flat, 0.1, 0, torch.qint8),
        "that is nowhere": flat.to("meta"),
        "that is NaN": flat * NAN,
        "that is infinite": flat + INF,
        "that claims a trillion numbers": torch.zeros(1).expand(10**12),
        "that is text": "weights",
        "that is a list": [1.0, 2.0],
        "that is nothing": None,
    }


ODD = {"text": "x", "a number": -7, "a fraction": 0.5, "NaN": NAN, "true": True, "a list": [[]], "a dict": {"a": 1}}
ODD |= {"nothing": None, "a tensor": torch.ones(3, 3), "deep": DEEP, "laughs": LAUGHS, "bytes": b"\x00"}
KEYS = ("step", "config", "config_name", "model_config", "data", "engine", "meta", "losses", "rng_state", "model")
KEYS += ("optimizer", "scheduler", "processes", "threads")


def values(state: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, ...], Any]]:
    """(name, place, value) of what is put where something else belongs."""
    for key in KEYS:
        yield from ((f"{key} is {name}", (key,), value) for name, value in ODD.items())
    for value in (10**30, -1, 2**53 + 1, 2**62, 9999):
        yield f"step {value}", ("step",), value
    for value in (0, 10**9, 2**40):
        yield f"threads {value}", ("threads",), value
    texts = {
        "half a character": "\ud800",
        "no config": "import os\nos.system('touch executed')",
        "a zero": "seed = \x00",
    }
    texts |= {"long": "#" * 10**7, "nested": "model_config = " + "[" * 10**5, "of another run": "seed = 3"}
    yield from ((f"config is {name}", ("config",), text) for name, text in texts.items())
    texts = {"no JSON": "{", "a list": "[]", "nested": "[" * 10**5, "NaN": '{"a": NaN}', "empty": "{}", "none": "null"}
    texts |= {
        "of no kind": '{"model_type": "none such"}',
        "of a number": '{"model_type": 3}',
        "long": "1" * (2**24 + 1),
    }
    yield from ((f"model_config is {name}", ("model_config",), text) for name, text in texts.items())
    weight = next(iter(state["model"]))
    for name, tensor in odd_tensors(state["model"][weight]).items():
        yield f"a weight {name}", ("model", weight), tensor
        yield f"a momentum {name}", ("optimizer", "state", 0, "exp_avg"), tensor
        yield f"a generator {name}", ("rng_state", "cpu"), tensor
    yield "a weight too many", ("model", "more"), torch.zeros(3)
    yield "a weight of a number", ("model", 3), torch.zeros(3)
    yield "a generator of nothing", ("rng_state",), {}
    yield "a generator of zeros", ("rng_state", "cpu"), torch.zeros_like(state["rng_state"]["cpu"])
    yield "a short generator", ("rng_state", "cpu"), torch.zeros(7, dtype=torch.uint8)
    yield "no weights", ("model",), {}
    for name in ("lr", "betas", "eps", "weight_decay", "params", "amsgrad", "foreach", "initial_lr"):
        for odd in ("text", "NaN", "a list", "nothing", "a tensor"):
            yield f"the optimizer's {name} is {odd}", ("optimizer", "param_groups", 0, name), ODD[odd]
    yield "no groups", ("optimizer", "param_groups"), []
    yield "no momenta", ("optimizer", "state"), {}
    yield "momenta of no weight", ("optimizer", "state", 10**6), {}
    yield "a momentum without others", ("optimizer", "state", 0), {"step": torch.tensor(1.0)}
    yield "momenta of text", ("optimizer", "state", "a"), {}
    for name in ("step", "optimizer", "last_epoch", "_last_lr", "base_lrs", "lr_lambdas", "get_lr", "__class__"):
        for odd in ("text", "a number", "a list", "nothing", "a dict"):
            yield f"the schedule's {name} is {odd}", ("scheduler", name), ODD[odd]
    for name in ("plan", "backend", "mode", "kernel_choice", "transformers", "base"):
        for odd in ("text", "a number", "a list", "a dict"):
            yield f"the run's {name} is {odd}", ("meta", name), ODD[odd]
    yield "times of no kernel", ("meta", "kernel_choice"), {"milliseconds": {"a": "x", "b": 1}}
    yield "the losses' text", ("losses",), ["x"]


class Runs:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def crafted(state: dict[str, Any], executed: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """(name, write it to a path) of every crafted checkpoint, made from the ``state`` of one that is whole.

    ``executed``: what one that is run would make.
    """
    state = {**copy.deepcopy(dict(state)), "format": FORMAT}
    for name, place, value in values(state):
        yield name, lambda path, place=place, value=value: write(path, put(state, place, value))
    for key in KEYS:
        yield f"no {key}", lambda path, key=key: write(path, {name: one for name, one in state.items() if name != key})
    for name, contents in (
        ("a list", [state]),
        ("a tensor", torch.ones(3)),
        ("nothing", None),
        ("nothing in it", {}),
        ("a format only", {"format": FORMAT}),
        ("a format of bytes", {**state, "format": b"varlen_lab checkpoint 3"}),
        ("a format to come", {**state, "format": "varlen_lab checkpoint 99"}),
        ("a key of nothing", {**state, None: 1}),
        ("a key of a tuple", {**state, "meta": {(1, 2): 3}}),
    ):
        yield name, lambda path, contents=contents: write(path, contents)
    for name in ("model", "meta", "more"):
        yield f"{name} runs", lambda path, name=name: write(path, {**state, name: Runs(executed)})
    yield "a bare pickle that runs", lambda path: path.write_bytes(pickle.dumps(Runs(executed)))
    yield "a bare pickle", lambda path: path.write_bytes(pickle.dumps({"format": FORMAT}))
    yield "no bytes", lambda path: path.write_bytes(b"")
    yield "a text", lambda path: path.write_text("no checkpoint")
    yield "an empty archive", lambda path: zipfile.ZipFile(path, "w").close()
    yield "a folder", lambda path: path.mkdir()
    yield "a link to itself", lambda path: path.symlink_to(path)
    yield (
        "a subclass of tensors",
        lambda path: write(path, {**state, "more": torch.nn.Parameter(torch.ones(2)), "s": {1}}),
    )


def outcome(make: Callable[[Path], object], path: Path, run: Any, config: Config, folder: Path | None = None) -> str:
    """``refused`` or ``goes on``, of one crafted checkpoint at ``path``: read, resumed by ``run``, and, where there is
    a ``folder`` for it, converted. What else it raises is raised on."""
    make(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps: list[Callable[[], object]] = [lambda: read_checkpoint(path), lambda: begin(run.work_dir, path)]
        steps += [lambda: run.resume(path)]
        steps += [lambda: convert(config, path, folder)] if folder else []
        said = "goes on"
        for step in steps:
            try:
                step()
            except InputError as problem:
                assert len(str(problem)) < 2000 and "\n" not in str(problem), problem
                said = "refused"
    return said


def standing_run(config: Config, work_dir: Path) -> Any:
    """A run of the config in a new work dir, before its first step, into which checkpoints are put."""
    work_dir.mkdir()
    return prepared(
        config.replace(work_dir=str(work_dir)), None, False, None, begin(work_dir, False), deepspeed=None, fsdp=False
    )
