"""Documents held out: never trained on, and their loss is the same packed and unpacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.training.data import load_rows_and_held_out, load_tokenizer
from varlen_lab.training.trainer import train


@pytest.fixture
def holding_out(small: Config) -> Config:
    return small.replace(evaluation_share=0.25, evaluation_freq=1)


def test_held_out_documents_are_not_trained_on(holding_out: Config) -> None:
    config = holding_out.with_mode("varlen")
    rows, report, held_out = load_rows_and_held_out(config, load_tokenizer(config))
    assert held_out is not None and report.documents == 30
    texts = [
        {tuple(row["input_ids"][a:b]) for row in part for a, b in spans(row["seq_lengths"])}
        for part in (rows, held_out)
    ]
    assert len(texts[0]) + len(texts[1]) == 40 and not texts[0] & texts[1]


def spans(lengths) -> list[tuple[int, int]]:
    ends = [int(end) for end in lengths.cumsum()]
    return list(zip([0, *ends[:-1]], ends))


def test_evaluation_packed_equals_evaluation_unpacked(holding_out: Config, tmp_path: Path) -> None:
    """With lr 0 all modes hold the same weights, so the held-out losses must agree; the naive one's too."""
    losses = {}
    for mode in ("unpacked", "packed", "varlen"):
        config = holding_out.replace(lr=0.0, work_dir=str(tmp_path / mode)).with_mode(mode)
        losses[mode] = train(config, progress=False).records[-1]["held_out_loss"]
    assert losses["varlen"] == pytest.approx(losses["unpacked"], abs=1e-5)
    assert losses["packed"] == pytest.approx(losses["unpacked"], abs=1e-5)


def test_looking_does_not_disturb(holding_out: Config, tmp_path: Path) -> None:
    often = train(holding_out, progress=False)
    seldom = train(holding_out.replace(evaluation_freq=99, work_dir=str(tmp_path / "b")), progress=False)
    assert often.losses == seldom.losses
    assert all("held_out_loss" in record for record in often.records)


def test_a_share_that_makes_no_sense_is_refused(small: Config, holding_out: Config) -> None:
    with pytest.raises(InputError, match="never looks at"):
        small.replace(evaluation_share=0.2)
    with pytest.raises(InputError, match="below 1"):
        holding_out.replace(evaluation_share=1.0)
    with pytest.raises(InputError, match="all 40 documents"):
        train(holding_out.replace(evaluation_share=0.99), progress=False)


def test_tensorboard_curves(small: Config, tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = train(small.replace(visualizer="tensorboard"), progress=False)
    events = loader.EventAccumulator(str(tmp_path / "w" / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(history.losses)
    assert {"lr", "tokens", "mfu"} <= set(events.Tags()["scalars"])


def test_without_tensorboard_it_says_so(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        train(small.replace(visualizer="tensorboard"), progress=False)
