"""What a run says of itself step by step: ``history.jsonl``, a line a step.

The first line says what the numbers were measured on (mode, attention backend, device, dtype, seed, versions); every
further line is one step. Lines are flushed as they come, so a killed run keeps its history. Each ends with the CRC-32
of what stands before it: a bit that turned over on the disk is named with its line, and a line that a kill cut short,
which can only be the last, is left out.

A number that is none (the loss of a step without a trained token, a gradient that overflowed) is ``null`` in the file
and NaN when it is read back.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from varlen_lab.errors import InputError, quoted
from varlen_lab.files.reading import field as checked
from varlen_lab.files.reading import parse_json, read_text
from varlen_lab.files.strict import strict_json
from varlen_lab.files.writing import written_whole
from varlen_lab.training.checkpoint import full_disk_told, renamed

HISTORY_FORMAT = 3
KNOWN_FORMATS = (1, 2, HISTORY_FORMAT)  # before 3 no line has a sum, and what is no number stands there as NaN
RENAMED_IN_HISTORY = {"slots": "padded_tokens", "squares": "sum_squared_lengths"}  # keys of format 1, renamed since
INSTEAD = "put it back, or move it away"  # ends every complaint
SUM = re.compile(r', "crc32": "([0-9a-f]{8})"}')  # how a line ends
SUM_CHARACTERS = 22
NUMBER = (int, float, type(None))
# what every record has, and what others may have; any other key may hold anything
NEEDED = {"step": int, "loss": NUMBER, "tokens": int, "padded_tokens": int, "seconds": NUMBER}
MAY_HAVE = {"lr": NUMBER, "trained_tokens": NUMBER, "mfu": NUMBER, "untrained": bool, "skipped": bool, "samples": list}
MOST = 2**53  # of any count
MOST_BYTES = 2**33  # a run of a million steps that answers questions has 300 MB


@dataclass
class History:
    """Steps of one run. ``meta`` names the backend, device, dtype and seed; ``records`` has a dict a step."""

    meta: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)
    path: Path | None = None
    checkpoint: Path | None = None  # the last one written
    taken: int = 0  # steps added by this process
    begun: int = 0  # steps that were taken before it
    stopped: bool = False  # asked to, before the last step
    stopped_by: str = "SIGTERM"  # the signal that asked, where ``stopped``

    def start(self) -> None:
        """Begin the file with the records that there are, replacing that of an earlier run."""
        if self.path is None:
            return
        with full_disk_told(self.path), written_whole(self.path, "w") as file:
            for line in ({"meta": {"format": HISTORY_FORMAT, **self.meta}}, *self.records):
                file.write(summed(line) + "\n")

    def add(self, record: dict[str, Any]) -> None:
        """Keep a step, on disk at once."""
        self.records.append(record)
        self.taken += 1
        if self.path is not None:
            with full_disk_told(self.path):
                append(self.path, summed(record) + "\n")

    @property
    def losses(self) -> list[float]:
        """Mean loss per trained token of each step, in nats; NaN of one without a trained token."""
        return [record["loss"] for record in self.records]

    @property
    def trained_losses(self) -> list[float]:
        """The losses without those of steps that had no trained token."""
        return [record["loss"] for record in self.records if not record.get("untrained")]

    @property
    def untrained_steps(self) -> int:
        """Steps without a trained token, in which nothing was computed."""
        return sum(record.get("untrained", False) for record in self.records)

    def total(self, key: str) -> float:
        """Sum of one column over all steps, such as ``tokens`` or ``seconds``; earlier versions lack some columns."""
        return sum(record.get(key, 0) for record in self.records)

    @property
    def tokens_per_second(self) -> float:
        """Real tokens (padding not counted) per second of wall time."""
        return self.total("tokens") / max(self.total("seconds"), 1e-9)

    @property
    def trained_per_second(self) -> float:
        """Tokens a loss was taken of, per second of wall time."""
        return self.total("trained_tokens") / max(self.total("seconds"), 1e-9)

    @property
    def utilisation(self) -> float:
        """Needed arithmetic per second, as a share of what the device could do; steps weighted by their time."""
        steps = [record for record in self.records if "mfu" in record]
        seconds = sum(record["seconds"] for record in steps)
        return sum(record["mfu"] * record["seconds"] for record in steps) / max(seconds, 1e-9)

    @property
    def padding_share(self) -> float:
        """Share of the computed positions that held padding."""
        return 1 - self.total("tokens") / max(self.total("padded_tokens"), 1)

    @property
    def status(self) -> str:
        """Where the run stands, in 51 characters: loss, learning rate, real tokens a second of late, backend."""
        last, late = self.records[-1], self.records[-20:]
        speed = sum(record["tokens"] for record in late) / max(sum(record["seconds"] for record in late), 1e-9)
        backend = self.meta["backend"].split()[-1]  # "transformers sdpa" has no room
        loss = "nothing to train" if last.get("untrained") else f"loss {last['loss']:.3f}"
        return f"{loss}, lr {last['lr']:.1e}, {speed:,.0f} tok/s, {backend}"

    @classmethod
    def read(cls, path: Path) -> History:
        """A history back from its file, without a last line that a kill cut short; InputError names a damaged line."""
        lines = read_text(path, INSTEAD, MOST_BYTES).split("\n")
        cut = lines.pop()  # what follows the last line feed; nothing, unless a kill cut it short
        if cut and SUM.search(cut):  # all of it is there
            lines.append(cut)
        try:
            first = unsummed(lines[0] if lines else "", str(path), required=False, words=True)
            meta = dict(checked(first, "meta", dict, str(path), INSTEAD))
        except InputError:
            raise InputError(f"{path} does not begin like a history of a run; {INSTEAD}.") from None
        found = meta.pop("format", 1)
        if type(found) is not int or found not in KNOWN_FORMATS:
            known = " and ".join(map(str, KNOWN_FORMATS))
            raise InputError(f"{path} has the format {quoted(found)}, this version reads {known}; update it.")
        return cls(meta, list(records_of(lines, path, found)), path)


def records_of(lines: list[str], path: Path, found: int) -> Iterator[dict[str, Any]]:
    """The records in the lines of a history of the format ``found``; InputError names the line that holds none."""
    strict, before = found == HISTORY_FORMAT, 0
    if strict:
        unsummed(lines[0], f"{path}:1", required=True, words=False)
    for number, line in enumerate(lines[1:], start=2):
        where = f"{path}:{number}"
        record = renamed(unsummed(line, where, strict, words=not strict), RENAMED_IN_HISTORY if found == 1 else {})
        kinds: dict[str, Any] = NEEDED | {name: kind for name, kind in MAY_HAVE.items() if name in record}
        for name, kind in kinds.items():
            value = checked(record, name, kind, where, INSTEAD)
            if isinstance(value, int) and abs(value) > MOST:
                raise InputError(f"{where} has {name} = {quoted(value)}, which no run comes to; {INSTEAD}.")
            if kind is NUMBER and value is None:
                record[name] = math.nan
        if record["step"] <= before:
            raise InputError(f"{where} has step {quoted(record['step'])} after step {before}; {INSTEAD}.")
        before = record["step"]
        yield record


def summed(record: dict[str, Any]) -> str:
    """A line of a history: strict JSON, which ends with the CRC-32 of the line without it."""
    text = strict_json(record)
    return f'{text[:-1]}, "crc32": "{zlib.crc32(text.encode()):08x}"}}'


def unsummed(line: str, where: str, required: bool, words: bool) -> dict[str, Any]:
    """What ``summed`` made a line of; InputError where it is none, or its sum is another or, if ``required``, missing.

    ``words``: whether NaN and Infinity are numbers.
    """
    line = line.removesuffix("\r")
    ending = SUM.fullmatch(line, max(0, len(line) - SUM_CHARACTERS))
    if ending is not None:
        line = line[:-SUM_CHARACTERS] + "}"
    if (ending is None and required) or (ending is not None and zlib.crc32(line.encode()) != int(ending[1], 16)):
        raise InputError(f"{where} is damaged, it is not the line that was written; {INSTEAD}.")
    return parse_json(line, where, INSTEAD, words=words)


def append(path: Path, text: str) -> None:
    """Write behind a file all of the text, or nothing: half a line would be glued to the next; OSError, full disk."""
    with path.open("ab", buffering=0) as file:  # closed after each line, so that a kill costs at most this one
        before, left = file.tell(), memoryview(text.encode())
        try:
            while left:
                left = left[file.write(left) :]
        except BaseException:
            with suppress(OSError):
                file.truncate(before)
            raise
