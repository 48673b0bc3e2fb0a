"""The claim of the whole project, and the controls that show the measurement could have said no."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from turns import by_turns

from varlen_lab.cli import main
from varlen_lab.config.names import named_config
from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.errors import InputError, LeakFound
from varlen_lab.leaks.planting import plant
from varlen_lab.leaks.registry import FAULTS
from varlen_lab.models.building import build_model
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.studies import comparison as compare_module
from varlen_lab.studies.comparison import compare, first_step, weights_that_matter
from varlen_lab.studies.verdict import Comparison, is_rounding
from varlen_lab.training.data import load_rows, load_tokenizer
from varlen_lab.training.history import History
from varlen_lab.training.step import Batch, optimize
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
    monkeypatch.setattr(compare_module, "optimize", lambda *given: pytest.fail("a step was taken"))
    with pytest.raises(LeakFound, match="does not keep packed documents apart"):
        compare(small)


def test_the_table_says_what_a_reader_needs(small: Config) -> None:
    comparison = compare(small)
    rows = {row["mode"]: row for row in comparison.table()}
    assert list(rows) == ["unpacked", "packed", "varlen"]
    assert {"last loss", "real tokens/s", "padding", "backend"} <= set(rows["varlen"])
    assert rows["unpacked"]["padding"] > 0.2 and rows["varlen"]["padding"] == rows["packed"]["padding"] == 0
    assert rows["varlen"]["backend"] == "sdpa"
    assert all(word in comparison.caption for word in ("sdpa", "cpu", "fp32", "seed 0"))
    told = json.loads(comparison.to_json())
    assert set(told) == {"runs", "table", "verdict", "first_step", "control", "keeps_apart"}
    assert told["keeps_apart"] is True and told["control"] is None and told["first_step"]["gradients"] < 1e-5
    assert told["runs"]["varlen"]["meta"]["leak_check"]["ok"] is True


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

    runs = {"unpacked": history([2, 1, 1, 1]), "varlen": history([2, 1 + 1e-6, 1 + 2e-5, 1])}
    comparison = Comparison(runs)
    assert comparison.rounding_from() == 3
    assert "up to step 2 of 4" in comparison.verdict() and "rounding" not in comparison.verdict()
    comparison = Comparison(runs, control=[0, 1e-7, 3e-6, -4e-6])
    assert comparison.keeps_apart and "from step 3 on rounding takes over" in comparison.verdict()
    comparison = Comparison(runs, control=[0, 1e-7, -1e-7, 1e-6])
    assert not comparison.keeps_apart and "it is no rounding" in comparison.verdict()
    comparison = Comparison({"unpacked": history([2, 1]), "varlen": history([2.1, 1])})
    assert not comparison.keeps_apart and "it leaks" in comparison.verdict()


def test_a_control_decides_by_size_and_by_time() -> None:
    limits = [1e-5] * 4
    assert is_rounding([0, 2e-5, -2e-4, 0], [0, 0, 0, 2e-5], limits)  # as large
    assert is_rounding([0, 2e-5, -2e-1, 0], [0, 0, 0, 2e-5], limits)  # as soon, whatever comes of it
    assert not is_rounding([2e-5, 2e-5, -2e-4, 0], [0, 0, 1.9e-5, 0], limits)
    assert not is_rounding([0, 0, 1e-4, 0], [1e-6] * 4, limits)


@pytest.mark.slow
def test_two_exact_runs_drift_and_a_control_says_so(small: Config) -> None:
    """With a rate so high that rounding grows up; without a control nobody would know."""
    comparison = compare(small.replace(max_steps=12, lr=0.3), ("unpacked", "varlen"))
    assert (comparison.rounding_from() or 0) > 1 and comparison.control is not None
    assert comparison.keeps_apart and "rounding takes over" in comparison.verdict()


def test_a_leak_that_begins_later_is_no_rounding(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the third step on the seams of every batch are gone: the check and the first step are clean."""
    real = compare_module.batched

    def forgetful(*given: Any) -> Iterator[list[Batch]]:
        for number, batches in enumerate(real(*given)):
            for batch in batches:
                if number > 1 and "cu_seq_lens_q" in batch.inputs:
                    whole = batch.inputs["cu_seq_lens_q"][[0, -1]]
                    batch.inputs.update(cu_seq_lens_q=whole, cu_seq_lens_k=whole, max_length_q=128, max_length_k=128)
            yield batches

    monkeypatch.setattr(compare_module, "batched", forgetful)
    (tmp_path / "c.py").write_text(render(small.replace(max_steps=4)), encoding="utf-8")
    assert main(["compare", str(tmp_path / "c.py"), "--modes", "unpacked", "varlen", "--quiet"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "up to step 2 of 4; from step 3 on" in said and "it is no rounding" in said


def test_a_layer_that_begins_to_leak_is_seen_though_the_loss_hides_it(
    small: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A convolution of width 2 that stays off until the last step: it moves the loss by less than rounding."""
    real, taken = compare_module.build_model, 0

    def build(config: Config) -> Any:
        nonlocal taken
        model, taken = real(config), 0
        model.model.layers[-1].register_forward_pre_hook(
            lambda layer, given: (given[0] + 0.3 * given[0].roll(1, 1),) if taken > 1 else None
        )
        return model

    def counted(*given: Any) -> Iterator[Any]:
        nonlocal taken
        for record in optimize(*given):
            taken += 1
            yield record

    monkeypatch.setattr(compare_module, "build_model", build)
    monkeypatch.setattr(compare_module, "optimize", counted)
    with pytest.raises(LeakFound, match="after 3 steps, though it did before them"):
        compare(small, ("unpacked", "varlen"))


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.anywhere])
def test_a_planted_fault_is_told_before_the_first_step(
    name: str, small: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compare_module.build_model

    def build(config: Config) -> Any:
        model = real(config)
        plant(FAULTS[name], model, {})
        return model

    monkeypatch.setattr(compare_module, "build_model", build)
    monkeypatch.setattr(compare_module, "optimize", lambda *given: pytest.fail("a step was taken"))
    with pytest.raises(LeakFound) as found:
        compare(small.replace(isolate=False))
    assert "\n✗ " in str(found.value)


def test_the_first_step_sees_what_the_loss_of_an_untrained_model_hides(small: Config) -> None:
    """A convolution of width 3 over the seams moves the loss by less than rounding, and scaled logits by a lot."""
    config = small.with_mode("varlen")
    rows, _ = load_rows(config, load_tokenizer(config))
    step = [[number] for number in range(len(rows)) if len(rows[number]["seq_lengths"]) > 2][:2]
    collate, device = VarlenCollator(), torch.device("cpu")
    model = build_model(config)
    clean = first_step(model, rows, step, collate, device, scaled=True)
    assert clean is not None and max(clean.logits, clean.gradients) < 1e-5
    assert clean.documents == sum(len(rows[number]["seq_lengths"]) for (number,) in step)
    assert "equal documents alone: " in clean.sentence() and "weights scaled" in clean.sentence()
    plant(FAULTS["short convolution"], model, {})
    with pytest.raises(LeakFound, match="hear another one"):
        first_step(model, rows, step, collate, device, scaled=True)


def test_the_proof_is_of_a_step_with_a_seam(small: Config, tmp_path: Path) -> None:
    """Four documents fill rows of their own, three share the fifth, and the plan does not begin with that one."""
    turns = [(f"Say {number}.", "one two three " * words) for number, words in enumerate([100] * 4 + [8] * 3)]
    records = [{"instruction": question, "output": answer} for question, answer in turns]
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    one_row = small.replace(data_path=str(path), max_length=300, batch_size=1, accumulative_counts=1, max_steps=5)
    proof = compare(one_row, ("varlen",)).first_step
    assert proof is not None and proof.documents > 1 and proof.number > 1
    assert f"of step {proof.number}, the first with a seam, equal" in proof.sentence()
    full = one_row.replace(max_length=16, pack_strategy="sequential")  # every document fills its row
    assert compare(full, ("varlen",)).first_step is None


def test_scaled_weights_go_back_to_the_bit(small: Config) -> None:
    model = build_model(small.with_mode("varlen"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), weights_that_matter(model):
        assert not torch.equal(model.state_dict()["lm_head.weight"], before["lm_head.weight"])
        raise KeyboardInterrupt
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("seed", by_turns([0, 1, 2], always=0))
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
