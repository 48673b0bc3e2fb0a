"""The support table is a measurement: it says yes because nothing leaks, and no when something does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from varlen_lab.attention import sdpa
from varlen_lab.cli import main
from varlen_lab.models.building import families, tiny, variants
from varlen_lab.models.registry import FAMILIES, Family
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.studies.support import measure, measure_all


def test_the_families_are_the_pages_in_its_order() -> None:
    assert families() == list(FAMILIES) == sorted(FAMILIES) and len(FAMILIES) == 11
    assert [family.on_page for family in FAMILIES.values()].count(False) == 5
    assert sum(len(variants(family)) for family in families()) >= 22


def test_a_family_that_is_added_is_found_everywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One record: the names, the stand-in and the table of the page derive from it."""
    few = {"dummy-1b": {"model_type": "llama", "num_key_value_heads": 1}}
    dummy = Family("dummy", "dummy 1", on_page=False, variants=few)
    monkeypatch.setitem(FAMILIES, "dummy", dummy)
    assert families()[-1] == "dummy" and variants("dummy") == ["dummy-1b"]
    assert type(tiny("dummy")).__name__ == "LlamaForCausalLM"
    assert main(["support", "--family", "dummy"]) == 0
    shown = capsys.readouterr().out
    assert "dummy 1" in shown and "dummy-1b" in shown and "❌" in shown and "1 variant in 1 family:" in shown


@pytest.mark.slow
def test_every_variant_is_supported() -> None:
    rows = list(measure_all())
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    assert max(row.logits for row in rows) <= 5e-6


@pytest.fixture
def leaky(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: an sdpa backend that loses the last seam."""
    sound = sdpa.attend_sdpa

    def lossy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, options) -> torch.Tensor:
        seams = boundaries.cu_seqlens
        kept = torch.cat([seams[:-2], seams[-1:]]) if len(seams) > 2 else seams
        return sound(q, k, v, Boundaries(kept), options)

    monkeypatch.setattr(sdpa, "attend_sdpa", lossy)


def test_the_table_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["support", "--family", "yi", "zephyr"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("yi-6b", "zephyr-7b-beta", "MistralForCausalLM", "sdpa", "✅"))
    assert main(["support", "--family", "yi", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["ok"] is True
    assert main(["support", "--family", "yii"]) == 2


def test_a_leak_makes_it_no(leaky: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert not measure("yi", "yi-6b").ok
    assert main(["support", "--family", "yi"]) == 1
    shown = capsys.readouterr().out
    assert "❌" in shown and "merged documents" in shown


def test_a_folder_is_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny("qwen").save_pretrained(tmp_path / "qwen")
    assert main(["audit", "--model", str(tmp_path / "qwen")]) == 0
    assert "✓ ok" in capsys.readouterr().out
    assert main(["audit", "--model", str(tmp_path / "qwen"), "--attn", "sdpa"]) == 1
    shown = capsys.readouterr().out
    assert "use_cache=False" in shown and "who hears whom" in shown
    assert main(["audit", "--model", str(tmp_path / "qwen"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


@pytest.mark.parametrize("family", families())
def test_a_folder_of_any_family_is_audited(family: str, tmp_path: Path) -> None:
    tiny(family).save_pretrained(tmp_path)
    assert main(["audit", "--model", str(tmp_path)]) == 0


def test_a_config_is_audited(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "tiny_llama_full_docstrings_e1"]) == 0
    assert "8 documents" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "either a CONFIG or --model"),
        (["tiny_llama_full_docstrings_e1", "--model", "x"], "either a CONFIG or --model"),
        (["--model", "nobody/nothing"], "neither a folder"),
        (["tiny_llama_full_docstrings_e1", "--attn", "sdp"], "did you mean 'sdpa'"),
    ],
)
def test_bad_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *words]) == 2
    assert message in capsys.readouterr().err
