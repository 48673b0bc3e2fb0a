"""The effect benchmark on a tiny model: arms differ in what a token sees, nothing else, and a mix-up is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.real_effect import arms, forward, pieces, report
from benchmarks.real_effect.__main__ import main
from varlen_lab.errors import InputError
from varlen_lab.models.building import build_model, tiny
from varlen_lab.models.miniature import scale_weights
from varlen_lab.training.step import token_loss_sum

DIALOGUES = str(Path(__file__).parent.parent / "data" / "dialogues.jsonl")
WORDS = ["--data", DIALOGUES, "--max-length", "256", "--steps", "4", "--held-out", "5", "--documents", "12"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    built = tiny("llama", max_position_embeddings=1024)
    scale_weights(built)  # random weights attend to everything alike, and a seam would hardly matter
    built.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def measured(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("effect")
    assert main(["--model", model, *WORDS, "--seeds", "2", "--rows", "128", "256", "-o", str(folder)]) == 0
    return folder


def config_of(model: str) -> Any:
    return arms.the_config(model, DIALOGUES, 256, 4, 1e-3)


def test_every_arm_takes_the_same_documents(model: str) -> None:
    config = config_of(model)
    material = arms.load_material(config, 5)
    seen = {
        arm: [
            torch.cat([batch.labels[batch.labels != -100] for batch in step]).sort().values.tolist()
            for step in arms.steps_of(arm, material, config)
        ]
        for arm in arms.ARMS
    }
    assert len(seen["varlen"]) == 4
    assert all(of == seen["varlen"] for of in seen.values())


def test_no_held_out_document_is_trained_on(model: str) -> None:
    config = config_of(model)
    few, more = arms.load_material(config, 5), arms.load_material(config, 9)
    alone = {tuple(row["input_ids"].tolist()) for row in more.held_out}
    parts = [np.split(row["input_ids"], np.cumsum(row["seq_lengths"])[:-1]) for row in more.rows]
    trained = {tuple(part.tolist()) for of in parts for part in of}
    assert len(more.held_out) == 9 and all(len(row["seq_lengths"]) == 1 for row in more.held_out)
    assert not alone & trained
    assert few.facts["rows_fingerprint"] != more.facts["rows_fingerprint"]


def test_a_mask_of_ones_is_the_loop_that_leaves_the_cache_on(model: str) -> None:
    config = config_of(model).with_mode("packed")
    material = arms.load_material(config, 5)
    (batch,) = next(arms.steps_of("restarting", material, config))
    built = build_model(config).eval()
    with torch.no_grad():
        ours = token_loss_sum(built, batch)
        own_loop = built(input_ids=batch.inputs["input_ids"], position_ids=batch.inputs["position_ids"]).logits
        whole = built(**batch.inputs, use_cache=False).logits
        apart = built(**{**batch.inputs, "attention_mask": None}, use_cache=False).logits
    assert torch.equal(own_loop, whole) and torch.isfinite(ours)
    assert (apart - whole).abs().max() > 1e-3  # without the mask transformers finds the documents


def test_results_hold_what_was_measured(measured: Path) -> None:
    kept = json.loads((measured / "results.json").read_text())
    assert {(piece["arm"], piece["seed"]) for piece in kept["arms"]} == {(a, s) for a in arms.ARMS for s in (0, 1)}
    for piece in kept["arms"]:
        assert len(piece["loss"]) == 4 and sorted(map(int, piece["held_out"])) == [0, 1, 3, 4]
        assert {"torch", "transformers", "device", "dtype", "threads", "seed"} <= piece["measured_on"].keys()
        assert piece["command"].startswith("python -m benchmarks.real_effect")
    assert [piece["settings"]["data"] for piece in kept["forward"]] == ["builtin:docstrings", DIALOGUES]
    text = (measured / "report.md").read_text()
    assert "| restarting | " in text and "packed − varlen" in text
    assert (measured / "held_out.png").stat().st_size > 10_000


def test_a_second_start_measures_only_what_is_missing(
    measured: Path, model: str, monkeypatch: Any, tmp_path: Path
) -> None:
    for path in measured.glob("*-*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "arm-1-packed.json").unlink()
    run, again = arms.run_arm, []

    def noted(arm: str, seed: int, *more: Any) -> dict[str, Any]:
        again.append((arm, seed))
        return run(arm, seed, *more)

    monkeypatch.setattr(arms, "run_arm", noted)
    assert main(["--model", model, *WORDS, "--seeds", "2", "--rows", "128", "256", "-o", str(tmp_path)]) == 0
    assert again == [("packed", 1)]
    before, now = (pieces.read_piece(folder / "arm-1-packed.json") for folder in (measured, tmp_path))
    assert now["loss"] == before["loss"] and now["held_out"] == before["held_out"]


def test_a_second_start_with_other_settings_is_refused(measured: Path, model: str, capsys: Any) -> None:
    words = [*WORDS, "--seeds", "2", "--rows", "128", "256", "--lr", "1e-4", "-o", str(measured)]
    assert main(["--model", model, *words]) == 2
    assert "was measured with lr = 5e-05 and this run has 0.0001" in capsys.readouterr().err


# what each mix-up of labels looks like: the arm of one training under the name of another
MIXED_UP = [("unpacked", "packed"), ("restarting", "varlen"), ("packed", "unpacked"), ("varlen", "restarting")]


@pytest.mark.parametrize("name, really", MIXED_UP)
def test_a_mislabelled_arm_is_noticed(measured: Path, tmp_path: Path, capsys: Any, name: str, really: str) -> None:
    for path in measured.glob("*-*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    piece = pieces.read_piece(tmp_path / f"arm-1-{really}.json") | {"arm": name}
    (tmp_path / f"arm-1-{name}.json").write_text(json.dumps(piece))
    assert report.report(tmp_path, tmp_path / "out") == 1
    missed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("MISSED")]
    assert missed and all("seed 1" in line for line in missed)


def test_another_machine_is_noticed(measured: Path, tmp_path: Path, capsys: Any) -> None:
    for path in measured.glob("arm-*.json"):
        piece = pieces.read_piece(path)
        piece["measured_on"]["torch"] += "" if path.stem != "arm-1-packed" else ".dev"
        (tmp_path / path.name).write_text(json.dumps(piece))
    assert report.report(tmp_path, tmp_path / "out") == 1
    assert "MISSED  every arm was measured with one device, dtype, torch" in capsys.readouterr().out


def test_other_rows_and_other_weights_are_noticed(measured: Path, tmp_path: Path, capsys: Any) -> None:
    for name, other in (("plan", "another"), ("held_out", {"0": 1.0, "1": 1.0, "3": 1.0, "4": 1.0})):
        for path in measured.glob("*-*.json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        piece = pieces.read_piece(tmp_path / "arm-0-packed.json") | {name: other}
        (tmp_path / "arm-0-packed.json").write_text(json.dumps(piece))
        assert report.report(tmp_path, tmp_path / "out") == 1
        assert "MISSED  seed 0: every arm" in capsys.readouterr().out


def test_a_seed_that_is_not_whole_stays_out_of_the_table(measured: Path, tmp_path: Path, capsys: Any) -> None:
    for path in measured.glob("arm-*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "arm-1-unpacked.json").unlink()
    assert report.report(tmp_path, tmp_path / "out") == 0
    assert "; 1 seed." in capsys.readouterr().out


def test_standard_error_is_that_of_equal_documents() -> None:
    extra, trained = np.array([1.0, 2.0, 6.0]), np.array([2.0, 2.0, 2.0])
    mean, error = forward.mean_and_error(extra, trained)
    assert mean == pytest.approx(1.5)
    assert error == pytest.approx((extra / 2).std(ddof=1) / np.sqrt(3))
    assert np.isnan(forward.mean_and_error(extra[:1], trained[:1])[1])


def test_ugly_input_has_a_sentence(model: str, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(InputError, match="has no pieces of a measurement"):
        report.report(tmp_path, tmp_path)
    broken = tmp_path / "arm-0-varlen.json"
    for content in ("{", "[]"):
        broken.write_text(content)
        with pytest.raises(InputError, match="remove it, and it is measured again"):
            report.report(tmp_path, tmp_path)
    with pytest.raises(InputError, match="500 documents and 300 are held out"):
        arms.load_material(config_of(model), 300)
    with pytest.raises(InputError, match="at most 3 tokens"):
        forward.forward_table(config_of(model), [3], 5)
    with pytest.raises(SystemExit):
        main(["--seeds", "0"])


def test_kept_results_are_what_their_report_says() -> None:
    for path in sorted((Path(__file__).parent.parent / "benchmarks" / "results").glob("*-real-effect/results.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        assert (path.parent / "report.md").read_text(encoding="utf-8") == report.in_words(kept["arms"], kept["forward"])
        runs = report.whole_seeds(kept["arms"])
        assert [words for words, holds in report.checks(runs, kept["forward"]) if not holds] == []
        assert set(runs) == set(arms.ARMS) and all(len(of) >= 3 for of in runs.values())
        last = {arm: list(of.values())[-1] for arm, of in report.held_out(runs).items()}
        assert min(np.subtract(last["restarting"], last["varlen"])) > 0.05  # in every seed
