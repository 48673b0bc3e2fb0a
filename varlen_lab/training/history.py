"""What a run says of itself step by step: ``history.jsonl``, a line a step.

The first line says what the numbers were measured on (mode, attention backend, device, dtype, seed, versions); every
further line is one step. Lines are flushed as they come, so a killed run keeps its history.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from varlen_lab.errors import InputError
from varlen_lab.files.writing import written_whole
from varlen_lab.training.checkpoint import full_disk_told, renamed

HISTORY_FORMAT = 2
RENAMED_IN_HISTORY = {"slots": "padded_tokens", "squares": "sum_squared_lengths"}  # keys of format 1, renamed since


@dataclass
class History:
    """Steps of one run. ``meta`` names the backend, device, dtype and seed; ``records`` has a dict a step."""

    meta: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)
    path: Path | None = None
    checkpoint: Path | None = None  # the last one written
    taken: int = 0  # steps added by this process
    stopped: bool = False  # asked to by SIGTERM, before the last step

    def start(self, after: int = 0) -> None:
        """Begin the file, replacing that of an earlier run; records up to step ``after`` are taken over from it."""
        if self.path is None:
            return
        if after and self.path.exists():
            self.records = [record for record in History.read(self.path).records if record["step"] <= after]
        with full_disk_told(self.path), written_whole(self.path, "w") as file:
            for line in ({"meta": {"format": HISTORY_FORMAT, **self.meta}}, *self.records):
                file.write(json.dumps(line) + "\n")

    def add(self, record: dict[str, Any]) -> None:
        """Keep a step, on disk at once."""
        self.records.append(record)
        self.taken += 1
        if self.path is not None:
            # closed after each line, so that a kill costs at most the line being written
            with full_disk_told(self.path), self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(record) + "\n")

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
        """Sum of one column over all steps, such as ``tokens`` or ``seconds``."""
        return sum(record[key] for record in self.records)

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
        """A history back from its file; a line cut short by a kill is left out. InputError for an unknown format."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            meta = dict(json.loads(lines[0])["meta"])
        except (IndexError, KeyError, TypeError, ValueError):
            raise InputError(f"{path} does not begin like a history of a run; put it back, or move it away.") from None
        found = meta.pop("format", 1)
        if found not in (1, HISTORY_FORMAT):
            raise InputError(f"{path} has the format {found!r}, this version reads 1 and {HISTORY_FORMAT}; update it.")
        records = []
        for line in lines[1:]:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if not isinstance(record, dict) or "step" not in record:
                raise InputError(f"{path} has a line that is no step of a run; put it back, or move it away.")
            records.append(renamed(record, RENAMED_IN_HISTORY if found == 1 else {}))
        return cls(meta, records, path)
