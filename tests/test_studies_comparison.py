"""The claim of the whole project, and the controls that show the measurement could have said no."""

from __future__ import annotations

import json

import pytest
import torch

from varlen_lab.cli import main
from varlen_lab.config.names import named_config
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.studies import comparison as compare_module
from varlen_lab.studies.comparison import Comparison, compare
from varlen_lab.training.checkpoint import History
from varlen_lab.training.trainer import train


def worst(comparison: Comparison, mode: str) -> float:
    return max(map(abs, comparison.difference(mode)))


def test_varlen_equals_unpacked_and_packed_does_not(small: Config) -> None:
    comparison = compare(small.replace(max_steps=10))
    assert worst(comparison, "varlen") <= 1e-5
    assert worst(comparison, "packed") > 1e-3
    assert comparison.rounding_from() is None
    assert "varlen equals unpacked in all 10 steps" in comparison.verdict()


def test_a_leak_is_found(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: one seam of every row is lost on the way to the model."""

    class Leaky(VarlenCollator):
        def __call__(self, rows: list) -> dict:
            batch = super().__call__(rows)
            for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
                seams = batch[name]
                batch[name] = torch.cat([seams[:1], seams[2:]]) if len(seams) > 2 else seams
            batch["max_length_q"] = batch["max_length_k"] = int(batch["cu_seq_lens_q"].diff().max())
            return batch

    real = compare_module.collator
    monkeypatch.setattr(compare_module, "collator", lambda mode, pad: Leaky() if mode == "varlen" else real(mode, pad))
    comparison = compare(small)
    assert worst(comparison, "varlen") > 1e-4
    assert comparison.rounding_from() == 1 and "it leaks" in comparison.verdict()


def test_the_table_says_what_a_reader_needs(small: Config) -> None:
    comparison = compare(small)
    rows = {row["mode"]: row for row in comparison.table()}
    assert list(rows) == ["unpacked", "packed", "varlen"]
    assert {"last loss", "real tokens/s", "padding", "backend"} <= set(rows["varlen"])
    assert rows["unpacked"]["padding"] > 0.2 and rows["varlen"]["padding"] == rows["packed"]["padding"] == 0
    assert rows["varlen"]["backend"] == "sdpa"
    assert all(word in comparison.caption for word in ("sdpa", "cpu", "fp32", "seed 0"))
    assert set(json.loads(comparison.to_json())) == {"runs", "table", "verdict"}


def test_nothing_is_written(small: Config, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compare(small.replace(work_dir=None), modes=("varlen",))
    assert list(tmp_path.iterdir()) == []


def test_one_mode_proves_nothing_and_says_so(small: Config) -> None:
    assert "nothing to prove" in compare(small, modes=("varlen",)).verdict()


def test_unknown_modes_are_refused(small: Config) -> None:
    with pytest.raises(InputError, match="did you mean 'varlen'"):
        compare(small, modes=("varlem",))
    with pytest.raises(InputError, match="no mode"):
        compare(small, modes=())


def test_long_runs_mark_the_step_from_which_rounding_takes_over() -> None:
    meta = {"backend": "sdpa", "config": "c", "device": "cpu", "dtype": "fp32", "seed": 0}

    def history(losses: list[float]) -> History:
        return History(meta, [{"loss": loss} for loss in losses])

    comparison = Comparison({"unpacked": history([2, 1, 1, 1]), "varlen": history([2, 1 + 1e-6, 1 + 2e-5, 1])})
    assert comparison.rounding_from() == 3
    assert "up to step 2 of 4" in comparison.verdict()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_law_holds_on_the_real_corpus(seed: int) -> None:
    """Thirty steps of the CPU template on the built-in corpus, as the command `varlen-lab compare` runs them."""
    config = named_config("tiny_llama_full_docstrings_e1").replace(seed=seed, device="cpu")
    comparison = compare(config)
    assert len(comparison.losses["varlen"]) == 30
    assert worst(comparison, "varlen") <= 1e-5
    assert worst(comparison, "packed") > 1e-3


def test_the_first_gradients_point_the_same_way(small: Config) -> None:
    comparison = compare(small.replace(max_steps=1))
    assert comparison.cosines["varlen"] >= 0.999999
    assert comparison.cosines["packed"] < 0.9999


def test_a_comparison_may_start_from_a_checkpoint(small: Config) -> None:
    """A model that learned its documents one by one notices at once when their seams are taken away."""
    trained = train(small.with_mode("varlen").replace(max_steps=60, lr=1e-2, save_steps=100), progress=False)
    comparison = compare(small.replace(lr=1e-6), start=trained.checkpoint)
    assert comparison.losses["unpacked"][0] < trained.losses[0]
    assert min(map(abs, comparison.difference("packed"))) > 1e-4  # in which direction differs with the documents
    assert worst(comparison, "varlen") <= 1e-5
    with pytest.raises(InputError, match="do not fit"):
        wider = {**(small.model_config or {}), "hidden_size": 64}
        compare(small.replace(model_config=wider), start=trained.checkpoint)


def test_seeds_give_bands(dialogues, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"data_path={dialogues}", "max_length=128", "max_steps=2"]
    words = ["compare", "tiny_llama_full_docstrings_e1", "--quiet", "--seeds", "2", "-o", str(tmp_path)]
    assert main([*words, "--cfg-options", *options]) == 0
    shown = capsys.readouterr().out
    assert "seed 0" in shown and "seed 1" in shown and "gradient cosine" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.json", "comparison_1.json", "losses.png"]
