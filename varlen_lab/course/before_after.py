"""What a fine-tuning changed, on dialogues it never saw: answers side by side, and the loss of documents alone.

``hold_out``     two files out of one, and the questions of the smaller
``at_hand``      whether a package is installed
``saved_model``  what a config calls the model that a lesson speaks with
``answers_of``   greedy answers        ``loss_alone``  nats a trained token, every document by itself
``with_trained`` the model with what training made of it            ``BeforeAfter``  the table
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from varlen_lab.course.speaking import STAND_IN, TeachingModel
from varlen_lab.documents.prompts import prompt_ids
from varlen_lab.documents.reading import read_dialogues
from varlen_lab.documents.registry import OF_TOKENIZER
from varlen_lab.errors import InputError
from varlen_lab.files.writing import written_whole
from varlen_lab.language.saying import say
from varlen_lab.machine import console
from varlen_lab.models.adapters import open_adapter
from varlen_lab.models.loading import load_model
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.training.step import batch_counts, batched, token_loss_sum
from varlen_lab.training.stopping import stop_ids

if TYPE_CHECKING:
    from datasets import Dataset

    from varlen_lab.training.conversion import Conversion

EVERY = 20  # records to one that is held out
FEWEST = 4


class Split(NamedTuple):
    """The files of ``hold_out``, and the first question and answer of every record that is held out."""

    train: Path
    held_out: Path
    questions: list[str]
    wanted: list[str]


def hold_out(data: str | Path, folder: str | Path, every: int = EVERY) -> Split:
    """Copy the records of a JSON lines file into ``train.jsonl`` and, one of ``every``, ``held_out.jsonl``.

    InputError for a file that cannot be read, holds a bad record, or has fewer than four.
    """
    data, folder = Path(data), Path(folder)
    if data.suffix != ".jsonl":
        raise InputError(f"data is {str(data)!r}, this lesson splits JSON lines; name a .jsonl file, a record a line.")
    read_dialogues(data, progress=False)  # says which line is wrong
    lines = [line for line in data.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    if len(lines) < FEWEST:
        raise InputError(f"{data} has {len(lines)} records, at least {FEWEST} are needed to hold some out; add some.")
    every = min(every, len(lines) // 2)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        folder / "train.jsonl": [line for number, line in enumerate(lines) if number % every],
        folder / "held_out.jsonl": lines[::every],
    }
    for path, part in parts.items():
        with written_whole(path, "w") as file:
            file.write("\n".join(part) + "\n")
    train, held_out = parts
    questions, wanted = [], []
    for dialogue in read_dialogues(held_out, progress=False).dialogues:
        said = [(one["role"], one["content"]) for one in dialogue if one["role"] in ("user", "assistant")]
        if [role for role, _ in said[:2]] == ["user", "assistant"]:
            questions.append(said[0][1])
            wanted.append(said[1][1])
    return Split(train, held_out, questions, wanted)


def at_hand(package: str) -> bool:
    """Whether a package can be imported; where not, a sentence says what is left out and how to have it."""
    if importlib.util.find_spec(package) is not None:
        return True
    words = "{package} is not installed (pip install {package}); its part of this lesson is left out."
    console.say(say(words, package=package))
    return False


def saved_model(speaker: TeachingModel, folder: str | Path) -> str:
    """What a config's ``pretrained_model_name_or_path`` says for this model; a stand-in is saved in ``folder``."""
    if speaker.source != STAND_IN:
        return speaker.source
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a pink box in JupyterLab
    try:
        speaker.model.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()
    return str(folder)


def with_trained(speaker: TeachingModel, trained: Conversion) -> TeachingModel:
    """The model with what a run made of it: ``trained`` is what ``convert`` returns, an adapter or whole weights."""
    if trained.kind == "adapter":
        return replace(speaker, model=open_adapter(speaker.model, trained.folder).eval())
    return replace(speaker, model=load_model(trained.folder).eval())


def answers_of(speaker: TeachingModel, questions: Sequence[str], most: int = 32) -> list[str]:
    """What the model says to each question: greedy, up to its end mark, at most so many tokens."""
    model, tokenizer = speaker.model, speaker.tokenizer
    stops = stop_ids(model.generation_config, tokenizer, OF_TOKENIZER)
    said = []
    for question in questions:
        ids = prompt_ids(question, tokenizer).to(model.device)
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=most,
                do_sample=False,
                pad_token_id=stops[0],
                eos_token_id=stops,
            )[0, ids.shape[1] :]
        cut = not set(out.tolist()) & set(stops)
        said.append(tokenizer.decode(out, skip_special_tokens=True).strip() + " …" * cut)
    return said


def loss_alone(model: Any, rows: Dataset) -> float:
    """Mean loss per trained token of packed rows, in nats; our attention keeps their documents alone."""
    loss = trained = 0.0
    with torch.no_grad():
        for batches in batched(rows, [[[row] for row in range(len(rows))]], VarlenCollator()):
            for batch in batches:
                loss += float(token_loss_sum(model, batch.to(model.device)))
                trained += float(batch_counts(batch)[1])
    return loss / max(trained, 1.0)


@dataclass(frozen=True)
class BeforeAfter:
    """Answers before and after a training beside those of the data; a notebook shows a table, ``str`` the count."""

    questions: Sequence[str]
    wanted: Sequence[str]
    before: Sequence[str]
    after: Sequence[str]

    def in_form(self, answers: Sequence[str]) -> int:
        """How many answers end in a line that begins with the same word as the data's last line."""
        return sum(last_word(one) == last_word(want) for one, want in zip(answers, self.wanted, strict=True))

    def right(self, answers: Sequence[str]) -> int:
        """How many answers have the first line of the data's, word for word."""
        return sum(first_line(one) == first_line(want) for one, want in zip(answers, self.wanted, strict=True))

    def __str__(self) -> str:
        words = "{when}: {formed} in the form of the data, {right} right"
        counts = [
            say(words, when=when, formed=self.in_form(said), right=self.right(said))
            for when, said in ((say("before"), self.before), (say("after"), self.after))
        ]
        return "\n".join([say("of {count} held-out questions", count=len(self.questions)), *counts])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows, names = [], (say("before"), say("after"), say("the data"))
        for question, *said in zip(self.questions, self.before, self.after, self.wanted, strict=True):
            rows.append(f'<tr><th colspan="2" style="text-align:left;padding-top:.8em">{escape(question)}</th></tr>')
            rows += [
                f'<tr><td style="vertical-align:top;text-align:left">{name}</td>'
                f'<td style="text-align:left;white-space:pre-wrap{style}">{escape(words)}</td></tr>'
                for name, words, style in zip(names, said, STYLES, strict=True)
            ]
        return f"<table>{''.join(rows)}</table><p>{'<br>'.join(map(escape, str(self).splitlines()))}</p>"


STYLES = ("", ";font-weight:bold", ";opacity:.75")  # before, after, the data


def first_line(text: str) -> str:
    """The first line, without what marks a cut."""
    return (text.strip().splitlines() or [""])[0].strip().casefold()


def last_word(text: str) -> tuple[bool, str]:
    """Whether there are several lines, and the word that the last one begins with."""
    lines = text.strip().splitlines() or [""]
    return len(lines) > 1, (lines[-1].split() or [""])[0].casefold()
