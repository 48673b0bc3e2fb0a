"""Records out of files of text that are not JSON lines: JSON and CSV, one at a time. ``tables`` reads files of columns.

The rule: a file that holds records is never lost for one of them. What cannot be read as a record comes as a
``BadRecord`` in its place, with file and line (or number), and reading goes on behind it; only a file in which no
next record can be found ends in an InputError. But for JSON, where the list is one text, no more of a file is in
memory than the record being read.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from varlen_lab.documents.dialogues import BadRecord, loads
from varlen_lab.documents.reading import Records, jsonl_records, lines_of, numbered, valid_utf8
from varlen_lab.errors import InputError

JSON_GAP = re.compile(r"[\s,]*\[?\s*")  # what stands before a record of a list


def json_records(path: Path) -> Records:
    """A list of records; a file of one record a line is read as .jsonl, whatever its name says."""
    text = text_of(path)
    try:
        records = loads(text)
    except BadRecord:  # a key stands twice in one of them
        return records_alone(text, path)
    except (ValueError, RecursionError) as error:
        if not text.lstrip().startswith("["):
            return jsonl_records(path)
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(f"{path}{line}: the file is not JSON ({reason}); correct it there.") from None
    return numbered(records if isinstance(records, list) else [records], str(path))


def records_alone(text: str, path: Path) -> Records:
    """The records of a list that is JSON, each read by itself: one with a key that stands twice is bad, it alone."""
    lenient, number, at = json.JSONDecoder(), 0, JSON_GAP.match(text).end()  # type: ignore[union-attr]
    while at < len(text) and text[at] not in "]":
        number += 1
        record, end = lenient.raw_decode(text, at)
        try:
            record = loads(text[at:end])
        except BadRecord as reason:
            record = reason
        yield f"{path}, record {number}", record
        at = JSON_GAP.match(text, end).end()  # type: ignore[union-attr]


def tsv_records(path: Path) -> Records:
    """As ``csv_records``, with tabs between the cells."""
    return csv_records(path, "\t")


def open_zstd(path: Path) -> IO[bytes]:
    """The bytes of a file compressed with Zstandard, which Python itself reads from 3.14 on."""
    import pyarrow as pa

    return pa.input_stream(str(path), compression="zstd")


def csv_records(path: Path, delimiter: str = ",") -> Records:
    """Rows under a line of column names; a row's line is its first, for cells may hold line breaks.

    A row that is not CSV, such as one whose quote never closes, costs its first line only: the lines behind it are
    read again as rows of their own.
    """
    csv.field_size_limit(2**31 - 1)  # the default refuses cells, that is documents, over 128 kB
    lines = Lines(lines_of(path, newline=""))
    columns = header(path, lines, delimiter)
    rows = csv.reader(lines, strict=True, delimiter=delimiter)
    while True:
        place = f"{path}:{lines.begin()}"
        try:
            cells = next(rows, None)
            if cells is None:
                return
            if cells:
                yield place, row_of([valid_utf8(cell, "the row") for cell in cells], columns)
        except BadRecord as reason:
            yield place, reason
        except csv.Error as error:
            unclosed = str(error) == "unexpected end of data"
            why = "opens a quote that never closes" if unclosed else f"is not CSV ({error})"
            yield place, BadRecord(f"the row {why}")
            # the reader may have swallowed the file to its end, looking for the other quote
            lines.read_again()
            rows = csv.reader(lines, strict=True, delimiter=delimiter)


class Lines:
    """The lines of a file, counted from 1; those read since ``begin`` are kept, all but the first can come again."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines, self.number = lines, 1  # of the line that comes next
        self.kept: list[str] = []
        self.waiting: list[str] = []  # lines to read again, the next one last

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self.waiting.pop() if self.waiting else next(self.lines)
        self.kept.append(line)
        self.number += 1
        return line

    def begin(self) -> int:
        """Forget the lines before; the number of the line that comes next."""
        self.kept.clear()
        return self.number

    def read_again(self) -> None:
        """The lines since ``begin`` come once more, without the first."""
        self.waiting += reversed(self.kept[1:])
        self.number -= len(self.kept[1:])


def header(path: Path, lines: Lines, delimiter: str) -> list[str]:
    """The column names of a CSV file; none of an empty one."""
    try:
        columns = [
            valid_utf8(name, "the header") for name in next(csv.reader(lines, strict=True, delimiter=delimiter), [])
        ]
    except (csv.Error, BadRecord) as error:
        raise InputError(f"{path}:1: the line of column names is not CSV ({error}); write it again.") from None
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    if twice:
        raise InputError(f"{path}:1: the column {twice[0]!r} is there twice; rename or remove one of the two.")
    return columns


def row_of(cells: list[str], columns: list[str]) -> dict[str, str | None]:
    """The cells under their names, None where the row is too short; BadRecord where a cell has no name."""
    if len(cells) > len(columns):
        raise BadRecord(f"the row has {len(cells)} cells, there are {len(columns)} column names; quote the separators")
    return dict(zip(columns, cells + [None] * (len(columns) - len(cells))))


def text_of(path: Path) -> str:
    """The whole file as text; InputError with the line that is not UTF-8."""
    lines = []
    for number, line in enumerate(lines_of(path, newline="\n"), start=1):
        try:
            lines.append(valid_utf8(line, "the line"))
        except BadRecord as reason:
            raise InputError(f"{path}:{number}: {reason}; save the file as UTF-8.") from None
    return "".join(lines)
