"""From ``data_path`` to dialogues: every record becomes a good one, or is named with its place and the reason why not.

This is the common path, JSON lines with ``messages``. What a ``data_path`` means stands in ``sources``, what makes a
dialogue good in ``dialogues``; which function reads another kind of file or shape of record, the registry says.
"""

from __future__ import annotations

import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import IO, Any, NamedTuple

from varlen_lab.documents.builtin import builtin_dialogues
from varlen_lab.documents.dialogues import (
    CALLS,
    ROLE_OF,
    WRITTEN_BY_TOKENIZER,
    BadRecord,
    Dialogue,
    Turns,
    checked_dialogue,
    fit_to_print,
    loads,
    parsed,
)
from varlen_lab.documents.fields import beside_turns, beside_words, text_of_parts
from varlen_lab.documents.registry import COMPRESSED, MAP_FNS, READERS, Shape
from varlen_lab.documents.skipped import Skipped
from varlen_lab.documents.sources import Position, ending_of, locate
from varlen_lab.errors import InputError, first_line, nearest, unknown_choice

Records = Iterator[tuple[str, Any]]  # ("train.jsonl:3", record); a BadRecord stands in for what cannot be read

function_at = cache(resolve_name)  # "module:function" of the registry -> the function; asked for once a record
WORDS = (("role", "content"), ("from", "value"))  # a message's: who speaks, what is said
BYTE_ORDER_MARK = "\ufeff"  # as Windows writes it in front of UTF-8
LONGEST_LINE = 300_000_000  # letters: less than a memory holds, whatever a compressed file unpacks to
FOREIGN_BYTE = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of a byte that is not UTF-8


class Reading(NamedTuple):
    """What was read: the dialogues, what was skipped and why, and how often was seen what is not used."""

    dialogues: list[Dialogue]
    skipped: Skipped
    counted: dict[str, int]  # such as {"label": 3}: by name, in records


def read_dialogues(
    data_path: str | os.PathLike[str] | list[str],
    *,
    system: str = "",
    map_fn: str = "auto",
    skip_bad: bool = False,
    progress: bool = True,
) -> Reading:
    """All dialogues at ``data_path``, the reasons of the records that were skipped, and what was counted.

    ``data_path``: ``builtin:docstrings``; a file with an ending of READERS; a folder of ``Dataset.save_to_disk``;
    otherwise a dataset's name on the hub, whose ``train`` split is read; or a list of these. ``system`` is put in front
    of dialogues without a system message. ``map_fn``, a row of MAP_FNS, says how a record is read. Raises InputError
    for what cannot be found or read, for a bad record (unless ``skip_bad``), and for no dialogue at all.
    """
    if isinstance(data_path, list):
        parts = [
            read_dialogues(one, system=system, map_fn=map_fn, skip_bad=skip_bad, progress=progress) for one in data_path
        ]
        counted, skipped = Counter[str](), Skipped()
        for part in parts:
            counted.update(part.counted)
            skipped += part.skipped
        return Reading([one for part in parts for one in part.dialogues], skipped, counted)
    name = os.fspath(data_path)
    return reading_of(records_at(name, progress), name, system=system, map_fn=map_fn, skip_bad=skip_bad)


def reading_of(records: Records, name: str, *, system: str, map_fn: str, skip_bad: bool) -> Reading:
    """As ``read_dialogues``, of the records at ``name``."""
    reading = read_some(records, system=system, map_fn=map_fn, skip_bad=skip_bad)
    if not reading.dialogues:
        skipped = reading.skipped
        why = f"; all {skipped.total} records were skipped, the first: {skipped[0]}" if skipped else ""
        raise InputError(f"{name} holds no dialogue{why}; give it at least one with an assistant turn.")
    return reading


def read_some(records: Iterable[tuple[str, Any]], *, system: str, map_fn: str, skip_bad: bool) -> Reading:
    """As ``reading_of``, of records that are a part of the data and may hold no dialogue."""
    dialogues, skipped, counted = list[Dialogue](), Skipped(), Counter[str]()
    for place, record in records:
        try:
            dialogue = dialogue_of(record, system, map_fn)
            dialogue.place = place
            if dialogue.unused:
                for one in dialogue.unused:
                    counted[one] += 1
                dialogue.unused = ()
            dialogues.append(dialogue)
        except BadRecord as reason:
            if not skip_bad:
                raise bad_place(place, reason) from None
            skipped.append(f"{place}: {reason}")
    return Reading(dialogues, skipped, {fit_to_print(name): count for name, count in counted.items()})


def bad_place(place: str, reason: BadRecord) -> InputError:
    """The error that a bad record is where none may be."""
    return InputError(f"{place}: {reason}; correct the record, or set skip_bad = True.")


def records_at(name: str, progress: bool = True) -> Records:
    """(place, record) of everything at ``name``."""
    kind, path = locate(name)
    if kind == "builtin":
        return numbered(({"messages": messages} for messages in builtin_dialogues(progress)), name)
    if kind == "file":
        return function_at(READERS[ending_of(path)])(path)
    from varlen_lab.documents.tables import hub_dataset, saved_dataset

    dataset = saved_dataset(path) if kind == "folder" else hub_dataset(name)
    return numbered(dataset, str(path) if kind == "folder" else name)


def numbered(records: Iterable[Any], name: str, first: int = 1) -> Records:
    """Records that have no line, with their number from ``first`` on."""
    for number, record in enumerate(records, start=first):
        yield f"{name}, record {number}", record


def jsonl_records(path: Path, at: Position | None = None) -> Records:
    """A record a line, from the position on, which moves along; empty lines are passed over, their numbers count."""
    at = at or Position()
    for line in lines_of(path, newline="\n", at=at):
        at.record += 1
        at.offset += len(line.encode("utf-8", "surrogateescape"))
        if line.strip():
            try:
                record = loads(valid_utf8(line.rstrip("\r\n"), "the line"))
            except BadRecord as reason:
                record = reason
            except (ValueError, RecursionError) as error:
                what = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                record = BadRecord(f"the line is not JSON ({what})")
            yield f"{path}:{at.record}", record


def lines_of(path: Path, newline: str, at: Position | None = None) -> Iterator[str]:
    """The lines of a text file, one in memory at a time; a byte order mark, as Windows writes it, is no part of it.

    From the offset ``at`` on, which is moved behind such a mark and no further.

    A byte that is not UTF-8 costs its line only: it stays in it as a half character, for ``valid_utf8`` to find.
    """
    at = at or Position()
    number = at.record
    try:
        with opened(path) as file:
            mark = file.read(3)
            if mark[:2] in (b"\xff\xfe", b"\xfe\xff"):  # the byte order marks of UTF-16
                raise InputError(f"{path} is not UTF-8 text (byte 0); save it as UTF-8.")
        # not "utf-8-sig", which drops a mark that is cut off
        if not at.offset and mark == BYTE_ORDER_MARK.encode():
            at.offset = len(mark)
        with io.TextIOWrapper(opened(path, at.offset), "utf-8", errors="surrogateescape", newline=newline) as text:
            while line := text.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE:
                    raise InputError(f"{path}:{number + 1}: the line is longer than {LONGEST_LINE:,} letters; cut it.")
                yield line
                number += 1
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None
        where = f"behind line {number}" if number else "at its beginning"
        raise InputError(
            f"{path} breaks off or is damaged {where} ({first_line(error)}); compress or download it again."
        ) from None


def opened(path: Path, offset: int = 0) -> IO[bytes]:
    """The bytes of a file from ``offset`` on, out of their compression if its ending names one."""
    opener = COMPRESSED.get(path.suffix.lower())
    file: IO[bytes] = function_at(opener)(path) if opener else path.open("rb")
    if not opener:
        file.seek(offset)
    while opener and offset:  # some cannot seek, and those that can read up to there
        offset -= len(file.read(min(offset, 1 << 20))) or offset
    return file


def valid_utf8(text: str, what: str) -> str:
    """The text, unless ``lines_of`` met a byte in it that is not UTF-8."""
    if not text.isascii() and (found := FOREIGN_BYTE.search(text)):
        at = len(text[: found.start()].encode("utf-8", "surrogateescape"))
        raise BadRecord(f"{what} is not UTF-8 text (byte {at} of it)")
    return text


def dialogue_of(record: Any, system: str = "", map_fn: str = "auto") -> Dialogue:
    """The checked dialogue in ``record``; ``system`` is put in front of one that has no system message.

    ``map_fn``: a row of MAP_FNS, the shapes looked for. Raises BadRecord with the reason.
    """
    if map_fn not in MAP_FNS:
        raise unknown_choice("dataset_map_fn", map_fn, MAP_FNS)
    if isinstance(record, BadRecord):
        raise record
    if not isinstance(record, dict):
        raise BadRecord(f"it is {type(record).__name__}, not an object with named fields")
    shapes = MAP_FNS[map_fn].values()
    for shape in shapes:
        for field in shape.fields:
            if record.get(field) is None:
                break
        else:
            turns = function_at(shape.function)(record, shape)
            return (
                checked_dialogue(turns, system)
                if record.keys() <= shape.known
                else with_beside(turns, record, shape, system)
            )
    raise function_at("varlen_lab.documents.shapes:unknown_shape")(record, [shape.fields for shape in shapes])


def with_beside(turns: Turns, record: dict[str, Any], shape: Shape, system: str) -> Dialogue:
    """The checked dialogue of ``turns`` with what stands beside them in the record; or BadRecord."""
    own, tools, unused = beside_turns(record, shape)
    dialogue = checked_dialogue(turns, own or system)
    if own and dialogue[0]["content"] != own:
        raise BadRecord("the system message beside the turns is not the one among them; keep one")
    dialogue.tools = tools
    dialogue.unused += unused
    return dialogue


def from_messages(record: dict[str, Any], shape: Shape) -> Turns:
    """The turns of ``[{"role": "user", "content": "Hi"}, ...]``, or with the shape's names for the two."""
    return messages_in(record[shape.fields[0]], shape.fields[0], shape)


def names_in(messages: list[Any], shape: Shape) -> tuple[str, str]:
    """The keys of who speaks and of what is said: the shape's own, or where the first message has not them, others'."""
    own = (shape.role, shape.content)
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    return own if own[0] in first else next((names for names in WORDS if first.keys() >= {*names}), own)


def messages_in(value: Any, field: str, shape: Shape) -> Turns:
    """The turns of a list of messages, which stands in ``field``."""
    messages = parsed(value, field)
    who, what = names_in(messages, shape)
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or who not in message:
            raise BadRecord(f"message {number} needs {who!r} and {what!r}")
        name, content = message[who], message.get(what)
        role = ROLE_OF.get(name) if isinstance(name, str) else None
        if role is None:
            hint = nearest(str(name), ROLE_OF)
            raise BadRecord(f"message {number} has role {name!r}; roles are system, user, assistant and tool{hint}")
        if isinstance(content, str) and len(message) == 2 and name not in CALLS:  # who speaks, what is said, no more
            yield role, content
            continue
        if name in CALLS:
            message, content = {**message, "tool_calls": content}, None
        elif isinstance(content, list):
            content = text_of_parts(content, number)
        words = beside_words(message, (who, what), role, number, field, tuple(WRITTEN_BY_TOKENIZER))
        if content is None and "tool_calls" not in words and role != "system":
            raise BadRecord(f"message {number} needs {who!r} and {what!r}")
        yield role, content, words
