"""From a config to the parts of a run: device and processes, model, rows, engine."""

from __future__ import annotations

import platform
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.machine.gpu import gpu_facts, why_unusable
from varlen_lab.machine.launch import first_alone
from varlen_lab.models.building import DTYPES, automatic_backend, resolve_dtype, weight_dtype
from varlen_lab.training.data import load_parts
from varlen_lab.training.engines import Engine, ShardedEngine
from varlen_lab.training.engines.zero import ZeroEngine, zero_settings
from varlen_lab.training.plan import USUAL_SHARE, Outlook, Step, Work, memory_needed, operations_per_second

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from varlen_lab.packing.strategies import PackReport


def make_accelerator(config: Config) -> Accelerator:
    """Device, precision and processes of the run. InputError when it asks for a GPU that is not there."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if config.device == "cuda" and (why := why_unusable(gpu_facts())):
        raise InputError(f"device = 'cuda' cannot be had: {why}; or set device = 'auto'.")
    AcceleratorState._reset_state(reset_partial_state=True)  # a notebook may train on the CPU, then on the GPU
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    # bf16 is the engine's: it needs no loss scale
    return Accelerator(cpu=cpu, mixed_precision="fp16" if resolve_dtype(config) == "fp16" else "no")


def make_engine(
    model: torch.nn.Module,
    config: Config,
    steps: int,
    accelerator: Accelerator,
    *,
    deepspeed: str | None = None,
    fsdp: bool = False,
) -> Engine:
    """The engine that was asked for. InputError when it needs processes that are not there."""
    if deepspeed and fsdp:
        raise InputError("--deepspeed and --fsdp were both given, they are two ways to do the same; choose one.")
    precision = resolve_dtype(config)
    if not deepspeed and not fsdp:
        return Engine(model, config, steps, accelerator, precision)
    if not torch.distributed.is_initialized():
        word = f"--deepspeed {deepspeed}" if deepspeed else "--fsdp"
        raise InputError(
            f"{word} shares a model out over processes and this is only one; start it with NPROC_PER_NODE=2, torchrun "
            "or --launcher slurm, or drop the flag."
        )
    if deepspeed and not config.master_weights:
        raise InputError("master_weights = False was set, DeepSpeed keeps fp32 weights of its own; remove one of them.")
    if config.method == "qlora":
        raise InputError("method = 'qlora' keeps weights in four bits, which are not shared out; drop the flag.")
    if deepspeed:
        return ZeroEngine(model, config, steps, accelerator, precision, zero_settings(deepspeed))
    return ShardedEngine(model, config, steps, accelerator, precision)


def shared_rows(
    config: Config, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator, work_dir: Path, progress: bool
) -> tuple[Dataset, PackReport | None, Dataset | None]:
    """Rows, report and held-out rows: made by the first process of a machine and read from disk by the others."""
    if accelerator.num_processes == 1:
        return load_parts(config, tokenizer, progress=progress)
    from datasets import Dataset

    folder = work_dir / f".rows-{socket.gethostname()}"

    def work() -> tuple[Dataset, PackReport | None, Dataset | None]:
        if not accelerator.is_local_main_process:
            found = [Dataset.from_file(str(path)).with_format("numpy") for path in sorted(folder.iterdir())]
            return found[0], None, found[1] if len(found) > 1 else None
        rows, report, held_out = load_parts(config, tokenizer, progress=progress)
        shutil.rmtree(folder, ignore_errors=True)
        for name, part in (("0", rows), ("1", held_out)):
            if part is not None:
                write_rows(folder / name, part)
        return rows, report, held_out

    return first_alone(accelerator, work)


def write_rows(path: Path, rows: Dataset) -> None:
    """One Arrow file, without the bar that ``save_to_disk`` cannot leave out."""
    import pyarrow as pa

    table = rows.with_format("arrow")[:]
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


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
        "weights": str(weight_dtype(config)).removeprefix("torch."),
        "seed": config.seed,
        "method": config.method,
        "loss_weighting": config.loss_weighting,
        "processes": accelerator.num_processes,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }


def look_ahead(
    config: Config, model: PreTrainedModel, rows: Dataset, steps: list[Step], accelerator: Accelerator
) -> tuple[Outlook, Work, float]:
    """What the run will do and cost, its work per token, and the operations a second its processes could do."""
    import numpy as np

    table = rows.with_format("arrow")[:]
    lengths = table["seq_lengths"].combine_chunks()
    flat = lengths.flatten().to_numpy().astype(np.int64)
    trained = int((table["labels"].combine_chunks().flatten().to_numpy() != -100).sum())
    tokens, squares, documents = int(flat.sum()), float((flat**2).sum()), len(flat)
    taken = sum(len(batch) for step in steps for batch in step) / len(rows)  # epochs
    processes = accelerator.num_processes
    work = Work.of(model)
    speed = operations_per_second(accelerator.device, DTYPES[resolve_dtype(config)]) * processes
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    parameters = sum(p.numel() for p in model.parameters())
    row_tokens = int(min(config.max_length, tokens / len(rows) * 2) * config.batch_size)
    momenta = 2 if config.optim_type == "AdamW" else 1
    each = torch.finfo(weight_dtype(config)).bits
    bits = 4 if config.method == "qlora" else each
    lines = config.batch_size * config.accumulative_counts * processes
    outlook = Outlook(
        documents=documents,
        rows=len(rows),
        steps=len(steps),
        epochs=taken,
        processes=processes,
        documents_per_step=documents * taken / len(steps),
        tokens_per_step=tokens * taken / len(steps),
        trained_share=trained / tokens,
        parameters=parameters,
        trainable=trainable,
        memory=memory_needed(
            parameters, trainable * each // 8, momenta, row_tokens, model, config.gradient_checkpointing, bits
        ),
        seconds=work.operations(tokens * taken, squares * taken) / speed / USUAL_SHARE,
        unpacked_steps=max(1, round(documents * taken / lines)),
    )
    return outlook, work, speed
