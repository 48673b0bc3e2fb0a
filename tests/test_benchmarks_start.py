"""What a command takes is measured of the command, and one that fails is no quick one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.neighbour import busy
from benchmarks.start import brief, spent
from varlen_lab.cli.registry import VERBS


def test_a_command_takes_its_own_time_and_a_failure_is_said(tmp_path: Path) -> None:
    with busy(1):
        found = spent(("list-cfg",), tmp_path)
    assert 0 < found.cpu < 60 and found.wall > 0
    with pytest.raises(SystemExit, match="unknown verb 'tarin'"):
        spent(("tarin",), tmp_path)


def test_what_is_measured_are_verbs() -> None:
    from benchmarks import neighbour, start

    assert {words[0] for words in [*start.VERBS, *neighbour.WORDS]} <= set(VERBS)
    assert brief(neighbour.WORDS[-2]).endswith(f"{start.CONFIG} max_steps=10")
