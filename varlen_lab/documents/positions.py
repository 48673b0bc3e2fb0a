"""Data that is read from a position on: what ``data_path`` names, or a dataset that was handed over.

A file of JSON lines is entered at a byte, a Parquet file at a row group, an ``IterableDataset`` by its own
``state_dict``. Where none of these is to be had, the records before the position are read and passed over, with a bar.
What was read in parts must not change in between: ``facts`` say what a file is, ``refuse_changed`` compares.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from varlen_lab.documents.reading import Records, function_at, numbered, records_at
from varlen_lab.documents.registry import READERS, SEEKABLE
from varlen_lab.documents.sources import Position, ending_of, locate
from varlen_lab.errors import InputError, first_line
from varlen_lab.machine.console import track

LOOKED_AT = 1 << 16  # bytes of a file that its digest is of
SHUFFLES = "BufferShuffledExamplesIterable"  # of ``datasets``: its state forgets what lay in the buffer


class Named:
    """What an element of ``data_path`` names."""

    def __init__(self, name: str) -> None:
        self.name = name

    def records(self, at: Position) -> Records:
        """(place, record) of everything behind the position, which moves along."""
        kind, path = locate(self.name)
        if kind == "file" and ending_of(path) in SEEKABLE:
            return function_at(READERS[ending_of(path)])(path, at)
        return moving(passed_over(records_at(self.name), at.record), at)

    def mark(self, at: Position) -> None:
        """Nothing: the numbers of a position say all of a file."""

    def facts(self, at: Position) -> dict[str, Any]:
        """Size, time and digests (of the first bytes, and of those before the position) of a file; {} of others."""
        kind, path = locate(self.name)
        if kind != "file":
            return {}
        try:
            about = path.stat()
            with path.open("rb") as file:
                first = file.read(LOOKED_AT)
                file.seek(max(0, at.offset - LOOKED_AT))
                before = file.read(min(at.offset, LOOKED_AT))
        except OSError as problem:
            raise InputError(f"{path} cannot be read ({problem.strerror}); check its permissions.") from None
        return {
            "size": about.st_size,
            "time": about.st_mtime_ns,
            "begins": hashlib.sha256(first).hexdigest()[:12],
            "read": hashlib.sha256(before).hexdigest()[:12],
        }


class Given:
    """A dataset that was handed over: any iterable of records, best one that can be read again."""

    name = "the dataset"

    def __init__(self, dataset: Iterable[Any]) -> None:
        if isinstance(dataset, Mapping):
            raise InputError(f"the dataset has splits {', '.join(map(str, dataset))}; hand one of them over.")
        if not hasattr(dataset, "__iter__"):
            raise InputError(f"the dataset is a {type(dataset).__name__} and gives no records; hand an iterable over.")
        # a format that somebody gave a dataset of ``datasets`` makes arrays or tensors of lists
        self.dataset = self.reading = dataset.with_format(None) if hasattr(dataset, "with_format") else dataset
        self.once = iter(dataset) if isinstance(dataset, Iterator) else None
        self.taken = 0  # of an iterator, which cannot be read again

    def records(self, at: Position) -> Records:
        """(place, record) of everything behind the position, which moves along."""
        if self.once is not None:
            if at.record == 0:
                at.record = self.taken  # what comes now is what is left
            if at.record < self.taken:
                raise InputError(
                    "the dataset is an iterator, it cannot be read again from where the run stopped; hand over one "
                    "that can, such as IterableDataset.from_generator(function)."
                )
            left = passed_over(self.told(self.once), at.record - self.taken)
            return moving(numbered(left, self.name, at.record + 1), at, self)
        first = at.record
        # a copy: a dataset of ``datasets`` would begin at a state that was loaded once in every later pass too
        self.reading = copy.copy(self.dataset) if hasattr(self.dataset, "load_state_dict") else self.dataset
        if self.reading is not self.dataset:
            # which the copy of one of ``datasets`` has in common with it
            self.reading.__dict__ = {**vars(self.dataset)}
        if at.state is not None and hasattr(self.reading, "load_state_dict"):
            self.reading.load_state_dict(at.state)
            return moving(numbered(self.told(self.reading), self.name, first + 1), at)
        return moving(numbered(passed_over(self.told(self.reading), first), self.name, first + 1), at)

    def told(self, records: Iterable[Any]) -> Iterator[Any]:
        """The records; what the dataset raises becomes a sentence."""
        try:
            yield from records
        except (InputError, GeneratorExit):
            raise
        except Exception as problem:
            raise InputError(
                f"the dataset breaks off ({type(problem).__name__}: {first_line(problem)}); look at what it reads."
            ) from None

    def mark(self, at: Position) -> None:
        """Put into the position what the dataset says of where it is, as it stands behind the last record it gave."""
        if hasattr(self.reading, "state_dict") and hasattr(self.reading, "load_state_dict"):
            at.state = None if shuffles(self.reading) else self.reading.state_dict()

    def facts(self, at: Position) -> dict[str, Any]:
        """What tells this dataset from another: nothing that is known without reading it."""
        return {}


def shuffles(dataset: Any) -> bool:
    """Whether a dataset, or one that it is made of, has a shuffle buffer."""
    inner = [getattr(dataset, name, None) for name in ("_ex_iterable", "ex_iterable")]
    inner += getattr(dataset, "ex_iterables", None) or []
    return type(dataset).__name__ == SHUFFLES or any(shuffles(one) for one in inner if one is not None)


def moving(records: Iterator[Any], at: Position, given: Given | None = None) -> Iterator[Any]:
    """The records, each counted in the position (and of an iterator, for good) before it is handed out."""
    for one in records:
        at.record += 1
        if given is not None:
            given.taken += 1
        yield one


def passed_over(records: Iterable[Any], count: int) -> Iterator[Any]:
    """The records behind the first ``count``, which are read with a bar and left out."""
    rest = iter(records)
    for _ in track(islice(rest, count), "Reading up to where the run stopped", count) if count else ():
        pass
    yield from rest


def refuse_changed(source: Named | Given, was: dict[str, Any], at: Position) -> None:
    """InputError when a file is not what it was; ``at``: how far it was read when its facts were taken."""
    now = source.facts(at)
    if now == was:
        return
    path = Path(source.name)
    if {**now, "time": 0} == {**was, "time": 0}:
        why = f"its time is another; if it is a copy, give it its time back: touch -d @{was['time'] / 1e9:.9f} {path}"
    else:
        size = f"{was['size']:,} bytes, now {now['size']:,}" if was.get("size") != now.get("size") else "other bytes"
        why = f"it had {size}; put it back, or start anew in another work_dir"
    raise InputError(f"{path} was changed while a run was reading it: {why}.")
