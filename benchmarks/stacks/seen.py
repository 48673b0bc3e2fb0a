"""What a stack passes to its model in its first step, compared with every document of it alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback

from benchmarks.stacks.corpus import lengths_in
from varlen_lab.leaks.before import as_found
from varlen_lab.leaks.running import host_of

SAME = 1e-4  # of the largest logit, fp32: a row and a document alone differ in rounding by a hundredth of it
MARK, FIRST, PAD = 3, 1, 0  # ids of the built-in tokenizer: the mark of corpus.py, <s>, <pad>
OWN = "its own"  # attention of models that are not transformers', into which LeakCheck does not look
Documents = list[tuple[int, int, int]]  # row, first token, end


class Seen(NamedTuple):
    """The first batch: how many documents, and how they were computed."""

    attention: str
    documents: int
    shared: bool  # several documents in a row
    logits: float  # the largest difference to a document alone, as a share of the largest logit

    @property
    def verdict(self) -> str:
        if not self.shared:
            return "one document a row"
        return "leaks" if self.logits > SAME else "isolates"


class FirstCall(TrainerCallback):
    """Measures the first training call of a trainer's model, as ``seen``."""

    def __init__(self) -> None:
        self.seen: Seen | None = None

    def on_train_begin(self, *_: Any, model: Any = None, **more: Any) -> None:
        def look(layer: Any, _inputs: tuple[Any, ...], batch: dict[str, Any]) -> None:
            handle.remove()
            self.seen = measure(layer, batch)

        handle = model.register_forward_pre_hook(look, with_kwargs=True)


def measure(model: Any, batch: Mapping[str, Any]) -> Seen:
    """A model of transformers, and what is passed to it."""
    ids = batch["input_ids"]
    documents = documents_of(ids)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "num_items_in_batch")}
    with as_found(model):
        logits = apart(logits_of(model, inputs), lambda one: alone(model, one), ids, documents)
    return Seen(host_of(model).config._attn_implementation, len(documents), len(documents) > len(ids), logits)


def logits_of(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Logits of what comes out below the head: TRL's loss takes the head away and gives none."""
    with torch.no_grad():
        hidden: torch.Tensor = host_of(model).base_model(**inputs).last_hidden_state
        logits: torch.Tensor = model.get_output_embeddings()(hidden)
    return logits


def alone(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return logits_of(model, {"input_ids": ids, "use_cache": False})


def documents_of(ids: torch.Tensor) -> Documents:
    """Where the documents of a batch lie, by their marks."""
    documents = []
    for number, row in enumerate(ids.tolist()):
        at = 0
        for length in lengths_in(row, MARK, FIRST, PAD):
            documents.append((number, at, at + length))
            at += length
    return documents


def apart(
    packed: torch.Tensor, run: Callable[[torch.Tensor], torch.Tensor], ids: torch.Tensor, documents: Documents
) -> float:
    """The largest difference of ``packed`` logits (rows, T, V) to ``run`` on each document, of the largest logit."""
    worst = largest = 0.0
    with torch.no_grad():
        for number, start, end in documents:
            logits = run(ids[number : number + 1, start:end])[0].float()
            worst = max(worst, float((packed[number, start:end].float() - logits).abs().max()))
            largest = max(largest, float(logits.abs().max()))
    return worst / largest
