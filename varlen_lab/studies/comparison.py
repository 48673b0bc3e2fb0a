"""Three runs on the same documents: unpacked, packed without seams, packed with varlen attention.

Every optimizer step holds the same documents in all three modes, the first label of each masked, the loss summed
over the same tokens and divided by the same count, from the same weights with the same optimizer. So

* varlen and unpacked must agree up to rounding, and any larger difference is a leak;
* packed must differ, because there a token also sees other documents. Whether its loss is higher or lower is an
  experiment, not a law. From scratch, 30 steps on the built-in docstrings, it lies above varlen in 27, 12, 13 and 5
  steps on seeds 0 to 3. From a checkpoint that was trained document by document it lies above in the first six steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from varlen_lab.attention.timing import Choice
from varlen_lab.config.schema import MODES, Config
from varlen_lab.errors import InputError, unknown_choice
from varlen_lab.machine.environment import peak_memory, reset_peak_memory
from varlen_lab.models.building import build_model, resolve_device
from varlen_lab.packing.collators import PaddedCollator, split_documents, token_weights
from varlen_lab.packing.registry import IGNORE
from varlen_lab.training.checkpoint import History, read_checkpoint
from varlen_lab.training.data import load_rows, load_tokenizer, pad_id
from varlen_lab.training.determinism import repeatable
from varlen_lab.training.engines import Engine, describe, load_trained_weights, make_accelerator, make_engine
from varlen_lab.training.kernel import decide_kernel
from varlen_lab.training.monitoring import progress_bar
from varlen_lab.training.outlook import Work
from varlen_lab.training.plan import Step, plan_steps, row_totals
from varlen_lab.training.step import Batch, backward, batched, collator, optimize

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_STEPS = 30
UNPACKED_BATCH = 8  # documents a padded batch of the unpacked baseline holds, drawn at random from the step's
ROUNDING = 1e-5  # differences up to here are rounding of a float32 run
HALF_ROUNDING = 2e-3  # the same in bf16 and fp16, as a share of the loss: they keep 8 and 11 bits


@dataclass(frozen=True)
class Comparison:
    """The histories of the modes, by name; ``losses[mode]`` is a list with one mean loss per step."""

    histories: dict[str, History]
    cosines: dict[str, float] = field(default_factory=dict)  # of the first step's gradient with the first mode's
    start: str | None = None  # the checkpoint all modes began with; None: from the config's own weights

    @property
    def losses(self) -> dict[str, list[float]]:
        """Mean loss per trained token of each step, for each mode."""
        return {mode: history.losses for mode, history in self.histories.items()}

    def difference(self, mode: str, base: str = "unpacked") -> list[float]:
        """Paired differences ``mode - base``, step by step."""
        return [a - b for a, b in zip(self.losses[mode], self.losses[base], strict=True)]

    def rounding_from(self, mode: str = "varlen", base: str = "unpacked") -> int | None:
        """The first step whose difference exceeds ``tolerance``: from there on rounding has grown up, or it leaks.

        Training is chaotic: two exact runs drift apart after enough steps, because floats are summed in another order.
        """
        limits = self.tolerance(base)
        pairs = zip(self.difference(mode, base), limits, strict=True)
        return next((step for step, (gap, limit) in enumerate(pairs, start=1) if abs(gap) > limit), None)

    def tolerance(self, base: str = "unpacked") -> list[float]:
        """What rounding may do to the loss of each step, in the precision of the run."""
        if self.histories[base].meta["dtype"] == "fp32":
            return [ROUNDING] * len(self.losses[base])
        return [HALF_ROUNDING * abs(loss) for loss in self.losses[base]]

    @property
    def kernel(self) -> Choice | None:
        """The receipt of varlen's kernel; None when that mode was not run."""
        found = self.histories["varlen"].meta.get("kernel_choice") if "varlen" in self.histories else None
        return Choice(**found) if found else None

    @property
    def caption(self) -> str:
        """What the numbers were measured on, in one line."""
        meta = next(iter(self.histories.values())).meta
        kernel = self.histories["varlen"].meta["backend"] if "varlen" in self.histories else meta["backend"]
        return f"{meta['config']} · varlen backend {kernel} · {meta['device']} · {meta['dtype']} · seed {meta['seed']}"

    def table(self) -> list[dict[str, Any]]:
        """One row a mode: losses, real tokens a second, padding share, backend, distance to unpacked."""
        base = "unpacked" if "unpacked" in self.histories else next(iter(self.histories))
        return [
            {
                "mode": mode,
                "first loss": history.losses[0],
                "last loss": history.losses[-1],
                f"max |Δ| to {base}": max(map(abs, self.difference(mode, base))),
                "gradient cosine": self.cosines.get(mode, float("nan")),
                "real tokens/s": history.tokens_per_second,
                "CPU seconds": history.total("cpu_seconds"),
                "peak MiB": round(history.meta.get("peak_memory", 0) / 2**20),
                "padding": history.padding_share,
                "backend": history.meta["backend"],
            }
            for mode, history in self.histories.items()
        ]

    def to_json(self) -> str:
        """Everything, for a file."""
        runs = {mode: {"meta": h.meta, "records": h.records} for mode, h in self.histories.items()}
        return json.dumps({"runs": runs, "table": self.table(), "verdict": self.verdict()}, indent=1)

    def packed_verdict(self) -> str:
        """What leaving the seams out did, and what it started from; empty when it was not run."""
        if not {"packed", "varlen"} <= set(self.histories):
            return ""
        gaps = self.difference("packed", "varlen")
        above, head = sum(gap > 0 for gap in gaps), gaps[:6]
        if self.start is None:
            return (
                f"packed without seams is another training: above varlen in {above} of {len(gaps)} steps. From "
                "scratch this count depends on the seed; --from CHECKPOINT shows what a trained model loses"
            )
        return (
            f"packed without seams, going on from {self.start}: above varlen in {sum(gap > 0 for gap in head)} of the "
            f"first {len(head)} steps, by {sum(head) / len(head):.3f} on average; later the model gets used to it"
        )

    def verdict(self) -> str:
        """What the differences say, in a sentence."""
        if not {"unpacked", "varlen"} <= set(self.histories):
            return "unpacked and varlen were not both run, there is nothing to prove"
        start, steps = self.rounding_from(), len(self.losses["varlen"])
        worst = max(map(abs, self.difference("varlen")))
        if start is None:
            return f"varlen equals unpacked in all {steps} steps: the largest difference is {worst:.1e}"
        return (
            f"varlen equals unpacked within {max(self.tolerance()):.0e} up to step {start - 1} of {steps}; "
            f"from step {start} on rounding takes over (largest difference {worst:.1e})"
            if start > 1
            else f"varlen differs from unpacked at the first step, by {self.difference('varlen')[0]:.1e}: it leaks"
        )


def compare(
    config: Config,
    modes: Sequence[str] = MODES,
    *,
    start: str | Path | None = None,
    progress: bool = False,
    kernel: Choice | None = None,
) -> Comparison:
    """Run the modes on the same documents per step; 30 steps unless ``config.max_steps`` says otherwise.

    ``start``: an ``iter_N.pth`` whose weights all modes begin with. A model that was trained document by document shows
    at once what taking its seams away does; from scratch it has nothing to lose yet.
    ``kernel``: the receipt of an earlier comparison, whose kernel is used again.
    Only the cache of the data is written. InputError for a mode that does not exist, a checkpoint that does not fit.
    """
    check_modes(modes)
    config = config.with_mode("varlen").replace(max_steps=config.max_steps or DEFAULT_STEPS)
    if config.method != "full":
        config = config.replace(lora_dropout=0.0)  # the modes would draw different random numbers
    tokenizer = load_tokenizer(config)
    rows, _ = load_rows(config, tokenizer, progress=progress)
    # a model of its own, if any: those of the modes come one at a time, when the steps are known
    costs = Work.of(build_model(config)).operations(*row_totals(rows)) if config.balance == "window" else None
    steps = plan_steps(len(rows), config, costs=costs)
    weights = read_checkpoint(start)["model"] if start is not None else None
    histories: dict[str, History] = {}
    gradients: dict[str, torch.Tensor] = {}
    with repeatable(config.deterministic, resolve_device(config)):
        for mode in modes:
            accelerator = make_accelerator(config)
            run = config.with_mode(mode)
            model = build_model(run)
            if weights is not None:
                load_start_weights(model, weights, start)
            choice = decide_kernel(run, model, rows, steps, accelerator, kernel)
            histories[mode] = History(describe(run, model, accelerator, choice))
            engine = make_engine(model, run, len(steps), accelerator)
            gradients[mode] = first_gradient(engine, next(batches_of(mode, rows, steps[:1], tokenizer, config)))
            take_steps(engine, batches_of(mode, rows, steps, tokenizer, config), histories[mode], len(steps), progress)
    cosines = {mode: float(torch.cosine_similarity(gradients[modes[0]], one, dim=0)) for mode, one in gradients.items()}
    return Comparison(histories, cosines, None if start is None else str(start))


def check_modes(modes: Sequence[str]) -> None:
    """InputError for a mode that does not exist, and for none at all."""
    for mode in modes:
        if mode not in MODES:
            raise unknown_choice("mode", mode, MODES)
    if not modes:
        raise InputError(f"no mode was named, choose from {', '.join(MODES)}.")


def take_steps(engine: Engine, batches: Iterator[list[Batch]], history: History, steps: int, progress: bool) -> None:
    """Train one mode; its records and the peak of its memory go into ``history``."""
    reset_peak_memory()
    with progress_bar(f"{history.meta['mode']:8}", steps, 0, progress) as bar:
        for record in optimize(engine, batches):
            history.add(record)
            bar.set_postfix_str(history.status, refresh=False)
            bar.update()
    history.meta["peak_memory"] = peak_memory()


def batches_of(mode: str, rows: Dataset, steps: list[Step], tokenizer: Any, config: Config) -> Iterator[list[Batch]]:
    """The batches of a mode, step by step."""
    if mode == "unpacked":
        return unpacked_batches(rows, steps, pad_id(tokenizer), config.seed, config.loss_weighting)
    collate = collator(mode, pad_id(tokenizer))
    return batched(rows, steps, collate, config.dataloader_num_workers, config.loss_weighting)


def first_gradient(engine: Engine, batches: list[Batch]) -> torch.Tensor:
    """The gradient of a step's mean loss over all weights, float64, end to end; the model is left without one."""
    engine.model.train()
    trained = sum((batch.labels != IGNORE).sum() for batch in batches)
    backward(engine, [batch.to(engine.accelerator.device) for batch in batches], torch.as_tensor(trained))
    found = [p.grad.flatten().cpu().double() for p in engine.model.parameters() if p.grad is not None]
    engine.optimizer.zero_grad()
    return torch.cat(found)


def load_start_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], start: str | Path | None) -> None:
    """Load a checkpoint's weights; InputError when they are another model's."""
    try:
        load_trained_weights(model, weights)
    except RuntimeError:
        raise InputError(
            f"the weights of {start} do not fit the model of this config; pass the config it was trained with."
        ) from None


def unpacked_batches(
    rows: Dataset, steps: list[Step], pad_token_id: int, seed: int, weighting: str = "token"
) -> Iterator[list[Batch]]:
    """The documents of each step's rows, ``UNPACKED_BATCH`` at a time on lines of their own.

    They are shuffled first: packing put them in order of length, which would save the baseline its padding.
    """
    collate = PaddedCollator(pad_token_id)
    for number, step in enumerate(steps):
        documents = [document for batch in step for row in batch for document in documents_of(rows[row], weighting)]
        np.random.default_rng([seed, number]).shuffle(documents)
        yield [
            Batch.of(documents[i : i + UNPACKED_BATCH], collate, weighting)
            for i in range(0, len(documents), UNPACKED_BATCH)
        ]


def documents_of(row: dict[str, Any], weighting: str) -> list[dict[str, Any]]:
    """The documents of a row, each with the weights its tokens have in that row."""
    weights = np.split(token_weights(row, weighting), np.cumsum(row["seq_lengths"])[:-1])
    return [
        {"input_ids": ids, "labels": labels, "weights": one}
        for (ids, labels), one in zip(split_documents(row), weights, strict=True)
    ]
