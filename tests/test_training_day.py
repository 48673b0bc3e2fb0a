"""A chat template that writes the day: a run is written on one day, also when it is gone on with on another."""

from __future__ import annotations

import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from varlen_lab.config.schema import Config
from varlen_lab.documents import days
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.training import beginning, trainer
from varlen_lab.training.data import documents_key
from varlen_lab.training.trainer import train

# as Llama 3.1 begins
DATED = """\
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{{- "Today Date: " + date_string + "\\n" }}
"""


def set_clock(monkeypatch: pytest.MonkeyPatch, day: str) -> None:
    class Clock(datetime.date):
        @classmethod
        def today(cls) -> Any:
            return cls.fromisoformat(day)

    for module in (days, beginning):
        monkeypatch.setattr(module, "datetime", SimpleNamespace(date=Clock, datetime=datetime.datetime))


def dated() -> Any:
    tokenizer = builtin_tokenizer()
    tokenizer.chat_template = DATED + str(tokenizer.chat_template)
    return tokenizer


@pytest.fixture
def config(small: Config, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> Config:
    monkeypatch.setattr(trainer, "load_tokenizer", lambda config: dated())
    return small.with_mode("varlen").replace(prompt_template="tokenizer", max_steps=2, save_steps=1)


def test_a_run_is_gone_on_with_the_next_day(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_clock(monkeypatch, "2026-01-31")
    whole = train(config.replace(work_dir=str(tmp_path / "whole")), progress=False)
    assert whole.meta["template_day"] == "2026-01-31"

    def stop(record: dict) -> None:
        if record["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, progress=False, on_step=stop)
    set_clock(monkeypatch, "2026-02-01")
    history = train(config, progress=False, resume=True)
    assert history.taken == 1 and history.losses == whole.losses
    assert history.meta["template_day"] == "2026-01-31"
    anew = train(config.replace(work_dir=str(tmp_path / "anew")), progress=False)
    assert anew.meta["template_day"] == "2026-02-01" and anew.meta["data"] != whole.meta["data"]


def test_the_key_of_documents_has_the_day_only_where_it_is_written(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys(tokenizer: Any, config: Config) -> int:
        found = set()
        for day in ("2026-01-31", "2026-02-01"):
            set_clock(monkeypatch, day)
            found.add(documents_key(config, tokenizer))
        return len(found)

    assert keys(dated(), config) == 2
    assert keys(dated(), config.replace(prompt_template="internlm2_chat")) == 1
    assert keys(builtin_tokenizer(), config) == 1


def test_a_template_that_asks_for_the_day_is_written_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first line is the first of a text still, and every directive is a word."""
    today = datetime.date.today().isoformat()
    for text in (
        "  {% set a = 1 %}\n{{ strftime_now('%Y') }}",
        "\n{{ strftime_now('%y') }}",
        "{{ strftime_now('%D') }}",
    ):
        tokenizer = builtin_tokenizer()
        tokenizer.chat_template = text
        days.write_on(tokenizer, today)
        asked: Any = [{"role": "user", "content": "hi"}]
        ours = tokenizer.apply_chat_template(asked, tokenize=False, **days.with_its_day(tokenizer))
        assert ours == tokenizer.apply_chat_template(asked, tokenize=False)
