"""The benchmark of streams: files of the size that was asked for, in two formats, of the same records."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from benchmarks import stream


def test_both_files_hold_the_same_records(tmp_path: Path) -> None:
    stream.write(tmp_path / "0.jsonl", 500_000)
    stream.write(tmp_path / "0.parquet", 500_000)
    lines = (tmp_path / "0.jsonl").read_text(encoding="utf-8").splitlines()
    assert 500_000 <= (tmp_path / "0.jsonl").stat().st_size < 1_500_000
    assert pyarrow.parquet.read_table(tmp_path / "0.parquet").to_pylist() == [json.loads(line) for line in lines]


def test_memory_that_grows_misses_the_goal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The planted fault: a run whose memory grows with its file."""
    monkeypatch.setattr(stream, "write", lambda path, size: path.write_bytes(b" " * (size // stream.MB)))
    monkeypatch.setattr(stream, "measure", lambda what, path, work: 100.0 + path.stat().st_size)
    monkeypatch.setattr("sys.argv", ["stream", "--small", "1"])
    assert stream.main() == 0
    monkeypatch.setattr("sys.argv", ["stream", "--small", "100"])
    assert stream.main() == 1 and "MISSED" in capsys.readouterr().out
