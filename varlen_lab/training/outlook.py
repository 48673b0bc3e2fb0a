"""What a run will do and cost, before it starts.

Work is counted as arithmetic that is needed: six operations a weight and token (four where frozen), and for attention
the squares of document lengths, not of rows. Padding and attention across seams count for nothing, so a mode cannot
look busy by wasting.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import plural
from varlen_lab.machine.gpu import GIB
from varlen_lab.models.adapters import bytes_held, weight_count
from varlen_lab.models.building import TORCH_DTYPES, resolve_dtype
from varlen_lab.packing.trained import trained_in_rows
from varlen_lab.training.lazily import Batches, Step
from varlen_lab.training.plan import Plan, balance_lines, row_totals, trains

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel

PEAK_OPERATIONS = {  # dense half-precision operations per second as the makers print them, by a word of the name
    "H200": 989e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "4090": 165e12,
    "3090": 71e12,
    "T4": 65e12,
}
SHARED_OUT = {  # what of a model an engine divides by the processes
    "ddp": (),
    "fsdp": ("weights", "gradient", "optimizer"),
    "zero1": ("optimizer",),
    "zero2": ("gradient", "optimizer"),
    "zero3": ("weights", "gradient", "optimizer"),
}
COUNTED = 100_000  # steps in which trained tokens are looked for
USUAL_UTILISATION = 0.4  # of the peak, that a training loop reaches; the estimate of time says so

Count = TypeVar("Count", float, np.ndarray)


@dataclass(frozen=True)
class Work:
    """Operations of a model: per token through its weights, and per squared length of a document."""

    per_token: float
    per_squared_length: float

    @classmethod
    def of(cls, model: PreTrainedModel) -> Work:
        """Count a model: two operations a weight forward, two back to the inputs, two more where it is trained."""
        config = model.config
        weights = sum(weight_count(p) for p in model.parameters())
        trained = sum(weight_count(p) for p in model.parameters() if p.requires_grad)
        embedding = model.get_input_embeddings().weight
        head = model.get_output_embeddings()
        # looking a token up costs nothing; a tied matrix is still multiplied with, as the head
        tied = head is not None and head.weight is embedding
        used = weights - (0 if tied else weight_count(embedding))
        heads = getattr(config, "num_attention_heads", 0) or 1
        width = getattr(config, "head_dim", 0) or embedding.shape[1] // heads
        each = 4 + 2 * trained / weights
        # attention: two products of len^2 / 2 pairs forward, twice that backward
        return cls(each * used * active_share(config), 6.0 * layer_count(config) * heads * width)

    def operations(self, tokens: Count, sum_squared_lengths: Count) -> Count:
        """Of a number of real tokens, in documents of these lengths; of many rows at once if these are arrays."""
        return self.per_token * tokens + self.per_squared_length * sum_squared_lengths


def layer_count(config: Any) -> int:
    """Layers of a model; 1 where its config, such as one made of several, does not say: an estimate stops no run."""
    return getattr(config, "num_hidden_layers", 0) or 1


def active_share(config: Any) -> float:
    """Share of a mixture's weights that a token passes through, from its expert counts; 1 for a dense model."""
    experts = getattr(config, "n_routed_experts", None) or getattr(config, "num_local_experts", None)
    chosen = getattr(config, "num_experts_per_tok", None)
    return min(1.0, chosen / experts) if experts and chosen else 1.0


def printed_operations(name: str) -> float | None:
    """What the maker prints for a device of this name; None for one the table lacks."""
    return next((value for word, value in PEAK_OPERATIONS.items() if re.search(rf"\b{word}\b", name)), None)


def operations_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second the device could do: the printed figure of a known GPU, else a measured product."""
    half_on_cuda = device.type == "cuda" and dtype != torch.float32
    if half_on_cuda and (known := printed_operations(torch.cuda.get_device_name(device))):
        return known
    size = 768 if device.type == "cpu" else 4096
    draw = torch.Generator(device).manual_seed(0)  # the random numbers of the run are left alone
    left, right = (torch.randn(size, size, device=device, dtype=dtype, generator=draw) for _ in range(2))
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        product = left @ right
        if device.type != "cpu":
            torch.accelerator.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
        left = product / size  # each needs the one before, so none can be left out or overlap
    return best


@dataclass(frozen=True)
class Outlook:
    """A run before it starts: counts that are exact, and bytes and seconds that are estimated (``estimate``)."""

    documents: int
    rows: int
    steps: int
    epochs: float
    processes: int
    documents_per_step: float
    tokens_per_step: float
    trained_share: float
    untrained_rows: int  # without a trained token
    untrained_steps: int  # of such rows alone
    parameters: int
    trainable: int
    memory: float  # bytes of one process, estimated
    seconds: float  # estimated at USUAL_UTILISATION of the peak
    unpacked_steps: int  # the same data, a document a line, the same batch settings
    work: Work
    operations_per_second: float  # that the devices of all processes could do
    engine: str  # a word of ``engines.engine_name``
    batches: int  # of a process in a step
    balance: list[str]  # what processes wait for each other, and what the setting does not do here: sentences
    done: int = 0  # steps that were taken before, by a run that goes on

    def utilisation(self, record: dict[str, Any]) -> float:
        """The share of its devices' arithmetic that a step used; ``record``: its own, as ``History.records`` has it."""
        needed = self.work.operations(record["tokens"], record["sum_squared_lengths"])
        return needed / max(record["seconds"], 1e-9) / self.operations_per_second

    def lines(self) -> list[str]:
        """The sentences that ``train`` prints before the first step."""
        shared = f", shared out over {self.processes}," if SHARED_OUT[self.engine] and self.processes > 1 else ""
        frozen = "" if self.trainable == self.parameters else f", {self.trainable:,} of them trained"
        processes = f" in {self.processes} processes" if self.processes > 1 else ""
        change = "the same documents, unpacked, would take as many steps"
        if self.unpacked_steps != self.steps:
            ratio = self.unpacked_steps / self.steps
            change = f"unpacked it would be {plural(self.unpacked_steps, 'step')} of "
            change += f"{ratio:.1f} times fewer documents" if ratio > 1 else f"{1 / ratio:.1f} times as many documents"
        every_batch = (
            [f"{self.engine} exchanges gradients with every batch, {self.batches} times a step; zero1 does so once"]
            if self.engine in ("zero2", "zero3") and self.batches > 1
            else []
        )
        left = max(0, self.steps - self.done)
        return [
            f"{plural(self.documents, 'document')} in {plural(self.rows, 'row')}, "
            f"{self.epochs:.2g} epoch{'s' * (self.epochs != 1)}: {plural(self.steps, 'step')}{processes}",
            *([f"the run goes on behind step {self.done}: {plural(left, 'step')} left"] if self.done else []),
            f"a step has about {self.documents_per_step:.1f} documents and {self.tokens_per_step:,.0f} tokens, "
            f"{self.trained_share:.0%} of them trained on; {change}",
            *self.untrained_line(),
            f"{self.parameters:,} parameters{frozen}; expect about {size(self.memory)} a process{shared} and "
            f"{duration(self.seconds * left / max(self.steps, 1))} (at {USUAL_UTILISATION:.0%} of this device's speed)",
            *every_batch,
            *self.balance,
        ]

    def untrained_line(self) -> list[str]:
        """The rows and steps without a trained token, if there are any."""
        if not self.untrained_rows:
            return []
        about = "about " if self.steps > COUNTED else ""
        left_out = f", {about}{self.untrained_steps:,} of {plural(self.steps, 'step')} left out"
        steps = left_out if self.untrained_steps else ""
        have = "has" if self.untrained_rows == 1 else "have"
        return [
            f"{self.untrained_rows:,} of {plural(self.rows, 'row')} {have} no token to train on, the answers were cut "
            f"away or lie behind max_length{steps}"
        ]


def estimate(
    config: Config,
    model: PreTrainedModel,
    rows: Dataset,
    steps: Sequence[Step],
    accelerator: Accelerator,
    engine: str = "ddp",
) -> Outlook:
    """What a run of these steps over these rows will do, need and take; ``engine``: a word of ``engine_name``."""
    table = rows.with_format("arrow")[:]
    each, squared = row_totals(rows)
    trained = trained_in_rows(rows)
    documents = sum(len(chunk.flatten()) for chunk in table["seq_lengths"].chunks)
    tokens, processes = int(each.sum()), accelerator.num_processes
    lines = config.batch_size * config.accumulative_counts * processes  # documents of an unpacked step
    epochs = steps.epochs if isinstance(steps, Plan) else sum(map(len, Batches(steps))) / len(rows)
    work = Work.of(model)
    costs = work.operations(each, squared)
    speed = operations_per_second(accelerator.device, TORCH_DTYPES[resolve_dtype(config)]) * processes
    return Outlook(
        documents=documents,
        rows=len(rows),
        steps=len(steps),
        epochs=epochs,
        processes=processes,
        documents_per_step=documents * epochs / len(steps),
        tokens_per_step=tokens * epochs / len(steps),
        trained_share=int(trained.sum()) / tokens,
        untrained_rows=int((trained == 0).sum()),
        untrained_steps=count_untrained(steps, trained),
        parameters=sum(weight_count(p) for p in model.parameters()),
        trainable=sum(weight_count(p) for p in model.parameters() if p.requires_grad),
        memory=memory_needed(config, model, min(config.max_length, tokens / len(rows) * 2), engine, processes),
        seconds=float(costs.sum()) * epochs / speed / USUAL_UTILISATION,
        unpacked_steps=max(1, round(documents * epochs / lines)),
        work=work,
        operations_per_second=speed,
        engine=engine,
        batches=config.accumulative_counts,
        balance=balance_lines(config, len(steps), squared, costs, processes, engine),
    )


def count_untrained(steps: Sequence[Step], trained: np.ndarray) -> int:
    """Steps without a trained token; of more than ``COUNTED`` steps, as many as the first of them let expect."""
    if trained.all():
        return 0
    found = sum(not trains(step, trained) for step in steps[:COUNTED])
    return round(found * len(steps) / min(len(steps), COUNTED))


def memory_needed(config: Config, model: PreTrainedModel, row: float, engine: str = "ddp", processes: int = 1) -> float:
    """Bytes of a process: its share of weights, gradient and optimizer, activations of a batch, logits.

    ``row``: its usual tokens; ``engine``: a word of ``engine_name``, which says what is shared out. A rule of
    thumb (34 bytes a token, width and layer, 12 a logit), to tell 8 from 80 GB.
    """
    weights = sum(bytes_held(p) for p in model.parameters())
    trained = sum(bytes_held(p) for p in model.parameters() if p.requires_grad)
    momenta = trained * (2 if config.optim_type == "AdamW" else 1)
    parts: dict[str, float] = {"weights": weights, "gradient": trained, "optimizer": momenta}
    for part in SHARED_OUT[engine]:
        parts[part] /= processes
    if engine == "fsdp" and config.accumulative_counts > 1:  # whole and in fp32 in every process, until the last batch
        parts["gradient"] += 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    embedding, tokens = model.get_input_embeddings(), int(row * config.batch_size)
    layers = layer_count(model.config)
    # of a recomputed layer its input is kept, and one layer at a time is whole
    kept = layers * 2 + 34 if config.gradient_checkpointing else layers * 34
    # what runs from layer to layer is of the embedding's dtype; the rule is one of two bytes a number
    activations = tokens * embedding.weight.shape[1] * kept * embedding.weight.element_size() / 2
    return sum(parts.values()) + activations + tokens * embedding.num_embeddings * 12


def size(count: float) -> str:
    """``40 MiB``, ``3.2 GiB``."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 2 else f"{count / 2**20:.0f} MiB"


def duration(seconds: float) -> str:
    """``40 s``, ``7 min``, ``3.2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "under a second"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
