"""One record makes a strategy or a weighting: whatever lists, checks or uses them finds it there."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from datasets import Dataset

from varlen_lab.cli import main
from varlen_lab.cli.pack_report import add_arguments
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.packing.collators import token_weights
from varlen_lab.packing.registry import OVERLONG, STRATEGIES, WEIGHTINGS, Strategy, Weighting
from varlen_lab.packing.strategies import pack_dataset, pack_lengths
from varlen_lab.packing.whole import Placement


def two_a_row(lengths: np.ndarray, max_length: int, seed: int | None, lookahead: int) -> Placement:
    """A strategy of this test: two documents a row, the last first."""
    offsets = np.append(np.arange(0, len(lengths), 2), len(lengths))
    return Placement(np.arange(len(lengths))[::-1], offsets)


@pytest.fixture
def dummy(monkeypatch: pytest.MonkeyPatch) -> str:
    strategy = Strategy("dummy", f"{__name__}:two_a_row", "two documents a row")
    monkeypatch.setitem(STRATEGIES, "dummy", strategy)
    return strategy.name


def test_every_record_names_itself_and_a_function_that_is_there() -> None:
    for registry in (STRATEGIES, WEIGHTINGS):
        assert all(name == record.name and record.about for name, record in registry.items())
    for strategy in STRATEGIES.values():
        module, function = strategy.function.split(":")
        assert callable(getattr(importlib.import_module(module), function))
    assert all(OVERLONG.values()) and [name for name, one in STRATEGIES.items() if not one.setting] == ["unpacked"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_plans_and_writes_the_same_rows(name: str) -> None:
    documents = Dataset.from_dict({"input_ids": [[1] * length for length in (4, 4, 7, 3, 3)]})
    packs = pack_lengths([4, 4, 7, 3, 3], 10, name)
    assert packs.strategy == name and packs.report().packed_tokens == 21
    rows = pack_dataset(documents, 10, name)
    assert rows["seq_lengths"][:] == [packs.seq_lengths(row) for row in range(len(packs))]
    assert (len(packs.order) == 5) == (name != "concat")


def test_a_new_strategy_packs_lengths_and_datasets(dummy: str) -> None:
    packs = pack_lengths([2, 3, 4], 10, dummy)
    assert [packs.seq_lengths(row) for row in range(len(packs))] == [[4, 3], [2]]
    documents = Dataset.from_dict({"input_ids": [[1, 2], [3, 4, 5]]})
    assert pack_dataset(documents, 10, dummy)["input_ids"][:] == [[3, 4, 5, 1, 2]]
    with pytest.raises(InputError, match=r"strategy 'dumy' is unknown.*did you mean 'dummy'"):
        pack_lengths([2], 10, "dumy")


def test_a_new_strategy_is_in_the_help_of_pack_report(dummy: str) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert dummy in parser.format_help()


def test_a_new_strategy_is_a_setting_and_packs_the_rows_of_a_run(dummy: str, small: Config) -> None:
    from varlen_lab.training.data import load_rows, load_tokenizer

    config = small.replace(pack_strategy=dummy).with_mode("varlen")
    rows, report = load_rows(config, load_tokenizer(config))
    assert report.strategy == dummy and set(map(len, rows["seq_lengths"][:])) <= {1, 2}


def test_a_new_weighting_is_a_setting_and_weighs_tokens(monkeypatch: pytest.MonkeyPatch, small: Config) -> None:
    monkeypatch.setitem(WEIGHTINGS, "dummy", Weighting("dummy", "row", "every row counts the same"))
    row = {"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4], "seq_lengths": [3, 1]}
    assert token_weights(row, "dummy").tolist() == [0, 0.5, 0.5, 0]
    assert small.replace(loss_weighting="dummy").loss_weighting == "dummy"
    with pytest.raises(InputError, match=r"loss_weighting 'pak' is unknown.*did you mean 'pack'"):
        token_weights(row, "pak")


def test_check_env_names_a_new_strategy(dummy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-env"]) == 0
    assert dummy in capsys.readouterr().out
