"""Report, goals and figures of the GPU benchmark, from a recorded file. The numbers here are made up, by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.goals import GOALS, LARGE, SMALL, judge
from benchmarks.gpu.readme import block, newest_folder
from benchmarks.gpu.report import number, write
from benchmarks.gpu.store import newest

MACHINE = {
    "device": "NVIDIA MADE-UP",
    "torch": "2.11.0+cu130",
    "kernels": "kernels torch_varlen, sdpa, flex",
    "flash_attn": "trimmed build",
    "driver": "580",
    "cuda": "13.0",
    "python": "3.12.3",
    "cores": 16,
    "packages": {"transformers": "5.17.0", "trl": None},
}
RUN = {
    "command": "python -m benchmarks.gpu --minutes 9",
    "commit": "abc1234",
    "started": "2026-01-01 00:00 UTC",
    "machine": MACHINE,
    "sections": {"kernels": "done", "training": "ended by force after 195 s"},
    "rehearsal": False,
}


def kernel(name: str, width: int, mix: str, both: float) -> dict[str, Any]:
    cell = f"{name} | 32/4 heads of {width} | documents of {mix}"
    facts = {"kernel": name, "width": width, "mix": mix, "tokens": 32768}
    speeds = {"forward_ms": 1.0, "both_ms": 3.0, "forward_tflops": both * 1.2, "both_tflops": both}
    return {"section": "kernels", "cell": cell, **facts, **speeds}


def training(model: str, mode: str, row: int, rate: float, gib: float, compiled: bool = False) -> dict[str, Any]:
    name = f"{model} | {mode} | rows of {row:,}" + (" | compiled" if compiled else "")
    facts = {"model": model, "mode": mode, "row": row, "compiled": compiled, "recomputed": "nothing", "kernel": "x"}
    return {
        "section": "training",
        "cell": name,
        **facts,
        "tokens_per_second": rate,
        "mfu": rate / 150e3,
        "peak_gib": gib,
    }


def peer(name: str, rate: float) -> dict[str, Any]:
    return {"section": "peers", "cell": name, "tokens_per_second": rate, "attention": "varlen_torch", "row": 16384}


MIXES = {"512": 100.0, "lognormal 600": 131.0, "2,048": 190.0, "8,192": 220.0}
CELLS = [
    {"section": "ceilings", "cell": "product", "tflops": 700.5, "milliseconds": 1.57},
    *(kernel("torch_varlen", width, mix, both + width) for width in (64, 128) for mix, both in MIXES.items()),
    *(kernel("full causal", width, mix, 8.0) for width in (64, 128) for mix in MIXES),
    {**kernel("flex", 64, "512", 0), "status": "unsupported", "why": "NotImplementedError: no"},
    training(SMALL, "A padded", 16384, 20e3, 50.0),
    training(SMALL, "B grouped", 16384, 59e3, 40.0),
    training(SMALL, "C packed", 16384, 25e3, 36.0),
    training(SMALL, "D varlen", 16384, 60e3, 35.0),
    training(SMALL, "D varlen", 16384, 69e3, 33.0, compiled=True),
    training(SMALL, "C packed", 8192, 38e3, 36.0),
    training(SMALL, "D varlen", 8192, 61e3, 35.0),
    {"section": "training", "cell": f"{LARGE} | D varlen | rows of 16,384", "status": "out of memory", "why": "80 GiB"},
    peer("HF flattening, our kernel", 55e3),
    {
        "section": "parity",
        "cell": "three losses",
        "varlen_apart": 1.5e-3,
        "varlen_final": 1e-4,
        "cosine": 0.9999,
        "packed_apart": 0.02,
        "packed_cosine": 0.97,
        "same": True,
        "control_differs": True,
        "losses": {
            mode: [7.0 + gap, 6.5 + gap, 6.0] for mode, gap in (("unpacked", 0), ("packed", 0.1), ("varlen", 1e-3))
        },
        "caption": "60M · torch_varlen · cuda · bf16 · seed 0",
    },
]


@pytest.fixture
def content() -> dict[str, Any]:
    return {"runs": [RUN], "cells": [{"run": 0, "status": "ok", **cell} for cell in CELLS]}


def test_goals_are_judged_by_hand(content: dict[str, Any]) -> None:
    said = {verdict.goal.name: verdict for verdict in judge(newest(content))}
    values = {
        "varlen kernel, documents of ~600, head width 64": (195, "goal"),  # 131 + 64, of 140 / 180 / 210
        "varlen kernel, documents of ~600, head width 128": (259, "stretch"),
        f"{SMALL}, rows of 16k": (69e3, "goal"),  # the better of eager and compiled
        f"{SMALL}, rows of 16k, MFU": (0.46, "goal"),
        "varlen over padded": (3.0, "goal"),  # eager against eager
        "varlen over grouped by length": (60 / 59, "must"),
        "varlen over packed-full, rows of 8k": (61 / 38, "goal"),
        "varlen over packed-full, rows of 16k": (2.4, "goal"),
        "against HF Trainer with the same kernel": (69 / 55, "goal"),
        "peak memory over padded": (0.7, "must"),
        "parity: |varlen - unpacked| / loss, worst step": (1.5e-3, "stretch"),
        "parity: gradient cosine": (0.9999, "stretch"),
    }
    for name, (value, word) in values.items():
        assert said[name].value == pytest.approx(value) and said[name].word == word, name
    missing = {name: verdict.why for name, verdict in said.items() if verdict.value is None}
    assert set(missing) == set(said) - set(values)
    assert "out of memory" in missing[f"{LARGE}, rows of 16k"]
    assert all(missing.values())


def test_a_ratio_of_unlike_cells_says_so(content: dict[str, Any]) -> None:
    for cell in content["cells"]:
        if cell.get("mode") == "A padded":
            cell["recomputed"] = "all"
    said = {verdict.goal.name: verdict.why for verdict in judge(newest(content))}
    assert said["varlen over padded"] == "not alike: of activations, varlen nothing and padded all is recomputed"
    assert said["varlen over grouped by length"] == ""


def test_a_goal_that_is_missed_says_so(content: dict[str, Any]) -> None:
    for cell in content["cells"]:
        if cell["section"] == "parity":
            cell["varlen_apart"] = 0.01
    said = {verdict.goal.name: verdict.word for verdict in judge(newest(content))}
    assert said["parity: |varlen - unpacked| / loss, worst step"] == "missed"


def test_nothing_measured_is_said_for_every_goal() -> None:
    verdicts = judge({})
    assert len(verdicts) == len(GOALS) and {verdict.word for verdict in verdicts} == {"not measured"}
    assert all(re.search("was not run", verdict.why) for verdict in verdicts)


def test_the_report_says_what_was_measured_on_what(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    files = write(tmp_path, content)
    assert len(files) <= 8 and all(path.exists() for path in files)
    report = (tmp_path / "report.md").read_text()
    for words in ("NVIDIA MADE-UP", "bf16", "seed 0", "trimmed build", "abc1234", "2.11.0+cu130", "out of memory"):
        assert words in report
    assert "ended by force after 195 s" in report and "| **goal** |" in report
    images = re.findall(r"!\[(.+)\]\((.+)\)", report)
    assert {name for _, name in images} == {"kernels.png", "training.png", "parity.png"}
    assert all(len(alt) > 60 for alt, _ in images)
    assert "3.00× padded, 1.02× grouped by length, 2.40× packed" in report
    tables = [line for line in report.splitlines() if line.startswith("|")]
    assert tables and "None" not in report


@pytest.mark.parametrize("kept", [["ceilings"], ["kernels"], ["training"], ["peers"], []])
def test_a_report_of_parts(kept: list[str], content: dict[str, Any], tmp_path: Path) -> None:
    content["cells"] = [cell for cell in content["cells"] if cell["section"] in kept]
    assert (tmp_path / "report.md") in write(tmp_path, content)


def test_numbers_have_the_digits_they_deserve() -> None:
    given = (None, True, 12345, 12, 0.0, 1e-7, 0.12345, 123.456, 54321.9, "x")
    assert [number(value) for value in given] == [
        "",
        "yes",
        "12,345",
        "12",
        "0",
        "1.0e-07",
        "0.1235",
        "123.5",
        "54,322",
        "x",
    ]


def test_the_readmes_draw_from_the_newest_folder(content: dict[str, Any], tmp_path: Path) -> None:
    assert newest_folder(tmp_path) is None and "CUDA has not been run" in block("README.md", None)
    days = {"a": "2026-01-02 00:00 UTC", "b": "2026-01-01 00:00 UTC", "c": "2026-01-03 00:00 UTC"}
    for name, started in days.items():
        content["runs"] = [{**RUN, "started": started, "rehearsal": name == "c"}]
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(content))
    folder = newest_folder(tmp_path)
    assert folder == tmp_path / "a"  # c is a rehearsal
    english, chinese = block("README.md", folder), block("README_zh.md", folder)
    assert "| varlen | 60.0k | 40% | 35 GiB |  |" in english
    assert "| padded, random batches | 20.0k | 13% | 50 GiB | 3.00× |" in english
    assert "| HF flattening, our kernel | 55.0k |  |  | 1.09× |" in english
    assert re.findall(r"[\d.]+k|[\d.]+×", english) == re.findall(r"[\d.]+k|[\d.]+×", chinese)
    for cell in content["cells"]:
        if cell.get("mode") == "A padded":
            cell["recomputed"] = "all"
    (tmp_path / "a" / "results.json").write_text(json.dumps({**content, "runs": [RUN]}))
    assert "| padded, random batches, all activations recomputed | 20.0k" in block("README.md", folder)
    assert "NVIDIA MADE-UP" in english and "report.md" in english
