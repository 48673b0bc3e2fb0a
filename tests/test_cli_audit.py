"""``varlen-lab audit --model``: a leak that begins at a length of the config is found; no folder is a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hybrids import hybrid

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.leaks.planting import plant
from varlen_lab.leaks.registry import FAULTS
from varlen_lab.models.building import tiny
from varlen_lab.models.miniature import miniature

LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 400,
}
REACHABLE = {"max_position_embeddings": 4096}


def saved(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code of an audit, and its report."""
    capsys.readouterr()  # what saving the model printed
    code = main(["audit", "--model", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


AT_400 = {
    "mistral": ("sliding_window", "window missing", "MistralAttention of layers 0, 1"),
    "gemma2": ("sliding_window", "window missing", "Gemma2Attention of layer 0"),
    "phimoe": ("sliding_window", "window missing", "PhimoeAttention of layers 0, 1"),
    "llama4_text": ("attention_chunk_size", "chunk ignored", "Llama4TextAttention of layer 0"),
}
OTHERS = {"llama4_text": {"floor_scale": 8192}}


KNOWN_ELSEWHERE = ("mistral", "gemma2")  # windows that other tests find without a folder: slow here


@pytest.mark.parametrize(
    ("kind", "field", "name", "layer"),
    [
        pytest.param(kind, *rest, id=kind, marks=[pytest.mark.slow] if kind in KNOWN_ELSEWHERE else [])
        for kind, rest in AT_400.items()
    ],
)
def test_what_begins_at_400_is_ok_with_ours_and_found_with_an_attention_that_lacks_it(
    kind: str, field: str, name: str, layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = miniature(kind, **{field: 400, **OTHERS.get(kind, {})}, **REACHABLE)
    folder = saved(model, tmp_path)
    code, report = said(capsys, folder)
    assert code == 0 and report["ok"] and 400 in report["lengths"], report["findings"]
    assert f"exercised: {field} (400)" in report["notes"]
    plant(FAULTS[name], model, {})  # an attention that somebody wrote is known to transformers by its name
    code, report = said(capsys, folder, "--attn", model.config._attn_implementation)
    assert code == 1 and [finding["kind"] for finding in report["findings"]] == [FAULTS[name].expected[0]]
    assert report["findings"][0]["where"] == layer and "400" in report["findings"][0]["what"]
    assert report["findings"][0]["fix"]


def test_longrope_at_400_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"rope_parameters": LONGROPE, "original_max_position_embeddings": 400}
    code, report = said(capsys, saved(miniature("phi3", **changes, **REACHABLE), tmp_path))
    assert code == 1 and {400, 401} <= set(report["lengths"]) and report["logits"] > 0.1
    assert [finding["kind"] for finding in report["findings"]] == ["rope scaling"]
    assert "longer than 400 tokens" in report["findings"][0]["fix"]


def test_the_temperature_of_llama_4_is_found_where_its_floor_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its scale of the queries follows the place in the row, which restarting positions do not change."""
    code, report = said(capsys, saved(miniature("llama4_text", floor_scale=400, **REACHABLE), tmp_path))
    assert code == 1 and 801 in report["lengths"]
    assert (
        "floor_scale=400" in report["findings"][0]["what"] and "attn_temperature_tuning" in report["findings"][0]["fix"]
    )


# ------------------------------------------------------------------------------- folders that are no causal model


def fields(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def file(name: str, content: bytes | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)

    return change


BROKEN = {
    "no config": file("config.json", None),
    "no JSON": file("config.json", b"{"),
    "no text": file("config.json", b"\xff\xfe\x00"),
    "a list": file("config.json", b"[1, 2]"),
    "no fields": file("config.json", b"{}"),
    "no weights": file("model.safetensors", None),
    "weights of another kind": file("model.safetensors", b"rubbish"),
    "weights of another size": fields(hidden_size=48),
    "a word for a number": fields(hidden_size="many"),
    "an unknown type": fields(model_type="xyz"),
    "an encoder and a decoder": fields(model_type="t5"),
    "no language model": fields(model_type="vit"),
    "an unknown rope": fields(rope_parameters={"rope_type": "nope"}),
}


@pytest.mark.parametrize("spoil", BROKEN.values(), ids=BROKEN)
def test_a_broken_folder_is_one_sentence(
    spoil: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tiny("mistral"), tmp_path)
    capsys.readouterr()
    spoil(tmp_path)
    assert main(["audit", "--model", folder]) == 2
    sentence = capsys.readouterr().err.rpartition("error: ")[2].strip()
    assert "\n" not in sentence and sentence.endswith((".", "?")) and "Traceback" not in sentence


def test_the_dtype_of_a_folder_is_said_and_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tiny("llama").bfloat16(), tmp_path / "model")
    code, report = said(capsys, folder)
    assert code == 0 and "its folder says bfloat16; audited in float32 (--dtype auto takes its own)" in report["notes"]
    code, report = said(capsys, folder, "--dtype", "auto")
    assert code == 0 and not any("folder" in note for note in report["notes"])
    assert any("copy in float32, for bfloat16 cannot certify it" in note for note in report["notes"])
    code, report = said(capsys, folder, "--dtype", "fp64")
    assert code == 0 and "its folder says bfloat16; audited in float64" in report["notes"] and report["logits"] < 1e-12


# ------------------------------------------------------------------------------------ layers that carry a state


@pytest.mark.parametrize(("kind", "name"), [("lfm2", "Lfm2ShortConv"), ("qwen3_next", "Qwen3NextGatedDeltaNet")])
def test_a_hybrid_is_exact_through_isolation_and_named_without(
    kind: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(miniature(kind, "eager"), tmp_path)
    code, report = said(capsys, folder)
    assert code == 0 and report["ok"] and report["logits"] < 1e-4
    assert any(note.startswith("isolated: ") and name in note for note in report["notes"])
    code, report = said(capsys, folder, "--no-isolate")
    found = {finding["kind"]: finding for finding in report["findings"]}
    assert code == 1 and found["recurrent layer"]["where"].startswith(f"{name} of layer")
    assert "isolate(model)" in found["recurrent layer"]["fix"]
    assert not any(note.startswith("isolated") for note in report["notes"])


def test_a_config_is_audited_as_its_run_would_be(
    small: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for isolate in (True, False):
        path = tmp_path / f"{isolate}.py"
        config = small.replace(model_config=hybrid("lfm2"), isolate=isolate)
        path.write_text(render(config.with_mode("varlen")), encoding="utf-8")
    for words, expected in ((["True.py"], 0), (["True.py", "--no-isolate"], 1), (["False.py"], 1)):
        assert main(["audit", str(tmp_path / words[0]), *words[1:]]) == expected
        assert ("· isolated: 1 of 2 layers (Lfm2ShortConv" in capsys.readouterr().out) == (expected == 0)
