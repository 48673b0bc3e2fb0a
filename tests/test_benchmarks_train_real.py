"""The benchmark of a published model: what a contender is, its goals, and a table that says who was not measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks import train_real
from benchmarks.train_real import BEST, CONTENDERS, HF, RECOMPUTING, TRL, goals_of, measure, measure_one, the_config
from varlen_lab.models.building import tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> train_real.Config:
    """Of a tiny model in place of the published one, and a few dialogues."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny("llama").save_pretrained(folder)
    turns = [("user", "How long is it?"), ("assistant", "About so long. ")]
    with (folder / "chat.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for number in range(40):
            said = [{"role": role, "content": text * (1 + number % 5)} for role, text in turns]
            file.write(json.dumps({"messages": said}) + "\n")
    return the_config(str(folder), str(folder / "chat.jsonl"), 256)


def test_rows_hold_whole_documents(config: train_real.Config) -> None:
    rows = train_real.sampled_rows(config, 3)
    assert len(rows) == 3 and all(128 < sum(map(len, row)) <= 256 for row in rows)


@pytest.mark.parametrize("name", [BEST, "grouped", HF, TRL + RECOMPUTING])
def test_a_contender_trains_on_the_rows(name: str, config: train_real.Config) -> None:
    if name.startswith(TRL):
        pytest.importorskip("trl")
    rows = [[np.arange(5, 45), np.arange(9, 30)], [np.arange(60, 90)]]
    found = measure_one(name, config, rows)
    assert found["rate"] > 0 and found["peak"] >= 0


def test_goals_are_missed_where_they_are() -> None:
    rate = {"varlen": 32.0, BEST: 30.0, "padded": 15.5, HF: 19.0, TRL: 25.0}
    goals = goals_of(4096, rate, {BEST: 500.0, "padded": 1.0, HF: 1000.0, TRL: 1.0})
    assert [met for _, met in goals] == [True, True, False, True]
    assert goals[2][0] == f"rows of 4,096: {BEST} 1.20 times {TRL} (goal 1.5)"
    assert goals_of(4096, {HF: 1.0}, {HF: 1.0})[0][1] is False


def test_who_is_not_measured_is_named(
    config: train_real.Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(command: list[str], **_: object) -> object:
        name, file = command[-2:]
        assert [len(row) > 0 for row in json.loads(Path(file).read_text(encoding="utf-8"))] == [True, True]
        failed = name == TRL
        return type(
            "Done",
            (),
            {
                "returncode": int(failed),
                "stdout": json.dumps({"rate": 3.0, "peak": 20.0}),
                "stderr": "ModuleNotFoundError: No module named 'trl'",
            },
        )

    monkeypatch.setattr(subprocess, "run", one)
    assert measure(config, steps=2, rounds=1) == []  # the goals speak of other rows
    said = capsys.readouterr().out
    assert f"{TRL} is not measured: ModuleNotFoundError" in said
    table = [line for line in said.splitlines() if "1.00 ×" in line]
    assert len(table) == len(CONTENDERS) - 1 and max(map(len, table)) <= 80
