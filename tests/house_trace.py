"""Which files of the library a training step calls, and through which of them the batch is carried.

``python tests/house_trace.py`` trains one step on a JSONL file with the command line, after every module was imported,
and prints both lists. A file *carries* the batch when one of its functions is given it or returns it: the text of a
record, its token ids or labels, or a tensor with a place for each of the row's tokens. A handle to the whole dataset,
a count of tokens or a loss that is one number is not the batch, and a chat template's own steps belong to who has it
write. The leak check takes documents of its own before the
first step: what it calls is none of the step's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import pkgutil
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

import varlen_lab

LIBRARY = Path(varlen_lab.__file__).parent
DEPTH = 4  # of lists in lists that are looked into
FEW = 64  # elements of each of them


def import_everything() -> None:
    """Every module of the library, so that what is traced later is calls and no imports."""
    for module in pkgutil.walk_packages(varlen_lab.__path__, "varlen_lab."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def write_run(folder: Path, mark: str) -> list[str]:
    """A JSONL file whose texts hold ``mark``, a config that trains one step on it; the words of the command line."""
    data, config = folder / "chat.jsonl", folder / "step.py"
    answers = ["yes", "it depends on the weather", "count the letters of this sentence and add one"]
    records = [
        {"messages": [{"role": "user", "content": f"{mark}?"}, {"role": "assistant", "content": f"{mark}: {answer}"}]}
        for answer in answers
    ]
    data.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    from varlen_lab import load_config
    from varlen_lab.config import render

    tiny = load_config("tiny_llama_full_docstrings_e1").with_mode("varlen")
    config.write_text(render(tiny.replace(data_path=str(data), max_steps=1, device="cpu")), encoding="utf-8")
    return ["train", str(config), "--work-dir", str(folder / "work")]


def own_cache(folder: Path) -> None:
    """Let the run find the built-in tokenizer, and nothing of its own data: each text is read and tokenised anew."""
    from varlen_lab.files import cache_dir

    usual = cache_dir()
    folder.mkdir()
    for pattern in ("docstrings-*", "tokenizer-*"):
        for file in usual.glob(pattern):
            shutil.copy(file, folder)
    os.environ["VARLEN_LAB_CACHE"] = str(folder)


GUARDS = {str(LIBRARY / "documents" / f"{name}.py") for name in ("bounded", "budget", "sizes")}  # of a template


@dataclasses.dataclass
class Trace:
    """Files in which functions were called, and those that carried the batch; paths below the library."""

    mark: str
    tokens: int
    called: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    carried: dict[str, set[str]] = dataclasses.field(default_factory=dict)

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        """What ``sys.setprofile`` calls."""
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(str(LIBRARY)):
            return
        if code.co_name == "<module>":
            return
        path = str(Path(code.co_filename).relative_to(LIBRARY))
        self.called.setdefault(path, set()).add(code.co_name)
        if code.co_name in self.carried.get(path, ()) or within_a_template(frame):
            return
        count = code.co_argcount + code.co_kwonlyargcount
        given = [frame.f_locals.get(name) for name in code.co_varnames[:count]] if event == "call" else [result]
        if any(self.holds(value) for value in given):
            self.carried.setdefault(path, set()).add(code.co_name)

    def holds(self, value: Any, depth: int = 0) -> bool:
        """Whether a value is the batch, or a part of it, or something that holds it."""
        if isinstance(value, str):
            return self.mark in value
        if isinstance(value, bytes):
            return self.mark.encode() in value
        if isinstance(value, torch.Tensor | np.ndarray):
            return self.tokens in value.shape
        if depth == DEPTH:
            return False
        if isinstance(value, dict):
            return any(self.holds(one, depth + 1) for one in list(value.values())[:FEW])
        if isinstance(value, list | tuple):
            if len(value) == self.tokens and isinstance(value[0], int):
                return True
            return any(self.holds(one, depth + 1) for one in value[:FEW])
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return any(self.holds(one, depth + 1) for one in vars(value).values())
        return False


def within_a_template(called: FrameType) -> bool:
    """Whether a chat template made this call: what guards its steps is handed its texts, and hands them back."""
    frame: FrameType | None = called
    while frame is not None and frame.f_code.co_filename in {called.f_code.co_filename, *GUARDS}:
        frame = frame.f_back
    while frame is not None and not frame.f_code.co_filename.startswith(str(LIBRARY)):
        name = frame.f_code.co_filename
        if "jinja2" in name or name == "<template>" or Path(name).name == "chat_template_utils.py":
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def profiled(trace: Trace) -> Iterator[None]:
    """Python calls of this and of new threads go to ``trace``: autograd has threads of its own."""
    threading.setprofile(trace)  # type: ignore[arg-type]
    sys.setprofile(trace)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def not_traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose calls nobody sees."""

    def call(*given: Any, **more: Any) -> Any:
        before = sys.getprofile()
        sys.setprofile(None)
        try:
            return function(*given, **more)
        finally:
            sys.setprofile(before)

    return call


def one_step() -> Trace:
    """Train one step on a new JSONL file and say what was called."""
    from varlen_lab.cli import main
    from varlen_lab.training import trainer

    import_everything()
    trainer.check_in_first_process = not_traced(trainer.check_in_first_process)
    mark = "m" + uuid.uuid4().hex[:6]
    with tempfile.TemporaryDirectory() as name:
        words = write_run(Path(name), mark)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main(words) == 0  # once to learn how many tokens the one row has
            step = json.loads((Path(name) / "work" / "history.jsonl").read_text(encoding="utf-8").splitlines()[1])
            trace = Trace(mark, step["tokens"])
            own_cache(Path(name) / "cache")
            with profiled(trace):
                assert main(words) == 0
    return trace


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = one_step()
    print(f"{len(found.called)} files are called:", *sorted(found.called), sep="\n  ")
    print(f"{len(found.carried)} files carry the batch:", *sorted(found.carried), sep="\n  ")
