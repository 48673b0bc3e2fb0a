"""A setting measured: the documents it put into rows, compared with each alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from benchmarks.everyday.settings import SETTINGS, Documents, Setting
from varlen_lab.errors import InputError
from varlen_lab.packing.registry import IGNORE
from varlen_lab.training.loss import summed_loss

TEXTS = (
    "The capital of France is Paris, and the Seine runs through the middle of it.",
    "To boil an egg, put it into boiling water for seven minutes; then cool it under the tap and peel it.",
    "Water freezes at zero degrees Celsius.",
    "A list in Python is written in square brackets, as in [1, 2, 3]; append adds an element at its end, and sort puts "
    "the elements in order.",
    "Once upon a time there was a fox who lived at the edge of a wood, not far from a farm with many hens.",
)
SAME = 1e-4  # of the largest logit, fp32: sdpa over a row differs from sdpa over a document by a hundredth of it


class Seen(NamedTuple):
    """What a model was given and gave back in its first call."""

    input_ids: torch.Tensor
    logits: torch.Tensor


class Found(NamedTuple):
    """A measured row."""

    who: str
    what: str
    loss: float
    logits: float  # the largest difference to a document alone, of the largest logit

    @property
    def leaks(self) -> bool:
        return self.logits > SAME


@contextmanager
def first_call(model: Any) -> Iterator[list[Seen]]:
    """Meanwhile the first call of a model is kept, as ids and logits of its rows."""
    kept: list[Seen] = []

    def keep(_module: Any, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        if not kept:
            with torch.no_grad():
                kept.append(Seen(named.get("input_ids", *inputs[:1]), head(output.last_hidden_state).float()))

    # below the head: TRL's loss takes it away and gives no logits
    head, handle = model.get_output_embeddings(), model.base_model.register_forward_hook(keep, with_kwargs=True)
    try:
        yield kept
    finally:
        handle.remove()


def alone(model: Any, documents: Documents) -> list[torch.Tensor]:
    """Logits (T, V) of every document by itself."""
    found = []
    for ids in documents:
        with first_call(model) as kept, torch.no_grad():
            model(input_ids=torch.tensor([ids]), use_cache=False)
        found.append(kept[0].logits[0])
    return found


def place_of(ids: list[int], rows: torch.Tensor) -> tuple[int, int]:
    """Row and first token of a document in a batch; InputError where it is not there as a whole."""
    for number, one in enumerate(rows.tolist()):
        for at in range(len(one) - len(ids) + 1):
            if one[at : at + len(ids)] == ids:
                return number, at
    raise InputError(f"a document of {len(ids)} tokens was cut or changed on its way to the model; take other texts.")


def measure(setting: Setting, model: Any, documents: Documents, tokenizer: Any, truth: list[torch.Tensor]) -> Found:
    """Run a setting on a copy of the model, and compare its documents with those alone."""
    model = copy.deepcopy(model)  # trainers write into a model's config
    with first_call(model) as kept, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setting.run(model, documents, tokenizer)
    worst, total, trained = 0.0, 0.0, 0
    for ids, expected in zip(documents, truth, strict=True):
        number, at = place_of(ids, kept[0].input_ids)
        logits = kept[0].logits[number, at : at + len(ids)]
        worst = max(worst, float((logits - expected).abs().max()))
        total += loss_of(logits, ids)
        trained += len(ids) - 1
    return Found(setting.who, setting.what, total / trained, worst / max(float(one.abs().max()) for one in truth))


def loss_of(logits: torch.Tensor, ids: list[int]) -> float:
    """Summed loss of a document's tokens but the first, in nats."""
    return float(summed_loss(logits[None], torch.tensor([[IGNORE, *ids[1:]]])))


def everyday(model: Any, tokenizer: Any) -> tuple[float, list[Found]]:
    """The loss of the documents alone, and every setting measured."""
    documents = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    model.eval()
    truth = alone(model, documents)
    base = sum(loss_of(logits, ids) for logits, ids in zip(truth, documents, strict=True))
    found = []
    for setting in SETTINGS:
        try:
            found.append(measure(setting, model, documents, tokenizer, truth))
        except ImportError as missing:
            print(f"{setting.who}, {setting.what}: not measured ({missing})")
    return base / sum(len(ids) - 1 for ids in documents), found
