"""FSDP2 in two and four processes: one process' weights, losses and checkpoints, in less memory."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from several import in_processes
from torch.utils._pytree import tree_leaves

from varlen_lab.cli import main
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.models.building import TINY, build_model, tiny
from varlen_lab.models.registry import FAMILIES
from varlen_lab.training import trainer
from varlen_lab.training.beginning import claimed
from varlen_lab.training.checkpoint import read_checkpoint, save_checkpoint
from varlen_lab.training.conversion import convert
from varlen_lab.training.data import pad_id
from varlen_lab.training.engines import make_accelerator, make_engine, sharded
from varlen_lab.training.engines.scattering import write_gathered
from varlen_lab.training.engines.shards import FOLDER, SHARDS, whole_state, written_files
from varlen_lab.training.evaluation import answers
from varlen_lab.training.outlook import memory_needed
from varlen_lab.training.trainer import train

LLAMA = TINY | {"model_type": "llama"}


def slow(test: Any) -> Any:
    """A test that starts processes."""
    return pytest.mark.slow(pytest.mark.alone(test))


@pytest.fixture
def four(small: Config) -> Config:
    """Four steps of two batches a process, saved after two and four."""
    return small.with_mode("varlen").replace(max_length=96, max_steps=4, save_steps=2, accumulative_counts=2, lr=1e-3)


# ------------------------------------------------------------------------------------------------- weights


def every_kind(config: Config) -> dict[str, Config]:
    """Models that are shared out each in its own way; sizes of the first divide by neither 2 nor 4."""
    mixture = FAMILIES["deepseek"].variants["deepseek-v2-lite"]
    return {
        "odd": config.replace(model_config=LLAMA | {"vocab_size": 2051, "intermediate_size": 175}),
        "tied": config.replace(model_config=LLAMA | {"tie_word_embeddings": True}),
        "few": config.replace(model_config=LLAMA | {"hidden_size": 12, "num_key_value_heads": 1}),
        "mixture": config.replace(model_config=TINY | mixture),
        "bf16": config.replace(dtype="bf16", master_weights=False),
        "lora": config.replace(method="lora", lora_r=3, lora_dropout=0.0, gradient_checkpointing=True),
    }


def weights_of_all(config: Config) -> dict[str, int]:
    """Check that what the processes hold together is what one builds, to the bit; bytes of weights in this one."""
    held = {}
    for kind, one in every_kind(config).items():
        accelerator = make_accelerator(one)
        model: Any = build_model(one, empty=not accelerator.is_main_process)
        make_engine(model, one, 3, accelerator, fsdp=True)
        alone = build_model(one)
        assert [name for name, _ in model.named_parameters()] == [name for name, _ in alone.named_parameters()], kind
        for (name, p), other in zip(model.named_parameters(), alone.parameters(), strict=True):
            assert p.dtype == other.dtype and torch.equal(p.full_tensor(), other), (kind, name)
            assert p.requires_grad == other.requires_grad, (kind, name)
        for (name, buffer), other in zip(model.named_buffers(), alone.buffers(), strict=True):
            assert buffer.dtype == other.dtype and torch.equal(buffer, other), (kind, name)
        assert kind != "tied" or model.lm_head.weight is model.model.embed_tokens.weight
        storages = {p.to_local().untyped_storage().data_ptr(): p.to_local() for p in model.parameters()}
        held[kind] = sum(local.untyped_storage().nbytes() for local in storages.values())
    return held


@slow
def test_four_processes_hold_what_one_builds(four: Config, tmp_path: Path) -> None:
    held = in_processes(4, tmp_path / "p", weights_of_all, four)
    for kind, one in every_kind(four).items():
        whole = sum(p.nbytes for p in build_model(one).parameters())
        # no storage of a whole weight lives on behind a slice; cutting 12 rows and fewer leaves some larger
        assert max(each[kind] for each in held) < whole * (0.27 if kind != "few" else 0.4), kind
        assert sum(each[kind] for each in held) >= whole


# ------------------------------------------------------------------------------------------------- checkpoints


def runs(config: Config, folder: Path) -> dict[str, list[float]]:
    """Train every kind, saved whole and in shards, and go on from the middle of each; losses of each."""
    losses = {}
    for kind in ("odd", "tied", "lora", "bf16"):
        for way in ("whole", "sharded"):
            one = every_kind(config)[kind].replace(checkpoint_format=way, work_dir=str(folder / kind / way))
            losses[f"{kind} {way}"] = train(one, progress=False, fsdp=True).losses
            newest = folder / kind / way / "iter_4.pth"
            if torch.distributed.get_rank() == 0:
                newest.rename(folder / kind / f"{way}.pth")
            torch.distributed.barrier()
            again = train(one, progress=False, fsdp=True, resume=folder / kind / way / "iter_2.pth")
            assert again.taken == 2
            losses[f"{kind} {way} again"] = again.losses or losses[f"{kind} {way}"]  # the first process keeps them
    # what one way to share a model out has written, another reads
    one = every_kind(config)["odd"].replace(work_dir=str(folder / "odd" / "ddp"))
    losses["odd ddp"] = train(one, progress=False, resume=folder / "odd" / "sharded" / "iter_2.pth").losses
    return losses


def state_in(path: Path) -> dict[str, Any]:
    """Weights and optimizer of a checkpoint, of a file or of a folder."""
    state = read_checkpoint(path)
    return whole_state(path, state) if SHARDS in state else state


def assert_same_state(one: Path, two: Path) -> None:
    """Two checkpoints hold the same weights and momenta, under the same names and numbers, to the bit."""
    first, second = state_in(one), state_in(two)
    assert first["model"].keys() == second["model"].keys()
    for name, value in first["model"].items():
        assert value.dtype == second["model"][name].dtype and torch.equal(value, second["model"][name]), name
    momenta = [state["optimizer"]["state"] for state in (first, second)]
    assert momenta[0].keys() == momenta[1].keys() and momenta[0]
    for number, values in momenta[0].items():
        assert values.keys() == momenta[1][number].keys() and values
        for key, value in values.items():
            assert torch.equal(value, momenta[1][number][key]), (number, key)
    groups = [state["optimizer"]["param_groups"] for state in (first, second)]
    assert groups[0] == groups[1] and first["scheduler"] == second["scheduler"]


@slow
@pytest.mark.parametrize("processes", [2, 4])
def test_shards_are_a_checkpoint(processes: int, four: Config, tmp_path: Path) -> None:
    """Sharded or whole: the same losses, the same state, gone on from to the bit, opened alone, and converted."""
    losses = in_processes(processes, tmp_path / "p", runs, four, tmp_path / "w")[0]
    alone = four.replace(accumulative_counts=2 * processes)
    for kind in ("odd", "tied", "lora", "bf16"):
        folder, one = tmp_path / "w" / kind, every_kind(alone)[kind]
        assert len({tuple(found) for name, found in losses.items() if name.startswith(kind) and "ddp" not in name}) == 1
        history = train(one.replace(work_dir=str(tmp_path / "alone")), progress=False)
        assert losses[f"{kind} whole"] == pytest.approx(history.losses, abs=2e-2 if kind == "bf16" else 1e-5)
        assert (folder / "whole.pth").is_file() and (folder / "sharded.pth").is_dir()
        for way in ("whole", "sharded"):
            assert_same_state(folder / f"{way}.pth", folder / way / "iter_4.pth")
        assert_same_state(folder / "whole.pth", folder / "sharded.pth")
        if kind == "tied":
            saved = state_in(folder / "whole.pth")["model"]
            assert saved["lm_head.weight"].data_ptr() == saved["model.embed_tokens.weight"].data_ptr()
        done = convert(one, folder / "sharded.pth", tmp_path / "hf" / kind)
        assert done.max_logit_difference == 0 and done.step == 4
        # one process reads it too: only the number of processes keeps it from going on
        model = build_model(one)
        engine = make_engine(model, one, 4, make_accelerator(one))
        engine.restore(folder / "sharded.pth", read_checkpoint(folder / "sharded.pth"))
        assert all(
            torch.equal(p, state_in(folder / "whole.pth")["model"][n])
            for n, p in model.named_parameters()
            if p.requires_grad
        )
        shutil.rmtree(tmp_path / "alone")
    assert losses["odd ddp"] == pytest.approx(losses["odd whole"][-2:], abs=1e-5)
    assert not list((tmp_path / "w").rglob(".*"))  # nothing half written is left
    damage_is_named(four, tmp_path / "w" / "odd" / "sharded.pth", tmp_path)


def damage_is_named(config: Config, path: Path, folder: Path) -> None:
    """A shard cut short, of another size, missing, or too many is one sentence, for whoever opens the folder."""
    shard = sorted((path / FOLDER).iterdir())[1]
    whole = shard.read_bytes()
    for damaged in (whole[:-1], whole[:4], b"", b"\xff" * len(whole)):
        shard.write_bytes(damaged)
        with pytest.raises(InputError, match=f"{shard.name} is damaged"):
            convert(config, path, folder / "no")
    shard.write_bytes(whole)
    strange = shard.with_name("._" + shard.name)
    strange.write_bytes(whole[:40])
    with pytest.raises(InputError, match=f"has {strange.name}, which the run did not write"):
        convert(config, path, folder / "no")
    strange.unlink()
    shard.unlink()
    for open_it in (lambda: convert(config, path, folder / "no"), lambda: state_in(path)):
        with pytest.raises(InputError, match=f"lacks {shard.name}, 1 of"):
            open_it()
    assert not (folder / "no").exists()


def apart(config: Config, folder: Path) -> tuple[list[list[str]], str]:
    """Processes that meet different things; answers of an adapter, and what is said of a folder that one cannot see."""
    rank = torch.distributed.get_rank()
    lora = every_kind(config)["lora"].replace(evaluation_freq=1, evaluation_inputs=["Count in steps of 3."])
    lora = lora.replace(work_dir=str(folder / "lora"))
    with ExitStack() as until_it_ends:
        begins = claimed(folder / "lora", False, until_it_ends)
        run = trainer.prepared(lora, None, False, None, begins, None, True)
        run.take_steps(False, None)
    said = [record["samples"] for record in run.history.records]
    # one reads the end of its answer in the first token, the other goes on
    model: Any = run.engine.unwrapped_model
    if rank == 0:
        model.generate = partial(model.generate, stopping_criteria=[lambda ids, scores: torch.ones(1).bool()])
    answers(run.engine, run.tokenizer, lora, pad_id(run.tokenizer))
    # the second machine has another disk under this name: it sees the checkpoint it is told of, or says it does not
    one = config.replace(work_dir=str(folder / f"disk_{rank}"), checkpoint_format="sharded", max_steps=2)
    whole = one.replace(checkpoint_format="whole")
    train(whole, progress=False, fsdp=True)
    again = train(whole, progress=False, fsdp=True, resume=True)
    assert again.taken == 0
    if rank == 1:
        Path.is_dir = lambda path: ".partial" not in path.name and os.path.isdir(path)  # type: ignore[method-assign]
    try:
        train(one, progress=False, fsdp=True)
    except InputError as problem:
        return said, str(problem)
    return said, "saved"


@slow
def test_processes_that_do_not_see_the_same(four: Config, tmp_path: Path) -> None:
    """None waits for another: not for a token one of them does not need, not for a checkpoint only one can see."""
    both = in_processes(2, tmp_path / "p", apart, four, tmp_path / "w")
    one = every_kind(four.replace(accumulative_counts=4))["lora"].replace(
        evaluation_freq=1, evaluation_inputs=["Count in steps of 3."], work_dir=str(tmp_path / "alone")
    )
    said = [record["samples"] for record in train(one, progress=False).records]
    for answered, problem in both:
        assert answered == said and "is not one folder for all machines" in problem
    assert not list((tmp_path / "w").rglob(".*"))


def killed_while_saving(config: Config) -> None:
    """The first process dies between the shards of step 4 and the file that says they are whole."""

    def die_at_four(folder: Path) -> dict[str, int]:
        if folder.parent.name.startswith(".iter_4.pth"):
            os.kill(os.getpid(), signal.SIGKILL)
        return written_files(folder)

    sharded.written_files = die_at_four
    train(config, progress=False, fsdp=True)


@slow
def test_a_kill_leaves_no_half_folder(four: Config, tmp_path: Path) -> None:
    config = four.replace(checkpoint_format="sharded", save_total_limit=1)
    with pytest.raises(Exception, match=r"SIGKILL|Connection|closed"):
        in_processes(2, tmp_path / "p", killed_while_saving, config)
    folder = Path(config.work_dir or "")
    assert [path.name for path in folder.glob("iter_*")] == ["iter_2.pth"] and list(
        folder.glob(".iter_4.pth-*.partial")
    )
    assert read_checkpoint(folder / "iter_2.pth")["step"] == 2
    in_processes(2, tmp_path / "q", train_sharded, config, folder / "iter_2.pth")
    assert [path.name for path in folder.glob("iter_*")] == ["iter_4.pth"]  # save_total_limit takes folders too
    assert not list(folder.glob(".*"))


def train_sharded(config: Config, resume: Path) -> None:
    """Nothing comes back: a History knows its checkpoint, which is another in every process."""
    train(config, progress=False, fsdp=True, resume=resume)


def test_a_gathered_file_is_what_torch_saves(tmp_path: Path) -> None:
    """In one process there is nothing to gather; the file must be the same to whoever reads it."""
    one = torch.randn(30, 7)
    contents = {
        "model": {
            "a": one,
            "tied": one,
            "half": torch.randn(5).bfloat16(),
            "transposed": one.t(),
            "none": torch.empty(0),
        },
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.99), "x": None}]},
        "rng_state": {"cpu": torch.get_rng_state()},
        "words": "as they are",
    }
    save_checkpoint(tmp_path / "plain.pth", contents)
    save_checkpoint(tmp_path / "gathered.pth", contents, write_gathered)
    plain, gathered = (read_checkpoint(tmp_path / f"{name}.pth") for name in ("plain", "gathered"))
    leaves = [tree_leaves(plain), tree_leaves(gathered)]
    assert list(gathered) == list(plain) and len(leaves[0]) == len(leaves[1])
    for one, two in zip(*leaves, strict=True):
        assert type(one) is type(two) and (torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two)
    assert gathered["model"]["a"].data_ptr() == gathered["model"]["tied"].data_ptr()


def test_a_file_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    """The same work dir, trained in anew by one process: what several have left under that name goes."""
    shard = tmp_path / "iter_2.pth" / FOLDER / "shard.safetensors"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"of an earlier run")
    save_checkpoint(tmp_path / "iter_2.pth", {"step": 2})
    assert read_checkpoint(tmp_path / "iter_2.pth")["step"] == 2


def test_what_is_not_shared_out_cannot_be_saved_so(config_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config_file, "--cfg-options", "checkpoint_format=sharded"]) == 2
    assert "add --fsdp, or set it to 'auto'" in capsys.readouterr().err
    words = ["--deepspeed", "deepspeed_zero1", "--cfg-options", "checkpoint_format=whole"]
    assert main(["train", config_file, *words]) == 2
    assert "DeepSpeed writes shards" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- memory


def test_memory_is_shared_out_as_the_engine_says(four: Config) -> None:
    model = tiny("llama")
    bytes_of_it = 4 * sum(p.numel() for p in model.parameters())
    single = four.replace(accumulative_counts=1)
    rest = memory_needed(single, model, 100) - 4 * bytes_of_it  # activations and logits
    for engine, share in (("ddp", 4), ("zero1", 2 + 2 / 8), ("zero2", 1 + 3 / 8), ("zero3", 4 / 8), ("fsdp", 4 / 8)):
        assert memory_needed(single, model, 100, engine, 8) - rest == pytest.approx(share * bytes_of_it), engine
    # between the batches of a step every process has the whole gradient
    assert memory_needed(four, model, 100, "fsdp", 8) - rest == pytest.approx((4 / 8 + 1) * bytes_of_it)


def peak_above_the_start(config: Config, fsdp: bool) -> int:
    """Bytes this process needed at most for a run, above what it had before its model was built."""
    before: list[int] = []

    def build(*args: Any, **more: Any) -> Any:
        before.append(bytes_of_process("VmRSS"))
        return build_model(*args, **more)

    trainer.build_model = build
    train(config, progress=False, fsdp=fsdp)
    return bytes_of_process("VmHWM") - before[0]


def bytes_of_process(field: str) -> int:
    """As Linux counts them: now (VmRSS), or at most so far (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


@slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process' peak")
def test_a_process_needs_seven_tenths_of_ddp(four: Config, tmp_path: Path) -> None:
    """Of a model with 60 million weights, from before it is built until its checkpoint is written, in either format."""
    size = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 12}
    config = four.replace(model_config=LLAMA | size, max_steps=2, accumulative_counts=1)
    peaks = {}
    for way in ("ddp", "whole", "sharded"):
        one = config.replace(checkpoint_format=way if way != "ddp" else "auto", work_dir=str(tmp_path / way))
        peaks[way] = max(in_processes(2, tmp_path / way / "p", peak_above_the_start, one, way != "ddp"))
        shutil.rmtree(tmp_path / way)
    assert max(peaks["whole"], peaks["sharded"]) <= 0.7 * peaks["ddp"], peaks
