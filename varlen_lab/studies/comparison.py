"""Three runs on the same documents: unpacked, packed without seams, packed with varlen attention.

Every optimizer step holds the same documents in all three modes, the first label of each masked, the loss summed
over the same tokens and divided by the same count, from the same weights with the same optimizer. So

* varlen and unpacked must agree up to rounding, and any larger difference is a leak: before the first step the model is
  checked as before any training, and gradients and logits of the whole step are compared with documents alone; when
  losses drift apart later, it is rounding only if two unpacked runs do (``verdict``), and the step is compared again
  after the last;
* packed must differ, because there a token also sees other documents. Whether its loss is higher or lower is an
  experiment, not a law. From scratch, 30 steps on the built-in docstrings, it lies above varlen in 27, 12, 13 and 5
  steps on seeds 0 to 3. From a checkpoint that was trained document by document it lies above in the first six steps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from varlen_lab.attention.guard import lifted
from varlen_lab.attention.timing import Choice
from varlen_lab.config.schema import MODES, Config
from varlen_lab.errors import InputError, of_kind, unknown_choice
from varlen_lab.leaks.before import as_found, leak_found
from varlen_lab.leaks.causes import keeps_apart
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.measure import Parity
from varlen_lab.leaks.precision import certified
from varlen_lab.leaks.running import noise_off
from varlen_lab.machine.environment import peak_memory, reset_peak_memory
from varlen_lab.models.building import build_model, resolve_device
from varlen_lab.models.miniature import scale_weights
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.collators import PaddedCollator, split_documents, token_weights
from varlen_lab.packing.registry import IGNORE
from varlen_lab.packing.trained import trained_in_rows
from varlen_lab.studies.verdict import Comparison, FirstStep, differences
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.data import load_rows, load_tokenizer, pad_id
from varlen_lab.training.determinism import repeatable
from varlen_lab.training.engines import Engine, describe, load_trained_weights, make_accelerator, make_engine
from varlen_lab.training.history import History
from varlen_lab.training.kernel import decide_kernel
from varlen_lab.training.lazily import Step
from varlen_lab.training.leak_check import as_trained, check_in_first_process, in_a_sentence
from varlen_lab.training.limits import check_limits_of_modes
from varlen_lab.training.monitoring import progress_bar
from varlen_lab.training.outlook import Work
from varlen_lab.training.plan import plan_steps, row_totals, trains
from varlen_lab.training.step import Batch, backward, batched, collator, optimize

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_STEPS = 30
UNPACKED_BATCH = 8  # documents a padded batch of the unpacked baseline holds, drawn at random from the step's
ALONE = 1  # where documents of a padded batch hear one another
CONTROL_BATCH = 3  # of the control, which sums in another order


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
    Only the cache of the data is written. InputError for a mode that does not exist, a checkpoint that does not fit;
    LeakFound, before the first step or after the last, when varlen does not keep documents apart.
    """
    of_kind("config", config, Config, "a Config", "load_config makes one of a file or a name")
    check_modes(modes)
    config = config.with_mode("varlen").replace(max_steps=config.max_steps or DEFAULT_STEPS)
    if config.method != "full":
        config = config.replace(lora_dropout=0.0)  # the modes would draw different random numbers
    tokenizer = load_tokenizer(config)
    rows, _ = load_rows(config, tokenizer, progress=progress)
    # a model of its own, if any: those of the modes come one at a time, when the steps are known
    costs = Work.of(build_model(config)).operations(*row_totals(rows)) if config.balance == "window" else None
    steps = plan_steps(len(rows), config, costs=costs)
    for notice in check_limits_of_modes(config, modes, rows, steps, tokenizer, UNPACKED_BATCH):
        warnings.warn(notice, stacklevel=1)
    weights = read_checkpoint(start, "model")["model"] if start is not None else None
    bench = Bench(config, tokenizer, rows, steps, None if start is None else str(start), weights, kernel, progress)
    with repeatable(config.deterministic, resolve_device(config)):
        # varlen first: a model that leaks is told before any step
        for mode in sorted(modes, key=lambda mode: mode != "varlen"):
            bench.run(mode)
        found = bench.found(modes)
        both = {"unpacked", "varlen"} <= set(modes)
        if both and found.rounding_from() == 1 and "isolated" in found.histories["varlen"].meta:
            # what mixes a row may mix a padded batch as well, and varlen was compared with documents alone
            bench.run("unpacked", ALONE)
            found = bench.found(modes)
        if both and (found.rounding_from() or 1) > 1:
            control = bench.run("unpacked", CONTROL_BATCH)
            found = replace(found, control=differences(control, bench.histories["unpacked"]))
    return found


@dataclass
class Bench:
    """What all modes of a comparison share, and what came out of those that were run."""

    config: Config
    tokenizer: Any
    rows: Dataset
    steps: Sequence[Step]
    start: str | None
    weights: dict[str, torch.Tensor] | None
    kernel: Choice | None
    progress: bool
    histories: dict[str, History] = field(default_factory=dict)
    gradients: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    first: FirstStep | None = None

    def run(self, mode: str, unpacked_batch: int = UNPACKED_BATCH) -> History:
        """Train in a mode, or LeakFound before its first step; with ``CONTROL_BATCH`` a control, not kept."""
        config = self.config.with_mode(mode)
        accelerator, model = make_accelerator(self.config), build_model(config)
        if self.weights is not None:
            load_start_weights(model, self.weights, self.start)
        choice = decide_kernel(config, model, self.rows, self.steps, accelerator, self.kernel)
        checked = check_in_first_process(config, model, self.rows, self.steps, accelerator)
        history = History(describe(config, model, accelerator, choice) | checked)
        if checked and checked["leak_check"]["ok"]:
            self.first = self.prove(config, model, accelerator)
        engine = make_engine(model, config, len(self.steps), accelerator)
        with in_a_sentence(model, accelerator.device):
            gradient = first_gradient(engine, next(self.batches(mode, [next(self.trained_steps())], unpacked_batch)))
        take_steps(engine, self.batches(mode, self.steps, unpacked_batch), history, len(self.steps), self.progress)
        if mode == "varlen" and self.first is not None:
            # the proof needs room for gradients; the optimizer's two numbers a weight are not needed any more
            del engine
            accelerator.free_memory()
            # what begins to leak on the way is as well hidden from the loss
            self.prove(config, model, accelerator, taken=len(self.steps))
        if unpacked_batch == ALONE:
            history.meta["one_at_a_time"] = True
        if unpacked_batch != CONTROL_BATCH:
            self.histories[mode], self.gradients[mode] = history, gradient
        return history

    def prove(self, config: Config, model: Any, accelerator: Any, taken: int = 0) -> FirstStep | None:
        """The first step with a seam against documents alone, scaled where weights are random; None without a seam.

        ``taken``: the steps before it, for the words of LeakFound. A step without a trained token has no gradients.
        """
        step = next((step for step in self.trained_steps() if self.has_seam(step)), None)
        if step is None:
            return None
        scaled = config.pretrained_model_name_or_path is None and self.weights is None
        collate, device = collator("varlen", pad_id(self.tokenizer)), accelerator.device
        with as_trained(config, model, accelerator, back=False):
            proof = first_step(model, self.rows, step, collate, device, scaled=scaled, taken=taken)
        return proof and replace(proof, number=self.steps.index(step) + 1)

    def has_seam(self, step: Step) -> bool:
        """Whether a row of the step holds several documents."""
        return any(len(self.rows[row]["seq_lengths"]) > 1 for row in chain(*step))

    def trained_steps(self) -> Iterator[Step]:
        """The steps that hold a trained token: at least one, ``check_limits_of_modes`` has seen to it."""
        trained = trained_in_rows(self.rows)
        return (step for step in self.steps if trains(step, trained))

    def batches(self, mode: str, steps: Sequence[Step], unpacked_batch: int) -> Iterator[list[Batch]]:
        """The batches of a mode, step by step."""
        config, pad = self.config, pad_id(self.tokenizer)
        if mode == "unpacked":
            return unpacked_batches(self.rows, steps, pad, config.seed, config.loss_weighting, unpacked_batch)
        return batched(self.rows, steps, collator(mode, pad), config.dataloader_num_workers, config.loss_weighting)

    def found(self, modes: Sequence[str]) -> Comparison:
        """The comparison of the modes that were run, in this order."""
        base = self.gradients[modes[0]]
        cosines = {mode: cosine(base, self.gradients[mode]) for mode in modes}
        return Comparison({mode: self.histories[mode] for mode in modes}, cosines, self.start, self.first)


def first_step(
    model: Any,
    rows: Dataset,
    step: Sequence[Sequence[int]],
    collate: Callable[[list[Any]], dict[str, Any]],
    device: torch.device,
    *,
    scaled: bool,
    taken: int = 0,
) -> FirstStep | None:
    """Compare the documents of a step's ``rows`` with each alone; LeakFound, with the audit's words, when they differ.

    ``model`` computes on ``device`` as it will in training, and is left as it was found, ``scaled`` weights too. None
    where it gives NaN, of which the training loop speaks.
    """
    logits, gradients, documents, tokens, precise = 0.0, 0.0, 0, 0, False
    with weights_that_matter(model) if scaled else as_found(model), lifted():
        model.train()
        for numbers in step:
            chosen = [rows[number] for number in numbers]
            # from the rows, not from the batch: a collator may lose a seam
            lengths = [length for row in chosen for length in row["seq_lengths"]]
            batch = Batch.of(chosen, collate).to(device)
            inputs = {**batch.inputs, "labels": batch.labels, "use_cache": False}  # as the step passes it
            found, again = agreement(model, inputs, Boundaries.from_lengths(lengths, device), taken)
            if found.has_nan:
                return None
            logits = max(logits, found.logits / max(1.0, found.logit_scale))
            gradients = max(gradients, found.gradients / max(1e-3, found.gradient_scale))
            documents, tokens, precise = documents + len(lengths), tokens + int(sum(lengths)), precise or again
    return FirstStep(logits, gradients, documents, tokens, scaled, precise=precise)


def agreement(model: Any, batch: dict[str, Any], documents: Boundaries, taken: int = 0) -> tuple[Parity, bool]:
    """Packed against alone, and whether it had to be told in float32; LeakFound where the difference is no rounding."""
    with noise_off(model):
        found = certified(model, batch, documents)
        right = found.parity.has_nan or keeps_apart(model, batch, documents, found)
    if not right:
        report = audit(model, batch, boundaries=documents)
        if not report.ok:
            raise leak_found(model, report, taken)
        return report.parity, True
    return found.parity, found.half is not None


@contextmanager
def weights_that_matter(model: torch.nn.Module) -> Iterator[None]:
    """Scaled weights while it lasts; afterwards the same bits as before."""
    kept = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    with as_found(model):
        try:
            scale_weights(model)
            yield
        finally:
            with torch.no_grad():
                for parameter, before in kept:
                    parameter.copy_(before)


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


def first_gradient(engine: Engine, batches: list[Batch]) -> list[torch.Tensor]:
    """The gradient of a step's mean loss, a tensor a weight, on the CPU; the model is left without one."""
    engine.model.train()
    trained = sum((batch.labels != IGNORE).sum() for batch in batches)
    backward(engine, [batch.to(engine.accelerator.device) for batch in batches], torch.as_tensor(trained))
    # in the width of the weights: three modes of a real model in float64 would take more room than its training
    found = [p.grad.detach().cpu().clone() for p in engine.model.parameters() if p.grad is not None]
    engine.optimizer.zero_grad()
    return found


def cosine(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Of the angle between two gradients; added up in float64, a weight at a time."""

    def product(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
        return sum(float(x.flatten().double() @ y.flatten().double()) for x, y in zip(a, b, strict=True))

    lengths = math.sqrt(product(one, one) * product(other, other))
    return product(one, other) / lengths if lengths else 0.0


def load_start_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], start: str | Path | None) -> None:
    """Load a checkpoint's weights; InputError when they are another model's."""
    try:
        load_trained_weights(model, weights)
    except RuntimeError:
        raise InputError(
            f"the weights of {start} do not fit the model of this config; pass the config it was trained with."
        ) from None


def unpacked_batches(
    rows: Dataset,
    steps: Sequence[Step],
    pad_token_id: int,
    seed: int,
    weighting: str = "token",
    size: int = UNPACKED_BATCH,
) -> Iterator[list[Batch]]:
    """The documents of each step's rows, ``size`` at a time on lines of their own.

    They are shuffled first: packing put them in order of length, which would save the baseline its padding.
    """
    collate = PaddedCollator(pad_token_id)
    for number, step in enumerate(steps):
        documents = [document for batch in step for row in batch for document in documents_of(rows[row], weighting)]
        np.random.default_rng([seed, number]).shuffle(documents)
        yield [Batch.of(documents[i : i + size], collate, weighting) for i in range(0, len(documents), size)]


def documents_of(row: dict[str, Any], weighting: str) -> list[dict[str, Any]]:
    """The documents of a row, each with the weights its tokens have in that row."""
    weights = np.split(token_weights(row, weighting), np.cumsum(row["seq_lengths"])[:-1])
    return [
        {"input_ids": ids, "labels": labels, "weights": one}
        for (ids, labels), one in zip(split_documents(row), weights, strict=True)
    ]
