"""The page's six steps on its own config, at its own size, on this device. No release of XTuner since 0.1.16 ends it.

InternLM-7B with random weights (nothing is downloaded) in a folder as the hub would give it; the config is copied,
``use_varlen_attn`` set to True, trained for three steps on the dialogues of ``data/``, converted, and the converted
folder has to give the checkpoint's logits. Weights are in bf16 and the optimizer is SGD without momentum, or the
checkpoint alone would take 58 GB of disk.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.runner import guarded
from benchmarks.gpu.store import Cell
from benchmarks.gpu.training import random_model
from varlen_lab.cli import main
from varlen_lab.config.names import named_config
from varlen_lab.config.schema import Config
from varlen_lab.config.text import load
from varlen_lab.errors import InputError
from varlen_lab.machine.gpu import GIB

NAME = "internlm_7b_full_oasst1_e3"
DIALOGUES = Path(__file__).resolve().parents[2] / "data" / "dialogues.jsonl"
DISK = 48 * GIB  # bytes: the model, its checkpoint, the converted folder


def measure(bench: Bench) -> Iterator[Cell]:
    """One cell a step of the page; a step that fails ends the walk."""
    folder = Path(tempfile.mkdtemp(prefix="varlen_page_"))
    try:
        steps: dict[str, tuple[float, Callable[[], dict[str, Any]]]] = {
            "1 install": (2, partial(command, "check-env")),
            "2 find a config": (1, partial(command, "list-cfg", "-p", "internlm")),
            "3, 4 copy it, edit one line": (1, partial(copied, folder)),
            "a model of random weights": (30, partial(model_folder, bench, folder)),
            "5 train": (60, partial(trained, bench, folder)),
            "6 convert": (60, partial(converted, folder)),
        }
        for name, (expected, step) in steps.items():
            cell = guarded(bench, name, 1 if bench.rehearsal else expected, step)
            yield cell
            if cell.get("status", "ok") != "ok" or cell.get("exit_code"):
                return
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def command(*words: str) -> dict[str, Any]:
    """A command of ``varlen-lab``; the end of its output where it did not go well."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main(list(words))
    return {"exit_code": code} | ({"why": " / ".join(said.getvalue().splitlines()[-6:])} if code else {})


def copied(folder: Path) -> dict[str, Any]:
    """``copy-cfg`` and the page's one edit, by hand as the page shows it."""
    done = command("copy-cfg", NAME, str(folder))
    path = folder / f"{NAME}_copy.py"
    text = path.read_text(encoding="utf-8")
    assert text.count("use_varlen_attn = False") == 1
    path.write_text(text.replace("use_varlen_attn = False", "use_varlen_attn = True"), encoding="utf-8")
    return {**done, "varlen": load(path).use_varlen_attn}


def model_folder(bench: Bench, folder: Path) -> dict[str, Any]:
    """InternLM's architecture with random weights and the built-in tokenizer, saved as the hub has models."""
    from varlen_lab.documents.builtin import builtin_tokenizer
    from varlen_lab.models.building import TINY
    from varlen_lab.models.registry import FAMILIES

    free = shutil.disk_usage(folder).free
    if not bench.rehearsal and free < DISK:
        raise InputError(f"{folder} has {free / GIB:.0f} GiB free and the page at 7B takes {DISK / GIB:.0f}.")
    architecture = FAMILIES["internlm"].variants["internlm-7b"]
    vocabulary = {} if bench.rehearsal else {"vocab_size": 103168}
    shape = {**TINY, **architecture, **bench.scale.page["model"], **vocabulary}
    model = random_model(shape, "sdpa", bench.device, bench.dtype)
    model.save_pretrained(folder / "internlm")
    builtin_tokenizer().save_pretrained(folder / "internlm")
    return {"weights": sum(p.numel() for p in model.parameters())}


def edited(bench: Bench, folder: Path) -> Config:
    """The config of the page as it lies on disk, with this machine's model and data."""
    wanted = bench.scale.page
    return load(folder / f"{NAME}_copy.py").replace(
        pretrained_model_name_or_path=str(folder / "internlm"),
        data_path=str(DIALOGUES),
        max_length=wanted["max_length"],
        max_steps=wanted["steps"],
        evaluation_freq=0,
        optim_type="SGD",
        betas=(0.0, 0.999),
        master_weights=bench.device != "cuda",
        gradient_checkpointing=True,
        recompute="cheap",
        device=bench.device,
        work_dir=str(folder / "work"),
    )


def trained(bench: Bench, folder: Path) -> dict[str, Any]:
    from varlen_lab.training.trainer import train

    bench.free()
    history = train(edited(bench, folder), progress=False)
    (folder / "checkpoint").write_text(str(history.checkpoint))
    return {
        "steps": len(history.losses),
        "loss": history.losses[-1],
        "tokens_per_second": history.tokens_per_second,
        "backend": history.meta["backend"],
        "recipe": named_config(NAME).name,
    }


def converted(folder: Path) -> dict[str, Any]:
    from varlen_lab.training.conversion import convert

    begin = time.monotonic()
    pth = Path((folder / "checkpoint").read_text())
    config = load(next((folder / "work").glob("*.py")))
    done = convert(config, pth, folder / "hf")
    return {
        "logits_apart": done.max_logit_difference,
        "weights": done.parameters,
        "dtype": done.dtype,
        "seconds": time.monotonic() - begin,
    }
