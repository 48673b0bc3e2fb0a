"""``train(config)``: from a config to checkpoints. A step is in ``loop``, what goes into it in ``batches``."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.errors import InputError
from varlen_lab.machine.progress import bar
from varlen_lab.models.building import build_model
from varlen_lab.training.checkpoint import (
    History,
    data_fingerprint,
    dice,
    latest,
    numbered,
    open_checkpoint,
    roll,
    stop_on_sigterm,
)
from varlen_lab.training.data import Batch, batched, collator, load_tokenizer, pad_id
from varlen_lab.training.engines import Engine
from varlen_lab.training.evaluation import answers, held_out_loss
from varlen_lab.training.plan import plan_steps, row_costs, share
from varlen_lab.training.setup import describe, look_ahead, make_accelerator, make_engine, shared_rows
from varlen_lab.training.step import optimize

if TYPE_CHECKING:
    from accelerate import Accelerator

    from varlen_lab.training.plan import Outlook


def train(
    config: Config,
    *,
    progress: bool = True,
    on_start: Callable[[Outlook], None] | None = None,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    resume: bool | str | Path = False,
    deepspeed: str | None = None,
    fsdp: bool = False,
) -> History:
    """Train as the config says; checkpoints and ``history.jsonl`` go to its work_dir.

    Returns the History of the run. ``on_start`` is told what the run will do and cost, ``on_step`` gets every record,
    for a live plot; both in the first process only. ``resume`` goes on from the newest checkpoint of the work_dir (or
    a given one) exactly as if the run had never stopped; without one it starts at step 0. SIGTERM saves and returns
    early. ``deepspeed`` (one of XTuner's names or a JSON file) or ``fsdp`` shares the model out over the processes
    that were started. Raises InputError for bad input, for a checkpoint of another config or other data, and when
    losses stay infinite.
    """
    accelerator = make_accelerator(config)
    first, processes = accelerator.is_main_process, accelerator.num_processes
    progress = progress and first
    tokenizer = load_tokenizer(config)
    model = build_model(config)
    work_dir = Path(config.work_dir or Path("work_dirs") / (config.name or "unnamed"))
    rows, report, held_out = shared_rows(config, tokenizer, accelerator, work_dir, progress)
    plan = plan_steps(len(rows), config, processes)
    outlook, work, speed = look_ahead(config, model, rows, plan, accelerator)
    engine = make_engine(model, config, len(plan), accelerator, deepspeed=deepspeed, fsdp=fsdp)
    work_dir.mkdir(parents=True, exist_ok=True)
    history = History(describe(config, model, accelerator), path=work_dir / "history.jsonl" if first else None)
    history.meta |= {"steps": len(plan), "data_report": str(report), "data": data_fingerprint(rows)}
    history.meta |= {"engine": engine.kind, "operations_per_second": speed}
    if first and on_start is not None:
        on_start(outlook)
    path = (latest(work_dir) if resume is True else Path(resume)) if resume else None
    done = 0
    if path is not None:
        state = open_checkpoint(path, config, history.meta["data"], processes)
        engine.restore(path, state)
        roll(state["dice"])
        done = state["step"]
        history.checkpoint = path
    history.start(after=done)
    if first:
        (work_dir / f"{config.name or 'config'}.py").write_text(render(config), encoding="utf-8")
    pad = pad_id(tokenizer)
    mine = share(plan[done:], row_costs(rows), processes, accelerator.process_index, config.batch_size)
    batches = batched(rows, mine, collator(config.mode, pad), config.dataloader_num_workers, config.loss_weighting)
    saved = [path for path in numbered(work_dir) if int(path.stem[5:]) <= done]
    with (
        stop_on_sigterm() as stop,
        curves(config, work_dir if first else None) as draw,
        bar(config.name or "train", len(plan) - done, history.meta["backend"], progress) as show,
    ):
        for record in optimize(engine, batches, done, on_nonfinite=keep_in(work_dir, accelerator)):
            step = record["step"]
            used = work.operations(record["tokens"], record["squares"]) / max(record["seconds"], 1e-9)
            record["mfu"] = used / speed
            if config.evaluation_freq and step % config.evaluation_freq == 0:
                if held_out is not None:
                    record["held_out_loss"] = held_out_loss(engine, held_out, config, pad)
                if config.evaluation_inputs:
                    record["samples"] = answers(engine, tokenizer, config, pad)
            history.add(record)
            show(record)
            draw(record)
            if first and on_step is not None:
                on_step(record)
            stopping = anywhere(accelerator, stop.is_set())
            if step % config.save_steps == 0 or step == len(plan) or stopping:
                path = work_dir / f"iter_{step}.pth"
                engine.save(path, contents(engine, config, step, history))
                saved = [*(old for old in saved if old != path), path]
                while 0 < config.save_total_limit < len(saved):
                    drop(saved.pop(0), first)
                history.checkpoint = path
            if stopping:
                history.stopped = True
                break
    if processes > 1 and accelerator.is_local_main_process:
        shutil.rmtree(work_dir / f".rows-{socket.gethostname()}", ignore_errors=True)
    return history


def keep_in(work_dir: Path, accelerator: Accelerator) -> Callable[[int, list[Batch]], Path]:
    """Where batches go whose loss was not finite: ``nonfinite_step_N.pt``, to be looked at."""

    def keep(step: int, batches: list[Batch]) -> Path:
        rank = f"_rank_{accelerator.process_index}" if accelerator.num_processes > 1 else ""
        path = work_dir / f"nonfinite_step_{step}{rank}.pt"
        torch.save([{**batch.inputs, "labels": batch.labels} for batch in batches], path)
        return path

    return keep


def contents(engine: Engine, config: Config, step: int, history: History) -> dict[str, Any]:
    """What a checkpoint holds besides what the engine puts there: dice, data, and the words to understand it."""
    return {
        "dice": dice(),
        "data": history.meta["data"],
        "step": step,
        "processes": engine.accelerator.num_processes,
        "config": render(config),
        "config_name": config.name,
        "model_config": engine.bare.config.to_json_string(use_diff=False),  # type: ignore[union-attr, operator]
        "meta": {key: value for key, value in history.meta.items() if isinstance(value, (str, int))},
        "losses": history.losses,
    }


def drop(path: Path, first: bool) -> None:
    """Delete an old checkpoint, a file or a folder."""
    if first and path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif first:
        path.unlink(missing_ok=True)


def anywhere(accelerator: Accelerator, flag: bool) -> bool:
    """Whether any process says so; they must stop after the same step."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum") > 0)


class curves:
    """``draw(record)`` into ``work_dir/tensorboard`` when the config asks for it."""

    def __init__(self, config: Config, work_dir: Path | None) -> None:
        self.writer: Any = None
        if config.visualizer is not None and work_dir is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise InputError(
                    "visualizer = 'tensorboard' needs tensorboard, which is not installed; pip install tensorboard."
                ) from None
            self.writer = SummaryWriter(str(work_dir / "tensorboard"))

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        return self.draw

    def draw(self, record: dict[str, Any]) -> None:
        """The numbers of a step as curves, its answers as text."""
        if self.writer is None:
            return
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "step":
                self.writer.add_scalar(name, value, record["step"])
        for number, text in enumerate(record.get("samples", [])):
            self.writer.add_text(f"sample_{number}", text, record["step"])

    def __exit__(self, *error: object) -> None:
        if self.writer is not None:
            self.writer.close()
