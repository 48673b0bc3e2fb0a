"""Every causal language model class with our attention: exact, or said in a sentence; never wrong in silence."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from turns import by_turns, full_only

from varlen_lab.attention.huggingface import varlen_attention
from varlen_lab.errors import InputError
from varlen_lab.leaks.checking import audit
from varlen_lab.models.miniature import miniature
from varlen_lab.studies import census as study
from varlen_lab.studies.census import (
    EXACT,
    LEAKS,
    LIMIT,
    NEVER,
    NOT_BUILT,
    REFUSED,
    SILENT,
    TRACEBACK,
    causal_lm_types,
    census,
    main,
    outcome_of,
)


@pytest.mark.parametrize("name", by_turns(causal_lm_types(), always=10))
def test_a_class_is_exact_or_says_why_not(name: str) -> None:
    verdict = outcome_of(name)
    assert verdict.verdict not in NEVER, verdict
    if verdict.verdict == EXACT:
        assert verdict.difference is not None and verdict.difference <= LIMIT
        report = audit(miniature(name).train(), study.batch())
        assert report.ok, report
    else:
        assert len(verdict.words) > 20
    if verdict.verdict == REFUSED:
        assert re.search(r"; .+\.$", verdict.words), verdict.words
    if verdict.verdict == LEAKS:
        assert verdict.kinds and verdict.difference is not None and verdict.difference > LIMIT


@full_only
@pytest.mark.slow
@pytest.mark.alone
def test_the_census_of_all_classes_is_quick_and_none_is_silently_wrong() -> None:
    start = time.perf_counter()
    verdicts = {verdict.name: verdict.verdict for verdict in census()}
    assert time.perf_counter() - start < 90 * 2  # on a machine that does other things too
    kinds = list(verdicts.values())
    assert kinds.count(EXACT) >= 86 and kinds.count(NOT_BUILT) <= 11
    assert verdicts["gpt_oss"] == EXACT
    assert not [name for name, kind in verdicts.items() if kind in NEVER]


def register_planted(monkeypatch: pytest.MonkeyPatch, attention: Any) -> None:
    """An attention of the name ``planted`` in transformers, for one test."""
    for interface, function in ((AttentionInterface, attention), (AttentionMaskInterface, sdpa_mask)):
        mapping = interface._global_mapping
        monkeypatch.setitem(mapping, "planted", function)


def forgets_seams(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
    for name in ("cu_seq_lens_q", "max_length_q", "position_ids"):
        options.pop(name, None)
    return varlen_attention(module, query, key, value, None, backend="auto", **options)


def test_a_leak_is_called_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    register_planted(monkeypatch, forgets_seams)
    verdict = outcome_of("llama", "planted")
    assert verdict.verdict == LEAKS and verdict.difference is not None and verdict.difference > 0.01
    assert "attention ignores the seams" in verdict.kinds and "LlamaAttention" in verdict.layers[0]


def test_a_leak_that_the_audit_does_not_see_is_silently_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    register_planted(monkeypatch, forgets_seams)
    clean = audit(miniature("llama"), study.batch())
    monkeypatch.setattr(study, "audit", lambda model, batch: clean)
    assert outcome_of("llama", "planted").verdict == SILENT


@pytest.mark.parametrize(
    ("raised", "expected"), [(InputError("no seams here; pack again."), REFUSED), (KeyError("seams"), TRACEBACK)]
)
def test_what_is_raised_is_a_verdict(raised: Exception, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*inputs: Any, **options: Any) -> Any:
        raise raised

    register_planted(monkeypatch, fails)
    verdict = outcome_of("llama", "planted")
    assert verdict.verdict == expected and str(raised) in verdict.words


def test_gradients_that_differ_are_a_difference() -> None:
    """Logits alone do not show a wrong backward pass."""
    logits, one = torch.ones(3, 2), torch.ones(4)
    assert study.apart((logits, [one, None]), (logits, [one, None])) == 0
    assert study.apart((logits, [one * 1.5, None]), (logits, [one, None])) == 0.5
    assert study.apart((logits, [one, one]), (logits, [one, None])) == 1.0
    assert study.apart((logits * float("nan"), [one]), (logits, [one])) == float("inf")


@pytest.mark.slow
def test_several_processes_give_the_verdicts_of_one_in_order() -> None:
    names = ["llama", "mamba2", "gpt2"]
    assert list(census(names, processes=2)) == list(census(names, processes=1))


def test_a_name_that_is_no_class_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lama"]) == 2
    assert "did you mean 'llama'" in capsys.readouterr().err


def test_the_table_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["llama", "mamba2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and "2 classes: 1 exact" in lines[-2] + lines[-1]
    assert "train it unpacked." in " ".join(" ".join(lines).split())  # whole, on lines of its own
    assert main(["llama", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == EXACT
