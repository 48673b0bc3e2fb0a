"""What a run leaves behind: one record per optimizer step, kept in memory and in ``history.jsonl``.

The first line of the file says what the numbers were measured on (mode, attention backend, device, dtype, seed,
versions); every further line is one step. Lines are flushed as they come, so a killed run keeps its history.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
        unfinished = self.path.with_name(self.path.name + ".tmp")
        lines = [{"meta": self.meta}, *self.records]
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(unfinished, self.path)

    def add(self, record: dict[str, Any]) -> None:
        """Keep a step, on disk at once."""
        self.records.append(record)
        self.taken += 1
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    @property
    def losses(self) -> list[float]:
        """Mean loss per trained token of each step, in nats."""
        return [record["loss"] for record in self.records]

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
        return 1 - self.total("tokens") / max(self.total("slots"), 1)

    @classmethod
    def read(cls, path: Path) -> History:
        """A history back from its file; a line cut short by a kill is left out."""
        lines = path.read_text(encoding="utf-8").splitlines()
        records = []
        for line in lines[1:]:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return cls(json.loads(lines[0])["meta"], records, path)
