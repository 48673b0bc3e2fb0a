"""One causal language model class of transformers, tiny, on packed rows: exact, refused, or what?

``verdicts_of``   an ``Outcome`` for each style of batch: logits and gradients of a packed row, in eval and in train
                  mode, against those of every document run alone; where they differ, ``audit`` says why

With our attention documents alone are run with transformers' eager attention, the plain formula. With an attention of
transformers they are run with that same attention: the question is what packing does, not which kernel is right.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from varlen_lab.errors import InputError, LeakFound, first_line
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.head import loss_of
from varlen_lab.leaks.isolating import isolate as isolate_measured
from varlen_lab.leaks.report import Finding
from varlen_lab.leaks.running import attention_name
from varlen_lab.models.isolation import isolated_layers
from varlen_lab.models.miniature import miniature, miniature_config
from varlen_lab.models.sizes import SPECIAL, VOCABULARY
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.packing.registry import IGNORE
from varlen_lab.studies.registry import OURS, STYLES, Style

LENGTHS = [7, 1, 40, 1, 23, 3, 31]  # one-token documents, and some longer than a miniature's windows and chunks
ISOLATE = "varlen_lab.isolate"  # what a refusal advises where layers carry a state
LIMIT = 1e-5  # of the largest logit and the largest gradient: rounding in fp32

EXACT, REFUSED, LEAKS, RAISES, NOT_BUILT, SILENT = "exact", "refused", "leaks", "raises", "not built", "silently wrong"
NEVER = (SILENT, RAISES)  # what must not be with our attention and batch


@dataclass(frozen=True)
class Outcome:
    """What packing does to one class in one style.

    ``exact``           packed is alone: ``difference`` is rounding, as a share of the largest logit or gradient
    ``refused``         our code said no, in ``words``
    ``leaks``           it differs, and ``audit`` says why, in ``words``; the ``kinds`` and ``layers`` of its findings
    ``raises``          any other exception, in ``words``
    ``not built``       transformers builds no tiny one, or does not run a document alone; why, in ``words``
    ``silently wrong``  it differs, and ``audit`` says that all is well
    """

    name: str
    style: str
    verdict: str
    difference: float | None = None
    words: str = ""
    kinds: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    attention: str = ""  # that it was run with
    isolated: tuple[str, ...] = ()  # the modules that ran document by document


Measured = tuple[torch.Tensor, list[torch.Tensor | None]]  # logits (T, V), a gradient for each parameter


@dataclass
class Alone:
    """A class built tiny and its documents run alone, by the attention that ran them: each once for all styles."""

    config: Any
    model: Any  # with the plain formula; its weights are those of every other
    known: dict[str, list[Measured]]  # in eval and in train mode

    def built(self, attention: str | None) -> Any:
        """The model with another attention and the same weights."""
        model = miniature(self.config, attention)
        with torch.no_grad():  # another attention may have drawn other random numbers
            for mine, its in zip(model.parameters(), self.model.parameters(), strict=True):
                mine.copy_(its)
        return model

    def under(self, attention: str) -> list[Measured]:
        """What documents give alone, in eval and in train mode."""
        if attention not in self.known:
            model = self.built(attention)
            self.known[attention] = [run_alone(model.train(training)) for training in (False, True)]
        return self.known[attention]


def verdicts_of(
    name: str, styles: Sequence[str] = (OURS,), attention: str | None = None, isolate: bool = True
) -> list[Outcome]:
    """What packing does to one class, an outcome for each of ``styles``; never raises.

    ``attention``: an ``attn_implementation`` in place of each style's own. ``isolate``: in the style ``ours`` layers
    that leak run document by document where that makes the model exact.
    """
    with quiet():
        try:
            alone = run_class_alone(name)
        except Exception as problem:  # of transformers: nothing of ours has run yet
            return [Outcome(name, style, NOT_BUILT, words=why_not_built(name, problem)) for style in styles]
        return [in_style(name, alone, STYLES[style], attention, isolate) for style in styles]


@contextmanager
def quiet() -> Iterator[None]:
    """No advice about a class, ours or transformers', while it lasts: all that matters becomes a verdict."""
    from transformers.utils import logging as advice

    mine, its = logging.getLogger("varlen_lab"), advice.get_verbosity()
    level = mine.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine.setLevel(logging.WARNING)
        advice.set_verbosity_error()
        try:
            yield
        finally:
            mine.setLevel(level)
            advice.set_verbosity(its)


def run_class_alone(name: str) -> Alone:
    """The class and its documents, alone; raises what transformers raises."""
    config = miniature_config(name)
    model = plain_model(config)
    expected = [run_alone(model.train(training)) for training in (False, True)]
    return Alone(config, model, {attention_name(model): expected})


def plain_model(config: Any) -> Any:
    """The miniature with transformers' eager attention, the plain formula, or with its own where it has no eager."""
    with suppress(InputError):
        return miniature(config, "eager")
    return miniature(config, None)


def in_style(name: str, alone: Alone, style: Style, attention: str | None, isolate: bool) -> Outcome:
    """What packing does to one class in one style; never raises."""
    try:
        model = model_for(alone, style, attention)
    except InputError as problem:
        # that ours does not fit a class is our word; one of transformers' it does not have, or not here
        verdict = REFUSED if ours(attention or style.attention) else NOT_BUILT
        return Outcome(name, style.name, verdict, words=str(problem))
    attends = attention_name(model)
    try:
        expected = next(iter(alone.known.values())) if ours(attends) else alone.under(attends)
        found = of_model(name, model, style, expected)
        if found.verdict != EXACT and style.ours and isolate:
            try:
                isolate_measured(model, batch())
                found = of_model(name, model, style, expected)
            except LeakFound:  # isolation does not make it exact: what was found without it stands
                pass
            except InputError as problem:
                if ISOLATE in found.words:  # it was the advice: what stands in its way says more
                    found = replace(found, words=str(problem))
    except Exception as problem:
        found = Outcome(name, style.name, RAISES, words=in_words(problem))
    return replace(found, attention=attends, isolated=tuple(isolated_layers(model)))


def of_model(name: str, model: Any, style: Style, expected: Sequence[Measured]) -> Outcome:
    """What packing does to a model, against what its documents give alone."""
    try:
        differences = packed_apart(model, style, expected)
        difference = max(differences)
        if difference <= LIMIT:
            return Outcome(name, style.name, EXACT, difference)
        model.train(differences.index(difference) == 1)  # some classes use no cache in train mode, say
        findings = what_audit_says(model, style)
    except InputError as refusal:
        return Outcome(name, style.name, REFUSED, words=str(refusal))
    except Exception as problem:  # also one that isolation mends
        return Outcome(name, style.name, RAISES, words=in_words(problem))
    kinds, layers = tuple(finding.kind for finding in findings), tuple(finding.where for finding in findings)
    verdict = LEAKS if findings else SILENT
    return Outcome(name, style.name, verdict, difference, "; ".join(map(str, findings)), kinds, layers)


def what_audit_says(model: Any, style: Style) -> tuple[Finding, ...]:
    """Its findings of a packed row that differs; that it cannot look into a model is one, InputError with our batch."""
    try:
        return audit(model, batch(style.name), boundaries=LENGTHS).findings
    except InputError as problem:
        if style.ours:
            raise
        return (Finding("not examined", "the model", str(problem).rstrip("."), "train this model unpacked"),)


def model_for(alone: Alone, style: Style, attention: str | None) -> Any:
    """The model as people run it in a style; where a class has no sdpa, with what transformers gives it then."""
    if attention is None and not style.ours:
        with suppress(InputError):
            return alone.built(style.attention)
        return alone.built(None)
    return alone.built(attention or style.attention)


def ours(attention: str) -> bool:
    """Whether an ``attn_implementation`` is one of those we register."""
    return attention.startswith("varlen")


def packed_apart(model: Any, style: Style, expected: Sequence[Measured]) -> list[float]:
    """The largest difference between the packed row and documents alone: in eval mode, in train mode."""
    found = [run_packed(model.train(training), style) for training in (False, True)]
    return [apart(a, b) for a, b in zip(found, expected, strict=True)]


def documents() -> list[list[int]]:
    """The ids of the documents, the same each time."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(SPECIAL, VOCABULARY, (length,), generator=draw).tolist() for length in LENGTHS]


def batch(style: str = OURS) -> dict[str, Any]:
    """The documents as one packed row, as a style calls a model."""
    from transformers import DataCollatorWithFlattening

    how, ids = STYLES[style], documents()
    if how.ours:
        row = [token for document in ids for token in document]
        packed = VarlenCollator()([{"input_ids": row, "labels": row, "seq_lengths": LENGTHS}])
    else:
        flatten = DataCollatorWithFlattening(**dict.fromkeys(how.options, True))
        packed = dict(flatten([{"input_ids": document} for document in ids]))
    return packed if how.cache else packed | {"use_cache": False}


def run_packed(model: Any, style: Style) -> Measured:
    """Logits and gradients of the packed row."""
    packed = batch(style.name)
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


def why_not_built(name: str, problem: BaseException) -> str:
    """Why there is nothing to measure, in a sentence."""
    if isinstance(problem, InputError):
        return str(problem)
    return f"a tiny {name} does not run a document of token ids alone ({in_words(problem)}), so there is no packed row."
