"""What lesson 12 stands on: listening to libraries, one step of other trainers, a table, the alarm on a real model."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from packed import packed_row
from transformers import DataCollatorWithFlattening
from transformers.utils import logging as transformers_logging

from varlen_lab.course.first_steps import NO_TRL, first_step_of_trainer, first_step_of_trl
from varlen_lab.course.heard import listening
from varlen_lab.course.puzzles.alarm import rings
from varlen_lab.course.tables import table
from varlen_lab.models.building import tiny

DOCUMENTS = [{"input_ids": list(range(5, 5 + length))} for length in (5, 9, 3, 12)]


def test_warnings_and_log_lines_are_heard_and_those_said_once_again() -> None:
    log = transformers_logging.get_logger("transformers.models.somewhere")
    level = logging.getLogger("transformers").level
    for _ in range(2):
        with listening() as said:
            warnings.warn("a warning of Python", UserWarning, stacklevel=1)
            log.warning_once("said once")
            log.warning_once("said once")
            log.info("not a warning")
        assert said == ["said once", "a warning of Python"]
    assert logging.getLogger("transformers").level == level
    with listening() as said:
        pass
    assert said == []


def test_a_step_of_trainer_is_ok_by_default_and_named_with_the_cache_on(capsys: pytest.CaptureFixture[str]) -> None:
    def llama() -> torch.nn.Module:
        net = tiny("llama")
        net.set_attn_implementation("sdpa")
        return net

    flat = DataCollatorWithFlattening()
    assert first_step_of_trainer(llama(), DOCUMENTS, flat).ok
    (finding,) = first_step_of_trainer(llama(), DOCUMENTS, flat, use_cache=True).findings
    assert finding.name == "use_cache"
    assert capsys.readouterr() == ("", "")


def test_trl_packs_safely_by_default_and_wrapped_rows_are_named() -> None:
    pytest.importorskip("trl", reason="TRL is not installed; pip install trl", exc_type=ImportError)
    from datasets import Dataset

    net = tiny("llama")
    net.set_attn_implementation("sdpa")
    rows = Dataset.from_list(DOCUMENTS * 4)
    found = {name: first_step_of_trl(net, rows, packing_strategy=name, max_length=32) for name in ("bfd", "wrapped")}
    assert found["bfd"] is not None and found["bfd"].ok
    assert found["wrapped"] is not None and [one.name for one in found["wrapped"].findings] == ["wrapped packing"]


def test_without_trl_a_sentence_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert first_step_of_trl(None, None) is None
    assert capsys.readouterr().out.strip() == NO_TRL


def test_an_alarm_is_run_on_a_model_and_its_failure_is_no_traceback() -> None:
    def leaks(logits_of, ids, seams):  # type: ignore[no-untyped-def]
        poked = ids.copy()
        poked[: seams[1]] += 1
        return bool((logits_of(poked) != logits_of(ids))[seams[1] :].any())

    batch, net = packed_row([4, 3]), tiny("llama")
    assert rings(leaks, net, batch, [4, 3]) is False
    net.set_attn_implementation("sdpa")
    seen_by_all = {"input_ids": batch["input_ids"], "position_ids": torch.arange(7)[None]}
    assert rings(leaks, net, seen_by_all, [4, 3]) is True
    assert rings(lambda *_: np.nonexistent, net, batch, [4, 3]) is None  # type: ignore[attr-defined]


def test_a_table_is_text_and_html_and_refuses_ragged_rows() -> None:
    shown = table(["name", "value"], [["a <b>", 1.23456], ["c", None]])
    assert str(shown) == "name   value\na <b>  1.235\nc      –"
    assert "a &lt;b&gt;" in shown._repr_html_() and 'text-align:right">1.235' in shown._repr_html_()
    with pytest.raises(ValueError, match="1 cells and the head 2"):
        table(["name", "value"], [["alone"]])
