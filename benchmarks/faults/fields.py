"""Records whose every field in turn holds what nobody would write there: checkpoints, histories, configs, data.

Each is refused in a sentence or means nothing. A result that differs is no fault here: the field may say so.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import bombs, kills
from benchmarks.faults import stage as world
from benchmarks.faults.outcomes import Case, Outcome
from benchmarks.faults.stage import STEPS, Ran, Stage, verb

ABSENT = object()
NASTY: dict[str, Any] = {
    "absent": ABSENT,
    "None": None,
    "true": True,
    "0": 0,
    "-1": -1,
    "10**9": 10**9,
    "10**30": 10**30,
    "-10**400": -(10**400),
    "0.5": 0.5,
    "1e308": 1e308,
    "nan": float("nan"),
    "inf": float("inf"),
    "empty text": "",
    "a text": "no such thing",
    "a path": "../../../../etc/passwd",
    "a long text": "x" * 100_000,
    "a lone surrogate": "\ud800",
    "control characters": "\0\x1b[2J\n\r",
    "template": "{{ x }} {0} %s",
    "empty list": [],
    "a list": [1, "two", None],
    "a list of lists": [[[]]],
    "empty object": {},
    "an object": {"a": {"b": [1]}},
    "a number as key": {"0": 0},
    "deep": "DEEP",
}


def deep(levels: int = 400) -> Any:
    """A list in a list in a list."""
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


def places(record: Any, depth: int = 2) -> list[tuple[Any, ...]]:
    """The path of every field of nested objects, a few levels deep; of lists the first and the last."""
    found: list[tuple[Any, ...]] = []
    if isinstance(record, dict) and depth:
        for name, value in record.items():
            found += [(name,), *((name, *rest) for rest in places(value, depth - 1))]
    elif isinstance(record, list) and record and depth:
        for at in {0, len(record) - 1}:
            found += [(at,), *((at, *rest) for rest in places(record[at], depth - 1))]
    return found


def with_field(record: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of a record with another value at a place."""
    found = copy.deepcopy(record)
    inner = found
    for step in place[:-1]:
        inner = inner[step]
    if value is ABSENT:
        del inner[place[-1]]
    else:
        inner[place[-1]] = deep() if value == "DEEP" else value
    return found


def crafted(stage: Stage) -> Iterator[Case]:
    """A few nasty values, chosen at random, in every field of every record."""
    for name, (needs, read, write, act, tries) in RECORDS.items():
        record = read(stage.folder)
        for place in [(), *places(record)]:
            for word in stage.chooser.sample(list(NASTY), tries):
                if place or word != "absent":
                    where = ".".join(map(str, place)) or "the whole"
                    yield Case(
                        f"{name}: {where} = {word}", partial(read_back, stage, needs, read, write, act, place, word)
                    )


def read_back(
    stage: Stage,
    needs: tuple[str, ...],
    read: Callable[[Path], Any],
    write: Callable[[Any], None],
    act: Callable[[], Ran],
    place: tuple[Any, ...],
    word: str,
) -> Outcome:
    """One case: the record is written with its field, then read by a verb."""
    stage.bring(*needs)
    value = NASTY[word]
    record = with_field(read(stage.folder), place, value) if place else (deep() if value == "DEEP" else value)
    try:
        write(record)
    except (TypeError, ValueError, OverflowError, RecursionError, AttributeError, KeyError, IndexError):
        return Outcome("unharmed", "no file can hold it")
    ran = act()
    if ran.code == 1 and "error: " not in ran.said:
        ran = Ran(0, ran.said, ran.problem)  # a verdict
    return world.judged(ran, lambda: True)


# ------------------------------------------------------------------------------------------------- records


def json_file(path: str) -> tuple[Callable[[Path], Any], Callable[[Any], None]]:
    """How a JSON file is read from the stage and written into a case."""
    return (lambda folder: json.loads((folder / path).read_text())), (lambda value: _put(path, json.dumps(value)))


def _put(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8", errors="surrogatepass")


def line_of(path: str, number: int) -> tuple[Callable[[Path], Any], Callable[[Any], None]]:
    """A line of a JSONL file."""

    def write(value: Any) -> None:
        lines = Path(path).read_text().splitlines()
        lines[number] = json.dumps(value)
        _put(path, "\n".join(lines) + "\n")

    return (lambda folder: json.loads((folder / path).read_text().splitlines()[number])), write


def checkpoint(path: str) -> tuple[Callable[[Path], Any], Callable[[Any], None]]:
    """What a checkpoint holds; written as our own writer does, so that its sums hold."""
    import torch

    def read(folder: Path) -> Any:
        found = torch.load(folder / path, weights_only=True)
        return dict(sorted(found.items(), key=lambda pair: pair[0] in ("model", "optimizer")))  # the large ones last

    def write(value: Any) -> None:
        from varlen_lab.training.checkpoint import save_checkpoint

        if not isinstance(value, dict):
            torch.save(value, path)
            return
        rest = dict(value)
        wanted = rest.pop("format", None)
        if wanted == torch.load(path, weights_only=True)["format"]:
            save_checkpoint(Path(path), rest)
        else:
            torch.save(value, path)

    return read, write


def header(path: str) -> tuple[Callable[[Path], Any], Callable[[Any], None]]:
    """The JSON head of a safetensors file."""

    def parts(file: Path) -> tuple[Any, bytes]:
        body = file.read_bytes()
        size = struct.unpack("<Q", body[:8])[0]
        head = json.loads(body[8 : 8 + size])
        some = list(head)[:4]
        return {name: head[name] for name in some}, body[8 + size :]

    def write(value: Any) -> None:
        file = Path(path)
        body = file.read_bytes()
        size = struct.unpack("<Q", body[:8])[0]
        whole = json.loads(body[8 : 8 + size])
        if isinstance(value, dict):
            value = {**dict(list(whole.items())[4:]), **value}
        text = json.dumps(value).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + body[8 + size :])

    return (lambda folder: parts(folder / path)[0]), write


def settings() -> tuple[Callable[[Path], Any], Callable[[Any], None]]:
    """The settings of a config file, written as Python."""

    def read(folder: Path) -> Any:
        from dataclasses import asdict

        from varlen_lab.config.text import load_config

        found = asdict(load_config(str(folder / "c.py")))
        return {name: value for name, value in found.items() if name not in ("name", "work_dir")}

    def write(value: Any) -> None:
        lines = [f"{name} = {one!r}" for name, one in value.items()] if isinstance(value, dict) else [repr(value)]
        _put("c.py", "\n".join(lines) + "\n")

    return read, write


def records_say() -> Ran:
    return verb("check-custom-dataset", "data.jsonl", "--json")


def resume() -> Ran:
    Path(f"run/iter_{STEPS}.pth").unlink()
    return verb("train", "c.py", "--quiet", "--resume")


def audited() -> Ran:
    """Of a folder of anybody's: one of ours is refused where its files are not those that are listed."""
    Path("base/varlen_lab.json").unlink()
    return verb(*bombs.AUDIT)


def counted() -> Ran:
    return verb("pack-report", "c.py", "--json", "--cfg-options", "max_steps=1")


merge = partial(kills.merge, "new")
RUN, MODEL = ("run", "c.py", "data.jsonl"), ("base", "adapter")
Row = tuple[tuple[str, ...], Callable[[Path], Any], Callable[[Any], None], Callable[[], Ran], int]
RECORDS: dict[str, Row] = {
    "checkpoint by resume": (RUN, *checkpoint("run/iter_2.pth"), resume, 2),
    "checkpoint by convert": (("run", "c.py"), *checkpoint("run/iter_3.pth"), partial(kills.convert, "new"), 1),
    "history head": (RUN, *line_of("run/history.jsonl", 0), resume, 2),
    "history line": (RUN, *line_of("run/history.jsonl", 1), resume, 4),
    "config.json by merge": (MODEL, *json_file("base/config.json"), merge, 1),
    "config.json by audit": (("base",), *json_file("base/config.json"), audited, 2),
    "generation_config.json": (MODEL, *json_file("base/generation_config.json"), merge, 4),
    "tokenizer_config.json": (MODEL, *json_file("base/tokenizer_config.json"), merge, 2),
    "tokenizer.json": (MODEL, *json_file("base/tokenizer.json"), merge, 1),
    "adapter_config.json": (MODEL, *json_file("adapter/adapter_config.json"), merge, 2),
    "manifest of an adapter": (MODEL, *json_file("adapter/varlen_lab.json"), merge, 4),
    "manifest of a model": (MODEL, *json_file("base/varlen_lab.json"), merge, 3),
    "head of weights": (MODEL, *header("base/model.safetensors"), merge, 3),
    "head of an adapter": (MODEL, *header("adapter/adapter_model.safetensors"), merge, 3),
    "settings": (("c.py", "data.jsonl"), *settings(), counted, 3),
    "a record of data": (("data.jsonl",), *line_of("data.jsonl", 3), records_say, 12),
}
