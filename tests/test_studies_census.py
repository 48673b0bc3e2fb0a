"""Every causal language model class in four styles of packed batch: with ours exact, or said; never wrong in silence.

``docs/census.json`` keeps the verdicts of one version of transformers. A class that changes its verdict fails here.
"""

from __future__ import annotations

import json
import re
import runpy
import signal
import sys
import time
from concurrent.futures import Future
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from turns import by_turns, full_only

from varlen_lab.attention.huggingface import varlen_attention
from varlen_lab.errors import InputError
from varlen_lab.leaks.checking import audit
from varlen_lab.models.miniature import miniature
from varlen_lab.studies import census as census_of
from varlen_lab.studies import one_class
from varlen_lab.studies.census import as_json, causal_lm_types, census, changes, record, written
from varlen_lab.studies.one_class import (
    EXACT,
    LEAKS,
    LENGTHS,
    LIMIT,
    NEVER,
    NOT_BUILT,
    RAISES,
    REFUSED,
    SILENT,
    Outcome,
    apart,
    batch,
    verdicts_of,
)
from varlen_lab.studies.registry import OURS, STYLES

KEPT = json.loads((Path(__file__).parents[1] / "docs" / "census.json").read_text(encoding="utf-8"))
SAME = KEPT["versions"]["transformers"] == transformers.__version__
WHY = f"docs/census.json is of transformers {KEPT['versions']['transformers']}, this is {transformers.__version__}"
of_kept_version = pytest.mark.skipif(not SAME, reason=WHY)
EXACT_ALONE, EXACT_ISOLATED = 111, 29  # classes with ours: as they are, and through layers run document by document


# ------------------------------------------------------------------------------------------------------- every class


@pytest.mark.parametrize("name", by_turns(causal_lm_types(), always=5))
def test_a_class_keeps_its_verdicts_and_ours_is_never_silently_wrong(name: str) -> None:
    found = verdicts_of(name, list(STYLES))
    lawful(found)
    mine = next(each for each in found if each.style == OURS)
    if mine.verdict == EXACT and not mine.isolated:
        report = audit(miniature(name).train(), batch())
        assert report.ok, report
    if not SAME:
        pytest.skip(WHY)
    changed = changes(KEPT, as_json([found]))
    assert not changed, "\n".join(changed)


def lawful(outcomes: list[Outcome]) -> None:
    """What holds for the outcomes of every class."""
    for one in outcomes:
        assert one.verdict in {EXACT, REFUSED, LEAKS, RAISES, NOT_BUILT, SILENT}
        assert one.verdict != SILENT and (one.style != OURS or one.verdict not in NEVER), one
        if one.verdict == EXACT:
            assert one.difference is not None and one.difference <= LIMIT
            continue
        assert len(one.words) > 20
        if one.verdict == REFUSED:
            assert re.search(r"[;,] .+\.$", one.words), one.words
        if one.verdict == LEAKS:
            assert one.kinds and len(one.layers) == len(one.kinds) and one.difference is not None
            assert one.difference > LIMIT


@full_only
@pytest.mark.slow
@pytest.mark.alone
def test_the_census_of_all_classes_is_quick_and_none_is_silently_wrong() -> None:
    start = time.perf_counter()
    found = list(census())
    assert time.perf_counter() - start < 90 * len(STYLES) * 2  # on a machine that does other things too
    for each in found:
        lawful(each)
    verdicts = [one.verdict for each in found for one in each if one.style == OURS]
    assert verdicts.count(EXACT) >= 86 + EXACT_ISOLATED and verdicts.count(NOT_BUILT) <= 11


def test_the_kept_census_has_every_class_and_says_how_many_are_exact() -> None:
    classes = KEPT["classes"]
    assert all(list(each) == list(STYLES) for each in classes.values())
    mine = {name: each[OURS] for name, each in classes.items()}
    exact = [one for one in mine.values() if one["verdict"] == EXACT]
    assert sum("isolated" not in one for one in exact) == EXACT_ALONE
    assert sum("isolated" in one for one in exact) == EXACT_ISOLATED
    assert all(one["difference"] <= LIMIT for one in exact)
    assert not [name for name, one in mine.items() if one["verdict"] in (*NEVER, LEAKS)]
    for name in ("qwen3_next", "qwen3_5", "nemotron_h", "granitemoehybrid", "lfm2", "lfm3", "jamba", "bamba"):
        assert mine[name]["verdict"] == EXACT and mine[name]["isolated"], name
        assert classes[name]["positions"]["verdict"] == LEAKS, name
    for each in classes.values():
        for one in each.values():
            assert one["verdict"] == EXACT or one.get("words") or one["causes"]


@of_kept_version
def test_the_kept_census_is_of_the_classes_that_there_are() -> None:
    assert list(KEPT["classes"]) == causal_lm_types()


# ------------------------------------------------------------------------------------------------- the four batches


def test_styles_give_a_model_what_they_say() -> None:
    given = {name: {key for key in batch(name) if key not in ("input_ids", "labels")} for name in STYLES}
    seams = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
    assert given["cache"] == {"position_ids"} and given["positions"] == {"position_ids", "use_cache"}
    assert given[OURS] == {"position_ids", "use_cache"} | seams
    assert given["flash"] == given[OURS] | {"seq_idx"}
    rows = [batch(name) for name in STYLES]
    for each in rows:
        for name in ("input_ids", "labels", "position_ids"):
            assert torch.equal(torch.as_tensor(each[name]), rows[0][name])
    assert rows[1]["cu_seq_lens_q"].tolist() == rows[2]["cu_seq_lens_q"].tolist() == [0, 7, 8, 48, 49, 72, 75, 106]
    assert rows[1]["seq_idx"].bincount().tolist() if rows[1]["seq_idx"].ndim == 1 else True


def test_the_four_styles_tell_classes_apart() -> None:
    verdicts = {name: [each.verdict for each in verdicts_of(name, list(STYLES))] for name in ("llama", "mamba2")}
    assert verdicts == {"llama": [EXACT, EXACT, EXACT, LEAKS], "mamba2": [LEAKS, LEAKS, EXACT, LEAKS]}


@of_kept_version
def test_a_leak_in_one_mode_alone_is_looked_for_in_that_mode() -> None:
    """This class makes no cache in train mode, and audited in it would be called silently wrong."""
    (found,) = verdicts_of("cohere_compass_text", ["cache"])
    assert found.verdict == LEAKS and found.kinds == ("use_cache",)


def test_without_isolation_a_recurrent_class_is_not_exact() -> None:
    (isolated,), (plain,) = verdicts_of("lfm2"), verdicts_of("lfm2", isolate=False)
    assert isolated.verdict == EXACT and isolated.isolated == ("model.layers.1.conv",)
    assert plain.verdict == REFUSED and plain.isolated == () and "carries a state" in plain.words


def test_a_model_that_cannot_be_looked_into_is_no_reason_to_call_it_safe() -> None:
    (found,) = verdicts_of("xlnet", ["positions"])
    assert found.verdict == LEAKS and found.kinds == ("not examined",) and "embedding" in found.words


def test_an_attention_that_a_class_does_not_have_is_said() -> None:
    (mine,) = verdicts_of("falcon")
    assert mine.verdict == REFUSED and "eager" in mine.words
    (its,) = verdicts_of("llama", ["positions"], "flash_attention_2")
    assert its.verdict == NOT_BUILT and "FlashAttention2" in its.words


# --------------------------------------------------------------------------------------------------- planted faults


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
    (verdict,) = verdicts_of("llama", attention="planted")
    assert verdict.verdict == LEAKS and verdict.difference is not None and verdict.difference > 0.01
    assert "attention ignores the seams" in verdict.kinds and "LlamaAttention" in verdict.layers[0]


def test_a_leak_that_the_audit_does_not_see_is_silently_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    register_planted(monkeypatch, forgets_seams)
    clean = audit(miniature("llama"), batch())
    monkeypatch.setattr(one_class, "audit", lambda model, batch, boundaries: clean)
    assert verdicts_of("llama", attention="planted")[0].verdict == SILENT


def test_an_isolation_that_claims_too_much_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    register_planted(monkeypatch, forgets_seams)
    monkeypatch.setattr(one_class, "isolate_measured", lambda model, batch: model)
    assert verdicts_of("llama", attention="planted")[0].verdict == LEAKS


@pytest.mark.parametrize(
    ("raised", "expected"), [(InputError("no seams here; pack again."), REFUSED), (KeyError("seams"), RAISES)]
)
def test_what_is_raised_is_a_verdict(raised: Exception, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*inputs: Any, **options: Any) -> Any:
        raise raised

    register_planted(monkeypatch, fails)
    monkeypatch.setattr(one_class, "ours", lambda attention: True)  # documents alone are run with eager attention
    (verdict,) = verdicts_of("llama", attention="planted", isolate=False)
    assert verdict.verdict == expected and str(raised) in verdict.words


def test_gradients_that_differ_are_a_difference() -> None:
    """Logits alone do not show a wrong backward pass."""
    logits, one = torch.ones(3, 2), torch.ones(4)
    assert apart((logits, [one, None]), (logits, [one, None])) == 0
    assert apart((logits, [one * 1.5, None]), (logits, [one, None])) == 0.5
    assert apart((logits, [one, one]), (logits, [one, None])) == 1.0
    assert apart((logits * float("nan"), [one]), (logits, [one])) == float("inf")


# --------------------------------------------------------------------------------------------------------- what is kept


def outcomes(verdict: str = EXACT, difference: float | None = 3.4e-7, **more: Any) -> list[list[Outcome]]:
    return [[Outcome("llama", OURS, verdict, difference, attention="varlen", **more)]]


def test_a_verdict_that_changes_fails_with_both_lines() -> None:
    before = as_json(outcomes())
    leaking = outcomes(LEAKS, 0.3, words="long", kinds=("window",), layers=("LlamaAttention of layer 0",))
    assert changes(before, as_json(leaking)) == [
        "- llama, ours: exact",
        "+ llama, ours: leaks: window (LlamaAttention of layer 0)",
    ]
    assert changes(before, as_json([[Outcome("new", OURS, REFUSED, words="no; wait.")]])) == [
        "- new, ours: not there",
        "+ new, ours: refused: no; wait.",
    ]
    assert changes(before, as_json([])) == []  # a part of the classes


def test_digits_are_no_change() -> None:
    assert changes(as_json(outcomes()), as_json(outcomes(difference=9.1e-6))) == []


def test_what_is_kept_has_one_digit_and_can_be_read_back() -> None:
    kept = as_json([*outcomes(), [Outcome("mamba", OURS, LEAKS, float("inf"), "0.123", ("NaN",), ("logits",))]])
    assert json.loads(written(kept)) == kept
    assert kept["classes"]["llama"][OURS]["difference"] == 3e-7
    assert kept["classes"]["mamba"][OURS] == {
        "verdict": LEAKS,
        "difference": None,
        "causes": [{"cause": "NaN", "layer": "logits"}],
    }
    assert set(kept["versions"]) == {"python", "torch", "transformers", "varlen_lab"} and kept["documents"] == LENGTHS


@pytest.mark.slow
def test_several_processes_give_the_verdicts_of_one_in_order() -> None:
    names = ["llama", "mamba2", "gpt2"]
    one, two = (list(census(names, processes=number)) for number in (1, 2))
    assert [[record(each) for each in outcomes] for outcomes in one] == [[record(e) for e in each] for each in two]


def test_processes_never_hear_ctrl_c_and_the_first_does_again() -> None:
    heard = []

    class Pool:
        def __init__(self, *_: Any) -> None: ...

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None: ...

        def submit(self, *_: Any) -> Future[list[Outcome]]:
            heard.append(signal.getsignal(signal.SIGINT))  # what processes that start here take over
            done: Future[list[Outcome]] = Future()
            done.set_result([])
            return done

    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(census_of, "ProcessPoolExecutor", Pool)
        assert list(census(["gpt2"], processes=2)) == [[]]
    assert heard == [signal.SIG_IGN] and signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
def test_who_wants_no_more_waits_for_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    others, work = active_children(), census(causal_lm_types()[:40], processes=2)
    next(work)
    start = time.perf_counter()
    work.close()  # type: ignore[attr-defined]  # a generator
    assert time.perf_counter() - start < 5 and active_children() == others
    assert "Traceback" not in capfd.readouterr().err


def test_names_are_checked_before_any_work_and_doubles_are_one() -> None:
    with pytest.raises(InputError, match="did you mean 'llama'"):
        census(["lama"])
    with pytest.raises(InputError, match="did you mean 'positions'"):
        census(["llama"], ["position"])
    assert len(list(census(["gpt2", "gpt2"], [OURS, OURS]))) == 1


def test_run_as_a_file_it_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "varlen_lab.studies.census")
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("varlen_lab.studies.census", run_name="__main__")
    assert "say varlen-lab census" in capsys.readouterr().err
