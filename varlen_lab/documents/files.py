"""Records out of files, one at a time: JSON lines, JSON, CSV, Parquet.

The rule: a file that holds records is never lost for one of them. What cannot be read as a record comes as a
``BadRecord`` in its place, with file and line (or number), and reading goes on behind it; only a file in which no
next record can be found ends in an InputError. But for JSON, where the list is one text, no more of a file is in
memory than the record being read.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from varlen_lab.documents.fields import BadRecord
from varlen_lab.errors import InputError

# ("train.jsonl:3", record); a BadRecord stands in for what cannot be read as a record.
Located = Iterator[tuple[str, Any]]

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
FOREIGN_BYTE = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of a byte that is not UTF-8
ROWS = 1000  # of a Parquet file read at once


def numbered(records: Iterable[Any], name: str) -> Located:
    """Records that have no line, with their number from 1."""
    for number, record in enumerate(records, start=1):
        yield f"{name}, record {number}", record


def jsonl_records(path: Path) -> Located:
    """A record a line; empty lines are passed over, their numbers count."""
    for number, line in enumerate(lines_of(path, newline="\n"), start=1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(utf8(line.rstrip("\r\n"), "the line"))
            except BadRecord as reason:
                yield f"{path}:{number}", reason
            except (ValueError, RecursionError) as error:
                what = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                yield f"{path}:{number}", BadRecord(f"the line is not JSON ({what})")


def json_records(path: Path) -> Located:
    """A list of records; a file of one record a line is read as .jsonl, whatever its name says."""
    text = text_of(path)
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not text.lstrip().startswith("["):
            return jsonl_records(path)
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(f"{path}{line}: the file is not JSON ({reason}); correct it there.") from None
    return numbered(records if isinstance(records, list) else [records], str(path))


def csv_records(path: Path) -> Located:
    """Rows under a line of column names; a row's line is its first, for cells may hold line breaks.

    A row that is not CSV, such as one whose quote never closes, costs its first line only: the lines behind it are
    read again as rows of their own.
    """
    csv.field_size_limit(2**31 - 1)  # the default refuses cells, that is documents, over 128 kB
    lines = Lines(lines_of(path, newline=""))
    columns = header(path, lines)
    rows = csv.reader(lines, strict=True)
    while True:
        place = f"{path}:{lines.begin()}"
        try:
            cells = next(rows, None)
            if cells is None:
                return
            if cells:
                yield place, row_of([utf8(cell, "the row") for cell in cells], columns)
        except BadRecord as reason:
            yield place, reason
        except csv.Error as error:
            open_end = str(error) == "unexpected end of data"
            yield (
                place,
                BadRecord(f"the row {'opens a quote that never closes' if open_end else f'is not CSV ({error})'}"),
            )
            lines.take_back()
            rows = csv.reader(lines, strict=True)


class Lines:
    """The lines of a file, those since ``begin`` kept: all but the first can be read again."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines, self.next = lines, 1
        self.read: list[str] = []
        self.again: list[str] = []  # the next line is the last

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self.again.pop() if self.again else next(self.lines)
        self.read.append(line)
        self.next += 1
        return line

    def begin(self) -> int:
        """The number of the line that comes next."""
        self.read.clear()
        return self.next

    def take_back(self) -> None:
        self.again += reversed(self.read[1:])
        self.next -= len(self.read[1:])


def header(path: Path, lines: Lines) -> list[str]:
    """The column names of a CSV file; none of an empty one."""
    try:
        columns = [utf8(name, "the header") for name in next(csv.reader(lines, strict=True), [])]
    except (csv.Error, BadRecord) as error:
        raise InputError(f"{path}:1: the line of column names is not CSV ({error}); write it again.") from None
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise InputError(f"{path}:1: the column {twice[0]!r} is there twice; rename or remove one of the two.")
    return columns


def row_of(cells: list[str], columns: list[str]) -> dict[str, str | None]:
    """The cells under their names, None where the row is too short; BadRecord where a cell has no name."""
    if len(cells) > len(columns):
        raise BadRecord(f"the row has {len(cells)} cells, there are {len(columns)} column names; quote the commas")
    return dict(zip(columns, cells + [None] * (len(columns) - len(cells))))


def parquet_records(path: Path) -> Located:
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS):
                for record in rows_of(batch):
                    number += 1
                    yield f"{path}, record {number}", record
    except GeneratorExit:
        raise
    except Exception as error:  # what a damaged file raises depends on where the damage is
        after = f" after record {number}" if number else ""
        raise InputError(f"{path} is no readable Parquet file{after} ({first_line(error)}); write it again.") from None


def rows_of(batch: Any) -> Iterator[Any]:
    """The rows of a record batch as dicts; one that holds what Python has no value for is a BadRecord."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # a text that is not UTF-8, a date after the year 9999
        for number in range(len(batch)):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except (ValueError, OverflowError) as error:
                yield BadRecord(f"the row cannot be read ({first_line(error)})")


READERS: dict[str, Callable[[Path], Located]] = {
    ".jsonl": jsonl_records,
    ".json": json_records,
    ".parquet": parquet_records,
    ".csv": csv_records,
}


def lines_of(path: Path, newline: str) -> Iterator[str]:
    """The lines of a text file, one in memory at a time; a byte order mark, as Windows writes it, is no part of it.

    A byte that is not UTF-8 costs its line only: it stays in it as a half character, for ``utf8`` to find.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) in UTF16:
                raise InputError(f"{path} is not UTF-8 text (byte 0); save it as UTF-8.")
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as text:
            yield from text
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None


def utf8(text: str, what: str) -> str:
    """The text, unless ``lines_of`` met a byte in it that is not UTF-8."""
    if not text.isascii() and (found := FOREIGN_BYTE.search(text)):
        at = len(text[: found.start()].encode("utf-8", "surrogateescape"))
        raise BadRecord(f"{what} is not UTF-8 text (byte {at} of it)")
    return text


def text_of(path: Path) -> str:
    """The whole file as text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None


def first_line(error: Exception) -> str:
    """What an exception of another library says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
