"""What a run leaves behind: one record per optimizer step, kept in memory and in ``history.jsonl``.

The first line of the file says what the numbers were measured on (mode, attention backend, device, dtype, seed,
versions); every further line is one step. Lines are flushed as they come, so a killed run keeps its history.
"""

from __future__ import annotations

import json
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

    def start(self) -> None:
        """Begin the file, replacing that of an earlier run."""
        if self.path is not None:
            self.path.write_text(json.dumps({"meta": self.meta}) + "\n", encoding="utf-8")

    def add(self, record: dict[str, Any]) -> None:
        """Keep a step, on disk at once."""
        self.records.append(record)
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
