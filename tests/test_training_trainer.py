"""train(): checkpoints that hold everything, a history on disk, the same run for the same seed."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

from varlen_lab.config.schema import Config
from varlen_lab.config.text import load
from varlen_lab.errors import InputError
from varlen_lab.models.building import tiny
from varlen_lab.training.checkpoint import read_checkpoint, save_checkpoint
from varlen_lab.training.history import History
from varlen_lab.training.trainer import train


def test_a_run_leaves_checkpoint_history_and_config(small: Config) -> None:
    seen = []
    history = train(small.replace(save_steps=2), progress=False, on_step=seen.append)
    folder = Path(small.work_dir or "")
    assert sorted(path.name for path in folder.iterdir()) == [
        "history.jsonl",
        "iter_2.pth",
        "iter_3.pth",
        "tiny_llama_full_docstrings_e1.py",
    ]
    assert history.checkpoint == folder / "iter_3.pth"
    assert [record["step"] for record in seen] == [1, 2, 3]
    assert History.read(folder / "history.jsonl").losses == history.losses
    assert load(folder / "tiny_llama_full_docstrings_e1.py") == small.replace(save_steps=2)
    assert {"mode", "backend", "device", "dtype", "seed"} <= set(history.meta)


def test_the_last_checkpoints_are_kept(small: Config) -> None:
    train(small.replace(save_steps=1, save_total_limit=1), progress=False)
    assert [path.name for path in Path(small.work_dir or "").glob("*.pth")] == ["iter_3.pth"]


@pytest.mark.parametrize("mode", ["unpacked", "packed", "varlen"])
def test_the_same_seed_is_the_same_run(small: Config, mode: str, tmp_path: Path) -> None:
    config = small.with_mode(mode)
    runs = [train(config.replace(work_dir=str(tmp_path / str(i))), progress=False) for i in range(2)]
    other = train(config.replace(seed=1, work_dir=str(tmp_path / "other")), progress=False)
    assert runs[0].losses == runs[1].losses != other.losses
    weights = [read_checkpoint(run.checkpoint)["model"] for run in runs if run.checkpoint]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_training_learns(small: Config) -> None:
    history = train(small.with_mode("varlen").replace(max_steps=40, lr=1e-2, save_steps=100), progress=False)
    assert history.losses[-1] < 0.7 * history.losses[0]


def test_the_questions_are_answered(small: Config) -> None:
    config = small.replace(evaluation_freq=2, evaluation_inputs=["Count in steps of 3.", "Count."])
    records = train(config, progress=False).records
    assert [len(record.get("samples", [])) for record in records] == [0, 2, 0]


def test_answering_does_not_disturb_the_run(small: Config, tmp_path: Path) -> None:
    asked = small.replace(evaluation_freq=1, evaluation_inputs=["Count."], work_dir=str(tmp_path / "asked"))
    assert train(asked, progress=False).losses == train(small, progress=False).losses


def test_fine_tuning_starts_from_the_given_weights(small: Config, tmp_path: Path) -> None:
    model = tiny("internlm", seed=5)
    model.save_pretrained(tmp_path / "base")
    config = small.replace(
        pretrained_model_name_or_path=str(tmp_path / "base"), model_config=None, lr=0.0, max_steps=1
    ).with_mode("varlen")
    saved = read_checkpoint(train(config, progress=False).checkpoint or "")["model"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
def test_a_missing_gpu_is_named_before_anything_is_written(small: Config) -> None:
    with pytest.raises(InputError, match="no NVIDIA GPU"):
        train(small.replace(device="cuda"), progress=False)
    assert not Path(small.work_dir or "").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pretrained_model_name_or_path": "no/such-model", "model_config": None}, "no/such-model"),
        ({"data_path": "no_such_file.jsonl"}, "no_such_file"),
        ({"model_config": {"model_type": "lama"}}, "did you mean 'llama'"),
        ({"prompt_template": "intern_chat"}, "intern_chat"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(small: Config, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(small.replace(**change), progress=False)
    assert not Path(small.work_dir or "").exists()


def test_the_bar_fits_80_columns_and_is_quiet_in_a_pipe(small: Config, capsys: pytest.CaptureFixture[str]) -> None:
    train(small, progress=True)
    assert capsys.readouterr().err == ""
    record = {"step": 1, "loss": 2.3456, "lr": 2e-5, "tokens": 123_456, "seconds": 1.0}
    line = History({"backend": "torch_varlen"}, [record]).status
    assert line == "loss 2.346, lr 2.0e-05, 123,456 tok/s, torch_varlen"
    assert len(f"train 12345/12345 █ 1:00:00, {line}") <= 80


# ------------------------------------------------------------------------------------------------- checkpoints


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "iter_1.pth"
    save_checkpoint(path, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"step": 2, "bad": lambda: None})
    assert read_checkpoint(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_our_checkpoint_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "iter_5.pth", {"step": 5})
    torch.save({"model": {}}, tmp_path / "other.pth")
    torch.save({"model": History}, tmp_path / "code.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "iter_5.pth").read_bytes()[:200])
    (tmp_path / "text.pth").write_text("hello")
    for name, message in (
        ("iter_6.pth", "iter_5.pth"),
        ("other.pth", "not written by varlen-lab"),
        ("code.pth", "more than weights"),
        ("cut.pth", "cut short"),
        ("text.pth", "cut short"),
        (".", "is a folder"),
    ):
        with pytest.raises(InputError, match=message):
            read_checkpoint(tmp_path / name)


def test_a_history_cut_by_a_kill_keeps_its_whole_lines(tmp_path: Path) -> None:
    history = History({"mode": "varlen"}, path=tmp_path / "history.jsonl")
    history.start()
    for step in (1, 2):
        history.add({"step": step, "loss": 1 / step, "tokens": 30, "padded_tokens": 40, "seconds": 2.0})
    text = (tmp_path / "history.jsonl").read_text()
    (tmp_path / "history.jsonl").write_text(text + json.dumps({"step": 3, "loss": 0.1})[:9])
    again = History.read(tmp_path / "history.jsonl")
    assert again.losses == [1.0, 0.5] and again.meta == {"mode": "varlen"}
    assert again.tokens_per_second == 15 and again.padding_share == pytest.approx(0.25)


def test_a_full_disk_is_named_and_loses_nothing(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: the second checkpoint finds no room."""
    real, saves = torch.save, iter(range(9))

    def no_room(contents, file) -> None:
        if next(saves) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(contents, file)

    monkeypatch.setattr(torch, "save", no_room)
    with pytest.raises(InputError, match=r"iter_2.pth could not be written \(No space left on device\)"):
        train(small.replace(save_steps=1), progress=False)
    folder = Path(small.work_dir or "")
    assert [path.name for path in folder.glob("*.pth*")] == ["iter_1.pth"]
    monkeypatch.undo()
    again = train(small.replace(save_steps=1), progress=False, resume=True)
    assert again.taken == 2 and len(again.losses) == 3


@pytest.mark.parametrize(
    "message", ["PytorchStreamWriter failed writing file", "[enforce fail at inline_container.cc:672]"]
)
def test_a_full_disk_is_one_sentence(tmp_path: Path, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"iter_1\.pth could not be written.*make room"):
        save_checkpoint(tmp_path / "iter_1.pth", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk here that is always full")
def test_a_full_disk_ends_a_history_in_a_sentence() -> None:
    with pytest.raises(InputError, match=r"/dev/full could not be written \(No space left on device\)"):
        History({}, path=Path("/dev/full")).add({"step": 1})


def test_a_work_dir_that_cannot_be_is_one_sentence(small: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"work_dir .*file/run cannot be written"):
        train(small.replace(work_dir=str(tmp_path / "file" / "run")), progress=False)


@pytest.mark.parametrize("text", ["", "{}\n", "no json\n", '{"meta": 3}\n'])
def test_a_history_that_is_none_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "history.jsonl").write_text(text)
    with pytest.raises(InputError, match="does not begin like a history"):
        History.read(tmp_path / "history.jsonl")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'{"meta": {}}\n3\n'])
def test_a_history_that_is_damaged_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "history.jsonl").write_bytes(content)
    with pytest.raises(InputError, match="put it back, or move it away"):
        History.read(tmp_path / "history.jsonl")
