"""One arm: a model from the same weights, trained on the same rows, judged on documents alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.models.building import build_model
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.studies.comparison import unpacked_batches
from varlen_lab.training.checkpoint import data_fingerprint
from varlen_lab.training.data import load_tokenizer, pack_rows, pad_id, tokenised_documents
from varlen_lab.training.engines import describe, make_accelerator, make_engine
from varlen_lab.training.evaluation import held_out_loss
from varlen_lab.training.plan import plan_fingerprint, plan_steps
from varlen_lab.training.step import Batch, batched, collator, optimize

if TYPE_CHECKING:
    from datasets import Dataset

# in the order in which they run: what an early end leaves out matters least
MODES = {"varlen": "varlen", "restarting": "packed", "packed": "packed", "unpacked": "unpacked"}  # arm -> its model
ARMS = tuple(MODES)
HELD_OUT = 50  # documents
CHECKS = 3  # of the held-out loss after the one before the first step, evenly through the run


class Material(NamedTuple):
    """What the arms of all seeds share: rows to train on and documents held out, one a row."""

    rows: Dataset
    held_out: Dataset
    pad: int
    facts: dict[str, Any]  # sizes and fingerprints, for the record


def the_config(model: str, data: str, max_length: int, steps: int, lr: float) -> Config:
    """A full fine-tune in fp32 on the CPU, a row a step, the tokenizer's own template."""
    return Config(
        pretrained_model_name_or_path=model,
        data_path=data,
        prompt_template="tokenizer",
        max_length=max_length,
        batch_size=1,
        accumulative_counts=1,
        max_steps=steps,
        lr=lr,
        evaluation_freq=0,
        dtype="fp32",
        device="cpu",
        name="real_effect",
    )


def load_material(config: Config, held_out: int = HELD_OUT) -> Material:
    """Rows of all documents but ``held_out`` drawn ones, the same for every seed. InputError for too few."""
    tokenizer = load_tokenizer(config)
    documents = tokenised_documents(config, tokenizer)
    if len(documents) < 2 * held_out:
        raise InputError(
            f"{config.data_path!r} has {len(documents)} documents and {held_out} are held out; bring more, or lower "
            "--held-out."
        )
    order = np.random.default_rng(0).permutation(len(documents))
    alone, _ = pack_rows(documents.select(np.sort(order[:held_out])), config.with_mode("unpacked"))
    rows, report = pack_rows(documents.select(np.sort(order[held_out:])), config.with_mode("varlen"))
    facts = {
        "packing": str(report),
        "rows": len(rows),
        "rows_fingerprint": data_fingerprint(rows),
        "held_out": held_out,
        "held_out_fingerprint": data_fingerprint(alone),
    }
    return Material(rows, alone, pad_id(tokenizer), facts)


def without_isolation(features: list[Any]) -> dict[str, Any]:
    """Rows end to end whose ``position_ids`` restart, with a mask of ones: every token sees the whole row before it.

    The mask does what a cache does: transformers finds documents from restarting positions only without either.
    """
    batch = VarlenCollator()(features)
    kept = {name: batch[name] for name in ("input_ids", "labels", "position_ids")}
    return kept | {"attention_mask": torch.ones_like(batch["input_ids"])}


def collate_of(arm: str, pad: int) -> Callable[[list[Any]], dict[str, Any]]:
    """The collator of an arm."""
    return without_isolation if arm == "restarting" else collator(MODES[arm], pad)


def steps_of(arm: str, material: Material, config: Config) -> Iterator[list[Batch]]:
    """The batches of each step: the same rows in every arm, a document at a time where it is ``unpacked``."""
    plan = plan_steps(len(material.rows), config)
    if arm == "unpacked":
        return unpacked_batches(material.rows, plan, material.pad, config.seed, size=1)
    return batched(material.rows, plan, collate_of(arm, material.pad))


def checks_of(steps: int) -> set[int]:
    """The steps after which the held-out loss is asked for, 0 and the last among them."""
    return {round(steps * part / CHECKS) for part in range(CHECKS + 1)}


def run_arm(arm: str, seed: int, config: Config, material: Material, say: Callable[[str], None]) -> dict[str, Any]:
    """Train one arm on the rows that ``seed`` draws; its losses by step, and of held-out documents alone by step."""
    begin, cpu = time.perf_counter(), time.process_time()
    config = config.replace(seed=seed).with_mode(MODES[arm])
    accelerator, model = make_accelerator(config), build_model(config)
    engine = make_engine(model, config, config.max_steps or 1, accelerator)
    # a document a batch in every arm, so that all are asked in the same way
    alone = config.with_mode("unpacked")
    checks, found, records = checks_of(config.max_steps or 1), {}, []

    def check(step: int) -> None:
        if step in checks:
            found[step] = held_out_loss(engine, material.held_out, alone, material.pad)
            say(
                f"seed {seed}, {arm}: step {step}, held-out loss {found[step]:.4f}, {time.perf_counter() - begin:.0f} s"
            )

    check(0)
    for record in optimize(engine, steps_of(arm, material, config)):
        records.append(record)
        check(record["step"])
    return {
        "arm": arm,
        "seed": seed,
        "held_out": found,
        "loss": [record["loss"] for record in records],
        "trained_tokens": [record["trained_tokens"] for record in records],
        "tokens": [record["tokens"] for record in records],
        "plan": plan_fingerprint(plan_steps(len(material.rows), config)),
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - cpu,
        "measured_on": describe(config, model, accelerator) | {"threads": torch.get_num_threads()},
    }


def quarters(losses: Sequence[float]) -> list[float]:
    """Means of four equal parts of a run, in its order."""
    return [float(part.mean()) for part in np.array_split(np.asarray(losses), min(4, len(losses)))]
