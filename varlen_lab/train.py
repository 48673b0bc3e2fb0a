"""``train(config)``: from a config to checkpoints. A step is in ``loop``, what goes into it in ``batches``."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab import checkpoint
from varlen_lab.audit.measure import noise_of
from varlen_lab.batches import Batch, attention_name, batched, collator, load_rows, load_tokenizer, plan_steps
from varlen_lab.config import Config, render
from varlen_lab.errors import InputError
from varlen_lab.history import History
from varlen_lab.loop import Engine, make_engine, optimize
from varlen_lab.models import automatic_backend, from_scratch, load_model
from varlen_lab.progress import bar
from varlen_lab.resume import data_fingerprint, latest, numbered, open_checkpoint, position, restore, stop_on_sigterm

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # accelerate's words


def train(
    config: Config,
    *,
    progress: bool = True,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    resume: bool | str | Path = False,
) -> History:
    """Train as the config says; checkpoints and ``history.jsonl`` go to its work_dir.

    Returns the History of the run. ``on_step`` is called with every record, for a live plot. ``resume`` goes on from
    the newest checkpoint of the work_dir (or a given one) exactly as if the run had never stopped; without one it
    starts at step 0. SIGTERM saves and returns early. Raises InputError for bad input, for a checkpoint of another
    config or other data, and when losses stay infinite.
    """
    accelerator = make_accelerator(config)
    tokenizer = load_tokenizer(config)
    model = build_model(config)
    rows, report = load_rows(config, tokenizer, progress=progress)
    steps = plan_steps(len(rows), config)
    work_dir = Path(config.work_dir or Path("work_dirs") / (config.name or "unnamed"))
    work_dir.mkdir(parents=True, exist_ok=True)
    engine = make_engine(model, config, len(steps), accelerator)
    history = History(describe(config, model, accelerator), path=work_dir / "history.jsonl")
    data = data_fingerprint(rows)
    history.meta |= {"steps": len(steps), "data_report": str(report), "data": data}
    path = (latest(work_dir) if resume is True else Path(resume)) if resume else None
    done = 0
    if path is not None:
        state = open_checkpoint(path, config, data)
        restore(engine, state)
        done = state["step"]
        history.checkpoint = path
    history.start(after=done)
    (work_dir / f"{config.name or 'config'}.py").write_text(render(config), encoding="utf-8")
    batches = batched(rows, steps[done:], collator(config.mode, pad_id(tokenizer)), config.dataloader_num_workers)
    saved = [path for path in numbered(work_dir) if int(path.stem[5:]) <= done]
    with (
        stop_on_sigterm() as stop,
        bar(config.name or "train", len(steps) - done, history.meta["backend"], progress) as show,
    ):
        for record in optimize(engine, batches, done, on_nonfinite=keep_in(work_dir)):
            step = record["step"]
            if config.evaluation_freq and step % config.evaluation_freq == 0:
                record["samples"] = answers(model, tokenizer, config)
            history.add(record)
            show(record)
            if on_step is not None:
                on_step(record)
            if step % config.save_steps == 0 or step == len(steps) or stop.is_set():
                path = work_dir / f"iter_{step}.pth"
                checkpoint.save(path, contents(engine, config, step, history))
                saved = [*(old for old in saved if old != path), path]
                while 0 < config.save_total_limit < len(saved):
                    saved.pop(0).unlink(missing_ok=True)
                history.checkpoint = path
            if stop.is_set():
                history.stopped = True
                break
    return history


def keep_in(work_dir: Path) -> Callable[[int, list[Batch]], Path]:
    """Where batches go whose loss was not finite: ``nonfinite_step_N.pt``, to be looked at."""

    def keep(step: int, batches: list[Batch]) -> Path:
        path = work_dir / f"nonfinite_step_{step}.pt"
        torch.save([{**batch.inputs, "labels": batch.labels} for batch in batches], path)
        return path

    return keep


def make_accelerator(config: Config) -> Accelerator:
    """Device and precision of the run. InputError when it asks for a GPU that is not there, or for processes."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device = 'cuda' but PyTorch sees no GPU here; set device = 'auto', or run check-env.")
    AcceleratorState._reset_state(reset_partial_state=True)  # a notebook may train on the CPU, then on the GPU
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision=PRECISION[resolve_dtype(config)])
    if accelerator.num_processes > 1:  # every process would train on all rows: slower, and called faster
        raise InputError(
            f"{accelerator.num_processes} processes were started, training runs in one so far; "
            "start it without torchrun."
        )
    return accelerator


def resolve_dtype(config: Config) -> str:
    """``fp32``, ``bf16`` or ``fp16``. On a CPU fp32: without bf16 units bf16 is some 150 times slower."""
    if config.dtype != "auto":
        return config.dtype
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    return "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"


def build_model(config: Config) -> PreTrainedModel:
    """The model of a config, weights in fp32, with the attention of its mode and every dropout at 0.

    With dropout, packed and unpacked runs would throw different dice and could not be compared.
    """
    if config.pretrained_model_name_or_path is None:
        model = from_scratch(config.model_config or {}, attention_name(config), seed=config.seed)
    else:
        model = load_model(config.pretrained_model_name_or_path, attention_name(config))
    for module, name, _ in noise_of(model):
        setattr(module, name, 0.0)
    return model


def describe(config: Config, model: PreTrainedModel, accelerator: Accelerator) -> dict[str, Any]:
    """What the numbers of a run were measured on."""
    import transformers

    dtype = resolve_dtype(config)
    backend = f"transformers {model.config._attn_implementation}"
    if config.mode == "varlen":
        backend = config.attn_backend
        if backend == "auto":
            backend = automatic_backend(model, accelerator.device.type, DTYPES[dtype])
    gpu = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else platform.machine()
    return {
        "config": config.name,
        "mode": config.mode,
        "backend": backend,
        "device": f"{accelerator.device.type} ({gpu})",
        "dtype": dtype,
        "seed": config.seed,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }


def contents(engine: Engine, config: Config, step: int, history: History) -> dict[str, Any]:
    """What a checkpoint holds besides its format: weights, optimizer, and the words to understand them."""
    model = engine.accelerator.unwrap_model(engine.model)
    return {
        "model": model.state_dict(),
        "optimizer": engine.optimizer.state_dict(),
        **position(engine),
        "data": history.meta["data"],
        "step": step,
        "config": render(config),
        "config_name": config.name,
        "model_config": model.config.to_json_string(use_diff=False),
        "meta": {key: value for key, value in history.meta.items() if isinstance(value, (str, int))},
        "losses": history.losses,
    }


def answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Config) -> list[str]:
    """What the model says to ``evaluation_inputs`` now: greedy, at most 48 tokens."""
    from varlen_lab.documents import prompt_ids

    model.eval()
    said = []
    for question in config.evaluation_inputs:
        ids = prompt_ids(question, tokenizer, config.prompt_template, system=config.SYSTEM).to(model.device)
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=48,
                do_sample=False,
                pad_token_id=pad_id(tokenizer),
                eos_token_id=tokenizer.eos_token_id,
            )
        said.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    model.train()
    return said


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id padding is written with; it is masked everywhere, so any id serves when there is none."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
