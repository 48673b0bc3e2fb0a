"""Documents one at a time, from data of any size: read, written with the template and tokenised a few records at once.

    for document in DocumentStream(...):        # {"input_ids", "labels"}, in the order of the data

The documents are those of ``load_documents``, which holds them all. ``state_dict`` says where a stream stands: the
position of the records that are in memory, and how many of their documents were given. A stream that loads it reads
these few records again and goes on with the next document.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np

from varlen_lab.documents.dialogues import BadRecord
from varlen_lab.documents.loading import left_out, notes_of
from varlen_lab.documents.marks import control_note, facts_of, template_notes
from varlen_lab.documents.positions import Given, Named, refuse_changed
from varlen_lab.documents.reading import read_some
from varlen_lab.documents.skipped import Skipped
from varlen_lab.documents.sources import Position
from varlen_lab.documents.tokenised import WITHOUT_LABELS, good_ones, is_tokenised
from varlen_lab.documents.tokens import documents_of, pieces_of, with_control_tokens
from varlen_lab.errors import InputError
from varlen_lab.packing.registry import IGNORE

RECORDS_AT_ONCE = 256  # read and tokenised together
Document = tuple[np.ndarray, np.ndarray]  # input_ids and labels, int32


class NoDocument(InputError):
    """A pass over the data gave no document."""


class DocumentStream:
    """The documents of ``data`` (names as in ``data_path``, or a dataset), as often as it is iterated.

    The other arguments are ``load_documents``'s. While it is iterated it raises InputError for a bad record (unless
    ``skip_bad``), for data without a document, and for a file that is not what it was.
    """

    def __init__(
        self,
        data: str | list[str] | Given,
        tokenizer: Any,
        *,
        prompt_template: str,
        special_tokens_in_text: str,
        system: str,
        map_fn: str,
        skip_bad: bool,
    ) -> None:
        listed = data if isinstance(data, list) else [data]
        self.sources = [Named(one) if isinstance(one, str) else one for one in listed]
        self.tokenizer, self.prompt_template = tokenizer, prompt_template
        self.system, self.map_fn, self.skip_bad = system, map_fn, skip_bad
        self.facts = facts_of(tokenizer, prompt_template, special_tokens_in_text)
        self.known: list[dict[str, Any]] = []  # facts of the sources, as they were when a pass began
        self.notes: list[str] = []  # what a person should know, each once
        self.noted = set[str]()  # what of
        self.resumed = False
        self.passes = 0
        self.start_anew()

    def start_anew(self) -> None:
        """Stand at the beginning of the data."""
        self.source, self.start, self.given = 0, Position(), 0
        self.tokenised: bool | None = None
        self.counts = Counter[str]()  # what became of the records before ``start``, of this pass
        self.first_skipped = ""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        if not self.resumed:
            self.start_anew()
        self.resumed = False
        self.hold_still()
        while self.source < len(self.sources):
            yield from self.documents_at(self.sources[self.source])
            self.start, self.tokenised = Position(), None
            self.source += 1
        self.hold_still()
        self.passes += 1
        if not self.counts["documents"]:
            raise self.nothing()

    def hold_still(self) -> None:
        """InputError when a file is not what it was when the first pass began."""
        if not self.known:
            self.known = [source.facts(Position()) for source in self.sources]
        for source, facts in zip(self.sources, self.known):
            refuse_changed(source, facts, Position())

    def documents_at(self, source: Named | Given) -> Iterator[dict[str, np.ndarray]]:
        """The documents of one source from where the stream stands."""
        at = copy.copy(self.start)
        records = source.records(at)
        while chunk := list(islice(records, RECORDS_AT_ONCE)):
            documents, counts = self.documents_in(chunk, source.name)
            for number in range(self.given, len(documents)):
                self.given = number + 1
                yield dict(zip(("input_ids", "labels"), documents[number]))
            self.counts.update(counts)
            source.mark(at)
            self.start, self.given = copy.copy(at), 0

    def documents_in(self, chunk: list[tuple[str, Any]], name: str) -> tuple[list[Document], Counter[str]]:
        """The trainable documents of some records, and what became of the records."""
        if self.tokenised is None and not all(isinstance(record, BadRecord) for _, record in chunk):
            self.tokenised = is_tokenised(iter(chunk))[0]
        skipped, seen = Skipped(), Counter[str]()
        if self.tokenised:
            kept = list(good_ones(chunk, len(self.tokenizer), self.skip_bad, skipped, seen))
            all_documents = [document for documents in kept for document in documents]
            found = [document for document in all_documents if (document[1] != IGNORE).any()]
            read, without = len(kept), len(all_documents) - len(found)
            settings = {"prompt_template": self.prompt_template, "SYSTEM": self.system, "dataset_map_fn": self.map_fn}
            for note in notes_of(name, seen, **settings):
                self.note(note, of=f"{name} {WITHOUT_LABELS in note}")
            seen.pop(WITHOUT_LABELS, None)
        else:
            found, read = self.written(chunk, skipped, seen)
            without = read - len(found)
        if seen:
            self.note(f"{left_out(seen)} of the first {len(chunk):,} records", of="seen")
        if skipped and not self.first_skipped:
            self.first_skipped = skipped[0]
            self.note(f"records are skipped, the first: {skipped[0]}", of="skipped")
        return found, Counter(documents=len(found), read=read, skipped=skipped.total, without=without)

    def written(self, chunk: list[tuple[str, Any]], skipped: Skipped, seen: Counter[str]) -> tuple[list[Document], int]:
        """The trainable documents of dialogues, and how many dialogues were read."""
        reading = read_some(chunk, system=self.system, map_fn=self.map_fn, skip_bad=self.skip_bad)
        seen.update(reading.counted)
        typed, refused = list[set[str]](), Skipped()
        dialogues = with_control_tokens(reading.dialogues, self.facts, typed)
        for note in template_notes(self.tokenizer, self.prompt_template) if "template" not in self.noted else ():
            self.note(note, of=note)
        self.noted.add("template")
        for note in control_note(typed, self.facts.escape):
            self.note(f"of the first {len(chunk):,} records, {note}", of="typed")
        pieces = pieces_of(dialogues, self.tokenizer, self.prompt_template, refused if self.skip_bad else None)
        table = documents_of(pieces, self.facts)
        skipped += reading.skipped
        skipped += refused
        columns = (lists_of(table[name]) for name in ("input_ids", "labels"))
        return list(zip(*columns)), len(reading.dialogues) - refused.total

    def note(self, sentence: str, of: str) -> None:
        """Keep what is to be said of a subject, the first time."""
        self.notes += [] if of in self.noted else [sentence]
        self.noted.add(of)

    def nothing(self) -> NoDocument:
        """The error for a pass without a document."""
        skipped, without = self.counts["skipped"], self.counts["without"]
        why = f" ({self.counts['read']:,} records read, {skipped:,} skipped"
        why += f", the first: {self.first_skipped})" if skipped else ")"
        named = " and ".join(source.name for source in self.sources[:3])
        return NoDocument(
            f"{named} holds no document with a token to train on{why if skipped or without else ''}; give it at least "
            "one with an assistant turn."
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, behind the document it gave last: plain values."""
        facts = list(self.known)
        if self.source < len(facts):
            facts[self.source] = self.sources[self.source].facts(self.start)
        return {
            "source": self.source,
            "start": asdict(self.start),
            "given": self.given,
            "tokenised": self.tokenised,
            "counts": dict(self.counts),
            "first_skipped": self.first_skipped,
            "facts": facts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state`` at the next iteration; InputError when the data is not what it was."""
        self.source, self.given, self.tokenised = state["source"], state["given"], state["tokenised"]
        self.start, self.counts = Position(**state["start"]), Counter(state["counts"])
        self.first_skipped = state["first_skipped"]
        for number, (source, facts) in enumerate(zip(self.sources, state["facts"])):
            refuse_changed(source, facts, self.start if number == self.source else Position())
        self.known = [source.facts(Position()) for source in self.sources]
        self.resumed = True


def lists_of(column: Any) -> list[np.ndarray]:
    """The lists of a column of an Arrow table, each an array."""
    whole = column.combine_chunks()
    return np.split(whole.flatten().to_numpy(), np.cumsum(whole.value_lengths().to_numpy())[:-1]) if len(whole) else []
