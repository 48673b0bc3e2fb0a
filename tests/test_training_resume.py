"""A run that was stopped and resumed is the run that was never stopped, to the last bit."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from crafted_models import change, tiny_folder
from expect import fresh_python

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.config.text import render
from varlen_lab.errors import InputError
from varlen_lab.files.writing import written_whole
from varlen_lab.training import step as loop
from varlen_lab.training.checkpoint import read_checkpoint, save_checkpoint
from varlen_lab.training.history import History
from varlen_lab.training.trainer import train


@pytest.fixture
def config(small: Config) -> Config:
    return small.with_mode("varlen").replace(max_steps=7, save_steps=2)


def weights(folder: Path, step: int = 7) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / f"iter_{step}.pth")["model"]


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def crash_at(step: int):
    def on_step(record: dict) -> None:
        if record["step"] == step:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize("crash", [1, 2, 5, 6])
def test_a_resumed_run_is_the_undisturbed_run(config: Config, tmp_path: Path, crash: int) -> None:
    whole = config.replace(work_dir=str(tmp_path / "whole"))
    broken = config.replace(work_dir=str(tmp_path / "broken"))
    undisturbed = train(whole, progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(broken, progress=False, on_step=crash_at(crash))
    resumed = train(broken, progress=False, resume=True)
    assert resumed.losses == undisturbed.losses
    assert History.read(tmp_path / "broken" / "history.jsonl").losses == undisturbed.losses
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert sorted(p.name for p in (tmp_path / "broken").glob("*.pth")) == ["iter_6.pth", "iter_7.pth"]


def test_without_the_optimizer_state_it_would_not_be(config: Config, tmp_path: Path) -> None:
    """The planted fault: a checkpoint whose optimizer has forgotten its averages."""
    whole, broken = (config.replace(work_dir=str(tmp_path / name)) for name in ("whole", "broken"))
    train(whole, progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(broken, progress=False, on_step=crash_at(5))
    path = tmp_path / "broken" / "iter_4.pth"
    state = {key: value for key, value in read_checkpoint(path).items() if key != "format"}
    for averages in state["optimizer"]["state"].values():
        averages["exp_avg"] = torch.zeros_like(averages["exp_avg"])
    save_checkpoint(path, state)
    train(broken, progress=False, resume=True)
    assert not equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def test_sigterm_saves_and_the_rest_follows(config: Config, tmp_path: Path) -> None:
    whole, stopped = (config.replace(work_dir=str(tmp_path / name)) for name in ("whole", "stopped"))
    train(whole, progress=False)

    def terminate(record: dict) -> None:
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    history = train(stopped, progress=False, on_step=terminate)
    assert history.stopped and history.checkpoint == tmp_path / "stopped" / "iter_3.pth"
    assert signal.getsignal(signal.SIGTERM) is before
    train(stopped, progress=False, resume=True)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


def test_resume_without_a_checkpoint_starts_and_a_finished_run_is_finished(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.py"
    path.write_text(render(config))
    words = ["train", str(path), "--quiet", "--resume"]
    assert main(words) == 0
    assert "from step 0, there is no checkpoint" in capsys.readouterr().out
    assert main(words) == 0
    assert "the run is finished" in capsys.readouterr().out


def test_resume_names_what_has_changed(config: Config, dialogues: Path, tmp_path: Path) -> None:
    train(config.replace(max_steps=2), progress=False)
    with pytest.raises(InputError, match="trained with max_steps = 2 and the config says 7"):
        train(config, progress=False, resume=True)
    with pytest.raises(InputError, match="trained with lr"):
        train(config.replace(max_steps=2, lr=1e-5), progress=False, resume=True)
    text = dialogues.read_text()
    try:
        dialogues.write_text(text.replace("Count in steps of 7.", "Count in sevens."))
        with pytest.raises(InputError, match="other data"):
            train(config.replace(max_steps=2), progress=False, resume=True)
    finally:
        dialogues.write_text(text)
    assert train(config.replace(max_steps=2, save_steps=1), progress=False, resume=True).taken == 0


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_model_whose_config_was_edited_is_another(
    method: str, small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights fit as before, and the rest of the run was computed otherwise without a word."""
    folder = tiny_folder(tmp_path / "model")
    config = small.with_mode("varlen").replace(
        pretrained_model_name_or_path=str(folder), model_config=None, method=method, max_steps=2, save_steps=1
    )
    losses = train(config, progress=False).losses
    one = Path(config.work_dir or "") / "iter_1.pth"
    monkeypatch.chdir(tmp_path)
    old = (folder / "config.json").read_text()
    for name, now in {"hidden_act": "relu", "rms_norm_eps": 0.1}.items():
        change("config.json", {name: now}, folder)
        with pytest.raises(InputError, match=rf"was trained with {name} = .* in the config of the model, which is"):
            train(config, progress=False, resume=one)
        (folder / "config.json").write_text(old)
    same = {"eos_token_id": 5, "use_cache": False, "attention_dropout": 0.5, "_name_or_path": "x"}
    change("config.json", same, folder)  # computes the same
    assert train(config.replace(gradient_checkpointing=True), progress=False, resume=one).losses == losses


def test_another_number_of_threads_is_said(config: Config, recwarn: pytest.WarningsRecorder) -> None:
    """A checkpoint that does not know its number is gone on from in silence."""
    path = train(config, progress=False).checkpoint
    assert path is not None
    for before, said in [(1, ""), (3, "the run had 3 threads and goes on with 1, "), (None, "")]:
        state = {key: value for key, value in read_checkpoint(path).items() if key not in ("format", "threads")}
        save_checkpoint(path, state if before is None else {**state, "threads": before})
        recwarn.clear()
        train(config, progress=False, resume=True)
        notes = [str(warning.message) for warning in recwarn if "threads" in str(warning.message)]
        assert [note.startswith(said) for note in notes] == [True] * bool(said)


# ------------------------------------------------------------------------------------------------- formats


def as_format_1(folder: Path, step: int) -> None:
    """Rewrite what a run left as an earlier version wrote it: other names, and no format in the history."""
    path = folder / f"iter_{step}.pth"
    state = read_checkpoint(path)
    state["dice"] = state.pop("rng_state")
    with written_whole(path) as file:  # the tensors are a map of the old file
        torch.save({**state, "format": "varlen_lab checkpoint 1"}, file)
    text = (folder / "history.jsonl").read_text()
    text = text.replace('"padded_tokens"', '"slots"').replace('"sum_squared_lengths"', '"squares"')
    text = re.sub(r', "crc32": "[0-9a-f]{8}"', "", text)
    (folder / "history.jsonl").write_text(text.replace('"format": 3, ', ""))


def test_a_run_of_the_first_format_goes_on_to_the_same_end(config: Config, tmp_path: Path) -> None:
    whole, old = (config.replace(work_dir=str(tmp_path / name)) for name in ("whole", "old"))
    undisturbed = train(whole, progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(old, progress=False, on_step=crash_at(5))
    as_format_1(tmp_path / "old", 4)
    assert "slots" in (tmp_path / "old" / "history.jsonl").read_text()
    before = History.read(tmp_path / "old" / "history.jsonl")
    assert before.padding_share == 0 and "squares" not in before.records[0]
    resumed = train(old, progress=False, resume=True)
    assert resumed.losses == undisturbed.losses
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "old"))
    keys = [set(record) for record in History.read(tmp_path / "old" / "history.jsonl").records]
    assert keys == [set(record) for record in undisturbed.records]


def test_an_unknown_format_is_refused_by_name(config: Config, tmp_path: Path) -> None:
    torch.save({"format": "varlen_lab checkpoint 9", "step": 2}, tmp_path / "iter_2.pth")
    with pytest.raises(InputError, match=r"the format 'varlen_lab checkpoint 9', this version reads .* 1, .* 2, .* 3;"):
        read_checkpoint(tmp_path / "iter_2.pth")
    (tmp_path / "history.jsonl").write_text('{"meta": {"format": 9}}\n')
    with pytest.raises(InputError, match="has the format 9"):
        History.read(tmp_path / "history.jsonl")


# ----------------------------------------------------------------------------------------------- not finite


def poison(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
    """NaN losses in some calls of the loss function (two a step in the template)."""
    real, count = loop.token_loss_sum, iter(range(10**6))

    def poisoned(model, batch):
        return real(model, batch) * (float("nan") if next(count) in calls else 1.0)

    monkeypatch.setattr(loop, "token_loss_sum", poisoned)


def test_a_bad_batch_is_skipped_and_counted(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, {2})
    records = train(config, progress=False).records
    assert [record.get("skipped", False) for record in records] == [False, True, False, False, False, False, False]
    assert all(torch.isfinite(value).all() for value in weights(Path(config.work_dir or "")).values())


def test_a_run_that_is_lost_stops_and_keeps_its_batch(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, set(range(2, 99)))
    with pytest.raises(InputError, match="the 5th step in a row"):
        train(config, progress=False)
    kept = torch.load(Path(config.work_dir or "") / "nonfinite_step_6.pt", weights_only=True)
    assert {"input_ids", "labels"} <= set(kept[0])


# ------------------------------------------------------------------------------------------------- kill -9


# Children of a process that has imported what a run needs, and computed nothing with it, start in milliseconds.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import accelerate, datasets, torch, transformers.models.llama.modeling_llama
from varlen_lab.config.text import load_config
from varlen_lab.training.trainer import train

torch.set_num_threads(2)
numbers, config, killed = random.Random(0), load_config("run.py"), 0

def start(folder):
    if (child := os.fork()) == 0:
        try:
            train(config.replace(work_dir=folder), progress=False, resume=True)
            os._exit(0)
        finally:
            os._exit(1)
    return child

def lines(file=Path("killed/history.jsonl")):
    return len(file.read_text().splitlines()) if file.exists() else 0

assert os.waitpid(start("whole"), 0)[1] == 0
while True:
    before, child = lines(), start("killed")
    end = before + numbers.randrange(3)  # that many steps, and a random while
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and lines() <= end:
        time.sleep(0.001)
    time.sleep(numbers.uniform(0, 0.1))
    if ended[0] or os.waitpid(child, os.WNOHANG)[0]:
        break
    os.kill(child, signal.SIGKILL)
    killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
print(killed)
"""


@pytest.mark.slow
@pytest.mark.alone
def test_killed_at_random_moments_and_resumed(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two threads: there the first cosine of a process counts, see ``machine/repeatable.py``."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # on a busy machine two threads that spin are ten times slower
    (tmp_path / "run.py").write_text(render(config.replace(max_steps=24, save_steps=2, work_dir=None)))
    assert int(fresh_python(KILLED, cwd=tmp_path)) >= 5
    assert equal(weights(tmp_path / "whole", 24), weights(tmp_path / "killed", 24))
    losses = [History.read(tmp_path / name / "history.jsonl").losses for name in ("whole", "killed")]
    assert losses[0] == losses[1] and len(losses[0]) == 24
    assert not list((tmp_path / "killed").glob(".*.partial"))


def test_runs_in_threads_drop_what_each_drops_alone(config: Config, tmp_path: Path) -> None:
    """torch has one generator for all threads, and LoRA's dropout draws from it."""
    config = config.replace(method="lora", lora_dropout=0.5, lr=0.01)

    def losses(name: str) -> list[float]:
        return train(config.replace(work_dir=str(tmp_path / name)), progress=False).losses

    alone = losses("alone")
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(losses, ["a", "b", "c"]))
    assert together == [alone] * 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_checkpoint_to_wait_for(config: Config, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "iter_5.pth")
    with pytest.raises(InputError, match=r"iter_5\.pth is no file"):
        train(config, progress=False, resume=tmp_path / "iter_5.pth")
