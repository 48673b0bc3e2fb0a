"""Every causal language model class of the installed transformers, tiny, with our attention: exact, refused, or what?

``census()`` builds a miniature of each class, runs a packed row in eval and in train mode, and compares logits and
gradients with those of every document run alone under transformers' eager attention. No class is left out by name.

    python -m varlen_lab.studies.census [CLASS ...] [--attention NAME] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch

from varlen_lab.errors import InputError, first_line, unknown_choice
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.measure import loss_of
from varlen_lab.models.miniature import miniature, miniature_config
from varlen_lab.models.sizes import SPECIAL, VOCABULARY
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.packing.registry import IGNORE

LENGTHS = [7, 1, 40, 1, 23, 3, 31]  # one-token documents, and some longer than a miniature's windows and chunks
WIDTH = 80  # of a terminal
LIMIT = 1e-5  # of the largest logit and the largest gradient: rounding in fp32

EXACT, REFUSED, LEAKS, NOT_BUILT = "exact", "refused", "leaks", "not built"
SILENT, TRACEBACK = "silently wrong", "traceback"
NEVER = (SILENT, TRACEBACK)  # what must not be


@dataclass(frozen=True)
class Outcome:
    """What packing does to one class.

    ``exact``           packed is alone: ``difference`` is rounding, as a share of the largest logit or gradient
    ``refused``         our code said no, in ``words``
    ``leaks``           it differs, and ``audit`` says why, in ``words``; the ``kinds`` and ``layers`` of its findings
    ``not built``       transformers builds no tiny one, or does not run a document alone; why, in ``words``
    ``silently wrong``  it differs, and ``audit`` says that all is well
    ``traceback``       any other exception
    """

    name: str
    verdict: str
    difference: float | None = None
    words: str = ""
    kinds: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


def census(
    names: Sequence[str] | None = None, attention: str = "varlen", processes: int | None = None
) -> Iterator[Outcome]:
    """The outcomes of all causal language model classes (or of ``names``), in their order, from several processes.

    ``attention``: any ``attn_implementation``. ``processes``: by default a core each; 1 works in this one. InputError
    for a name that is no causal language model of transformers.
    """
    known = causal_lm_types()
    for name in names or ():
        if name not in known:
            raise unknown_choice("model_type", name, known)
    names = list(names or known)
    # a process takes as long to start as it measures a dozen classes
    processes = processes or min(os.cpu_count() or 1, -(-len(names) // 12))
    if processes == 1:
        yield from (outcome_of(name, attention) for name in names)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), prepare) as pool:
        yield from pool.map(partial(outcome_of, attention=attention), names)


def prepare() -> None:
    """One thread, for every core has a process of its own; and no advice from transformers about each class."""
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()


def causal_lm_types() -> list[str]:
    """The ``model_type`` of every causal language model class of the installed transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def outcome_of(name: str, attention: str = "varlen") -> Outcome:
    """What packing does to one class; never raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            alone = plain_model(name)
            expected = [run_alone(alone.train(training)) for training in (False, True)]
        except Exception as problem:  # of transformers: nothing of ours has run yet
            return Outcome(name, NOT_BUILT, words=in_words(problem))
        try:
            model = miniature(name, attention)
            with torch.no_grad():  # another attention may have drawn other random numbers
                for mine, its in zip(model.parameters(), alone.parameters(), strict=True):
                    mine.copy_(its)
            found = [run_packed(model.train(training)) for training in (False, True)]
            difference = max(apart(a, b) for a, b in zip(found, expected))
            if difference <= LIMIT:
                return Outcome(name, EXACT, difference)
            report = audit(model, batch())
        except InputError as refusal:
            return Outcome(name, REFUSED, words=str(refusal))
        except Exception as problem:  # must not be
            return Outcome(name, TRACEBACK, words=in_words(problem))
    findings = report.findings
    return Outcome(
        name,
        LEAKS if findings else SILENT,
        difference,
        "; ".join(map(str, findings)),
        tuple(finding.kind for finding in findings),
        tuple(finding.where for finding in findings),
    )


def plain_model(name: str) -> Any:
    """The miniature with transformers' eager attention, the plain formula, or with its own where it has no eager."""
    config = miniature_config(name)
    with suppress(InputError):
        return miniature(config, "eager")
    return miniature(config, None)


def documents() -> list[list[int]]:
    """The ids of the documents, the same each time."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(SPECIAL, VOCABULARY, (length,), generator=draw).tolist() for length in LENGTHS]


def batch() -> dict[str, Any]:
    """The documents as one packed row, called as training calls a model."""
    ids = [token for document in documents() for token in document]
    return VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": LENGTHS}]) | {"use_cache": False}


Measured = tuple[torch.Tensor, list[torch.Tensor | None]]  # logits (T, V), a gradient for each parameter


def run_packed(model: Any) -> Measured:
    """Logits and gradients of the packed row."""
    packed = batch()
    labels = packed.pop("labels")[0]
    logits = model(**packed).logits[0]
    return logits.detach(), gradients(model, loss_of(logits, labels))


def run_alone(model: Any) -> Measured:
    """Logits of every document run alone, end to end, and the sum of their gradients."""
    every: list[torch.Tensor] = []
    summed: list[torch.Tensor | None] = [None for _ in trained(model)]
    for ids in documents():
        one = torch.tensor([ids])
        logits = model(input_ids=one, use_cache=False).logits[0]
        every.append(logits.detach())
        if len(ids) > 1:
            labels = torch.cat([torch.tensor([IGNORE]), one[0, 1:]])
            parts = gradients(model, loss_of(logits, labels))
            summed = [b if a is None else a if b is None else a + b for a, b in zip(summed, parts)]
    return torch.cat(every), summed


def gradients(model: Any, loss: torch.Tensor) -> list[torch.Tensor | None]:
    """The gradient of a loss for each parameter, None where it has none."""
    return list(torch.autograd.grad(loss, trained(model), allow_unused=True))


def trained(model: Any) -> list[torch.Tensor]:
    """Its parameters that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def apart(packed: Measured, alone: Measured) -> float:
    """The largest difference of logits or gradients, as a share of the largest; infinite where one is not finite."""
    pairs = [(packed[0], alone[0])]
    difference = float((packed[0] - alone[0]).abs().max() / alone[0].abs().max())
    largest = max(float(g.abs().max()) for g in alone[1] if g is not None)
    for mine, its in zip(packed[1], alone[1]):
        if mine is not None or its is not None:
            gap = mine if its is None else its if mine is None else mine - its
            assert gap is not None
            difference = max(difference, float(gap.abs().max()) / largest)
            pairs.append((gap, gap))
    return difference if all(a.isfinite().all() and b.isfinite().all() for a, b in pairs) else float("inf")


def in_words(problem: BaseException) -> str:
    """An exception in one line; of another library its type comes first."""
    return str(problem) if isinstance(problem, InputError) else f"{type(problem).__name__}: {first_line(problem)}"


def lines(outcome: Outcome) -> str:
    """The lines of a class in the table, of at most ``WIDTH`` characters: what does not fit moves to lines below."""
    figure = "" if outcome.difference is None else f"{outcome.difference:.1e}"
    named = [f"{kind} ({layer})" for kind, layer in zip(outcome.kinds, outcome.layers)]
    head = f"{outcome.name:24} {outcome.verdict:14} {figure:7}".rstrip()
    words = textwrap.wrap(", ".join(named) or outcome.words, WIDTH - 4)
    return "\n".join([head, *(f"    {line}" for line in words)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and the totals, or a JSON line a class; 1 where something is wrong that nobody says."""
    parser = argparse.ArgumentParser(prog="python -m varlen_lab.studies.census", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="CLASS", help="model types, such as llama; all by default")
    parser.add_argument("--attention", default="varlen", help="an attn_implementation (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a JSON line a class")
    chosen = parser.parse_args(arguments)
    totals: Counter[str] = Counter()
    try:
        for outcome in census(chosen.names, chosen.attention):
            totals[outcome.verdict] += 1
            print(json.dumps(asdict(outcome)) if chosen.json else lines(outcome), flush=True)
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return problem.exit_code
    if not chosen.json:
        order = (EXACT, REFUSED, LEAKS, NOT_BUILT, *NEVER)
        print(
            f"\n{totals.total()} class{'es' * (totals.total() != 1)}: "
            + ", ".join(f"{totals[kind]} {kind}" for kind in order if totals[kind])
        )
    return int(any(totals[kind] for kind in NEVER))


if __name__ == "__main__":
    sys.exit(main())
