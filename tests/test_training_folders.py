"""Checkpoints that are folders: nothing in them is run, and no file of them is damaged, lost or added unseen."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from crafted_models import Bomb
from several import in_processes

from varlen_lab.config.names import named_config
from varlen_lab.errors import InputError
from varlen_lab.files.checksums import listed
from varlen_lab.models.building import tiny
from varlen_lab.training.checkpoint import full_disk_told, read_checkpoint, save_checkpoint
from varlen_lab.training.damage import FILES
from varlen_lab.training.engines import make_accelerator, make_engine
from varlen_lab.training.engines.folders import check_folder, in_all
from varlen_lab.training.engines.shards import whole_weights

WAYS: dict[str, dict[str, Any]] = {f"zero{stage}": {"deepspeed": f"deepspeed_zero{stage}"} for stage in (1, 2, 3)}
WAYS["fsdp"] = {"fsdp": True}


def flip_a_bit(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 8
    path.write_bytes(body)


# ------------------------------------------------------------------------------------------------- the list of files


@pytest.fixture
def two_folders(tmp_path: Path) -> Path:
    """``iter_2.pth`` and ``iter_4.pth`` as two processes leave them; the second one."""
    for step in (2, 4):
        folder = tmp_path / f"iter_{step}.pth"
        (folder / "zero").mkdir(parents=True)
        (folder / "latest").write_text("zero")
        for rank in (0, 1):
            (folder / "zero" / f"{rank}.pt").write_bytes(os.urandom(1000))
        save_checkpoint(folder / "run.pth", {"step": step, "config": "", FILES: listed(folder)})
    return tmp_path / "iter_4.pth"


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as refused:
        check_folder(path, read_checkpoint(path), "zero")
    return str(refused.value)


@pytest.mark.parametrize("name", ["latest", "zero/0.pt", "zero/1.pt"])
def test_one_bit_in_any_file_of_a_folder_is_seen(name: str, two_folders: Path) -> None:
    check_folder(two_folders, read_checkpoint(two_folders), "zero")
    flip_a_bit(two_folders / name)
    said, older = refusal(two_folders), two_folders.with_name("iter_2.pth")
    assert said.startswith(f"{two_folders / name} is damaged") and f"go on from {older}, which is whole" in said
    flip_a_bit(older / "zero" / "1.pt")
    assert f"there is no other checkpoint in {older.parent} that is whole" in refusal(two_folders)


def test_a_file_that_is_gone_or_was_added_is_named(two_folders: Path) -> None:
    (two_folders / "zero" / ".DS_Store").write_text("of a file manager")
    (two_folders / "notes.txt").write_text("beside the shards, where nobody reads")
    check_folder(two_folders, read_checkpoint(two_folders), "zero")
    (two_folders / "zero" / "2.pt").write_bytes(b"of another run")
    assert refusal(two_folders).startswith(f"{two_folders / 'zero' / '2.pt'} was not written by the run, move it away")
    (two_folders / "zero" / "2.pt").unlink()
    (two_folders / "zero" / "0.pt").unlink()
    assert "lacks zero/0.pt (1 file of 3)" in refusal(two_folders)


@pytest.mark.parametrize("listing", [{}, [], 7, {"latest": 3}, {3: "latest"}, {"latest": None}])
def test_a_list_that_is_none_is_refused(listing: Any, two_folders: Path) -> None:
    if listing == {}:  # nothing was listed, so nothing in the folder of shards is the run's
        assert "was not written by the run" in refusal_of(two_folders, {FILES: listing})
    else:
        assert "has no list of files" in refusal_of(two_folders, {FILES: listing})


def refusal_of(path: Path, state: dict[str, Any]) -> str:
    with pytest.raises(InputError) as refused:
        check_folder(path, state, "zero")
    return str(refused.value)


def test_a_folder_of_an_earlier_version_has_no_list(two_folders: Path) -> None:
    flip_a_bit(two_folders / "latest")
    check_folder(two_folders, {"step": 4}, "zero")


# ------------------------------------------------------------------------------------------------- in two processes


def outcomes(folder: Path, way: str, method: str) -> dict[str, str]:
    """For every file of a checkpoint, with a bomb in it and with a bit flipped: what resume and convert say."""
    from varlen_lab.training.engines import zero

    config = named_config("tiny_llama_full_docstrings_e1").replace(
        device="cpu", checkpoint_format="sharded" if way == "fsdp" else "auto"
    )
    accelerator = make_accelerator(config)

    def engine() -> Any:
        model = tiny("llama", seed=0)
        if method == "lora":
            for name, p in model.named_parameters():
                p.requires_grad = "embed" not in name
        return make_engine(model, config, 3, accelerator, **WAYS[way])

    def asked(path: Path) -> list[str]:
        said = []
        state = read_checkpoint(path)
        for call in (
            lambda: one.restore(path, state),
            lambda: whole_weights(path, state) if way == "fsdp" else zero.consolidate(path, method == "lora"),
        ):
            try:
                call()
                said.append("taken")
            except InputError as problem:
                said.append(str(problem))
        return said

    one, first, whole = engine(), accelerator.is_main_process, folder / f"{way}{method}" / "iter_2.pth"
    one.save(whole, {"processes": 2, "step": 2})
    one = engine()  # DeepSpeed goes on only from the start
    found = {}
    inside = "shards" if way == "fsdp" else "zero"
    for number, name in enumerate(sorted(path.name for path in (whole / inside).iterdir())):
        for kind in ("bomb", "flip"):
            damaged = folder / f"{way}{method}{number}{kind}" / "iter_2.pth"
            if first:
                shutil.copytree(whole, damaged)
                file = damaged / inside / name
                if kind == "flip":
                    flip_a_bit(file)
                elif way != "fsdp":
                    held = torch.load(file, weights_only=False)
                    torch.save({**held, "more": Bomb(folder / "boom")}, file)
                    state = {key: value for key, value in read_checkpoint(damaged).items() if key != "format"}
                    # whoever can write the shard can write its digest as well
                    save_checkpoint(damaged / "run.pth", {**state, FILES: listed(damaged, sorted(state[FILES]))})
            accelerator.wait_for_everyone()
            found[f"{kind} {name}"] = asked(damaged)
    found["whole"] = asked(whole)
    return found


def outcomes_of_all(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, Any] = {
        f"{way} {method}": outcomes(folder, way, method) for way in WAYS for method in ("full", "lora")
    }
    rank = torch.distributed.get_rank()

    def fail_in_one() -> int:
        if rank == 1:
            raise InputError("process 1 cannot")
        return rank

    with pytest.raises(InputError, match="process 1 cannot"):
        in_all(fail_in_one)
    return found


@pytest.mark.slow
@pytest.mark.alone
def test_no_shard_is_run_and_no_damaged_one_is_taken(tmp_path: Path) -> None:
    """Every engine, every file, on resume and on convert, in both processes; and what is whole is taken."""
    pytest.importorskip("deepspeed")
    for found in in_processes(2, tmp_path / "p", outcomes_of_all, tmp_path / "c"):
        for way, said in found.items():
            assert said.pop("whole") == ["taken", "taken"], way
            assert len(said) >= 4
            for what, answers in said.items():
                kind, name = what.split(" ", 1)
                if kind == "flip":
                    assert all(name in answer and "is damaged" in answer for answer in answers), (way, what, answers)
                elif not way.startswith("fsdp"):  # which has no pickle
                    assert all(name in answer and "is not run" in answer for answer in answers), (way, what, answers)
    assert not (tmp_path / "c" / "boom").exists()


@pytest.mark.slow
def test_deepspeeds_own_loading_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.load(weights_only=False)``, as its scripts call it, in two threads; then all is as it was."""
    pytest.importorskip("deepspeed")
    from varlen_lab.training.engines.zero import import_deepspeed
    from varlen_lab.training.engines.zero_files import FORCE, FORCE_NOT, in_shards, weights_only

    import_deepspeed("cpu")
    torch.save({"x": Bomb(tmp_path / "boom")}, tmp_path / "bomb.pt")
    torch.save({"x": [torch.ones(2), in_shards()[1](2.0)]}, tmp_path / "shard.pt")
    monkeypatch.setenv(FORCE_NOT, "1")  # a person's own, which would switch it off
    allowed = set(torch.serialization.get_safe_globals())
    refused: list[bool] = []

    def load() -> None:
        for _ in range(20):
            with weights_only():
                assert torch.load(tmp_path / "shard.pt", weights_only=False)["x"][0].sum() == 2
                with pytest.raises(Exception, match="Weights only load failed"):
                    torch.load(tmp_path / "bomb.pt", weights_only=False)
                refused.append(True)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 40 and not (tmp_path / "boom").exists()
    assert os.environ[FORCE_NOT] == "1" and FORCE not in os.environ
    assert set(torch.serialization.get_safe_globals()) == allowed


# ------------------------------------------------------------------------------------------------- no place to write


def not_written(path: Path, problem: OSError) -> str:
    with pytest.raises(InputError) as refused, full_disk_told(path):
        raise problem
    return str(refused.value)


@pytest.mark.parametrize("name", ["history.jsonl", "iter_6.pth", ".iter_6.pth-0123456789ab.partial/run.pth"])
def test_a_place_that_cannot_be_written_any_more_names_the_last_good_checkpoint(name: str, two_folders: Path) -> None:
    """A full disk, a folder that became read-only, a folder that somebody deleted while it was trained in."""
    path = two_folders.parent / name
    full = not_written(path, OSError(errno.ENOSPC, "No space left on device"))
    assert full.endswith(f"make room, then go on from {two_folders}, which is whole (--resume).")
    flip_a_bit(two_folders / "zero" / "0.pt")
    locked = not_written(path, OSError(errno.EROFS, "Read-only file system"))
    older = two_folders.with_name("iter_2.pth")
    assert locked.endswith(f"let it be written, then go on from {older}, which is whole (--resume).")
    shutil.rmtree(two_folders.parent)
    gone = not_written(path, OSError(errno.ENOENT, "No such file or directory"))
    assert f"{two_folders.parent} is gone, and with it what was saved there" in gone
