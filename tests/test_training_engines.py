"""Every engine, in two processes: gradients are exchanged once a step, and a step that is no number leaves no trace."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from several import in_processes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.modeling_outputs import CausalLMOutput

from varlen_lab.config.names import named_config
from varlen_lab.errors import InputError
from varlen_lab.models.building import tiny
from varlen_lab.training import step as loop
from varlen_lab.training.checkpoint import read_checkpoint
from varlen_lab.training.engines import Engine, make_accelerator, make_engine
from varlen_lab.training.finite import kept_tensors, refuse_nonfinite
from varlen_lab.training.step import Batch, collator, optimize, token_loss_sum

WAYS: dict[str, dict[str, Any]] = {"ddp": {}, "fsdp": {"fsdp": True}}
if find_spec("deepspeed"):
    WAYS |= {f"zero{stage}": {"deepspeed": f"deepspeed_zero{stage}"} for stage in (1, 2, 3)}
EACH = (1, 2, 4)  # batches of a step
PLANTED = [("loss", (1,)), ("loss", (0, 1)), ("gradient", (1,)), ("infinity", (0, 1))]  # what is bad, in which ranks


def engine(way: str, model: dict[str, Any] | None = None, **changes: Any) -> Engine:
    config = named_config("tiny_llama_full_docstrings_e1").replace(device="cpu", lr=1e-2, **changes)
    return make_engine(tiny("llama", seed=0, **model or {}), config, 6, make_accelerator(config), **WAYS[way])


def batches(steps: int, each: int) -> list[list[Batch]]:
    """Documents of random tokens, other ones in every process, step and batch."""
    collate, rank = collator("varlen", 0), torch.distributed.get_rank()
    made = []
    for step in range(steps):
        numbers = torch.Generator().manual_seed(100 * step + rank)
        documents = [torch.randint(5, 2000, (30 + 7 * rank,), generator=numbers).tolist() for _ in range(each)]
        rows = [{"input_ids": one, "labels": [-100, *one[1:]], "seq_lengths": [len(one)]} for one in documents]
        made.append([Batch.of([row], collate) for row in rows])
    return made


# ------------------------------------------------------------------------------------------------- exchanges


class Exchanges(TorchDispatchMode):
    """Counts sums of gradients over processes; sums of a few numbers, such as a step's counts, are none."""

    calls = broadcasts = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if re.match("c10d::.*reduce", func._schema.name):
            self.calls += max(one.numel() for one in tree_leaves(args) if isinstance(one, torch.Tensor)) > 50
        self.broadcasts += "broadcast" in func._schema.name
        return func(*args, **kwargs or {})


def exchanges(way: str, each: int) -> int:
    """How often gradients are exchanged in a step of ``each`` batches."""
    one = engine(way)
    first, second = batches(2, each)
    next(optimize(one, [first]))  # only in the second step are DDP and ZeRO as they stay
    with Exchanges() as mode:
        next(optimize(one, [second]))
    return mode.calls


def buckets_of_ddp(each: int, late: bool = False) -> tuple[int, int]:
    """(calls of DDP's hook in a step of ``each`` batches, its buckets); ``late``: with the forward pass outside."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    numbers: list[int] = []

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # DDP compares annotations with its own
        numbers.append(bucket.index())
        return allreduce_hook(state, bucket)

    one = engine("ddp", {"vocab_size": 30_000, "hidden_size": 128})  # 31 MB, in buckets of 1 and 25
    one.model.register_comm_hook(None, hook)  # type: ignore[operator]
    with pytest.MonkeyPatch.context() as patch:
        if late:
            patch.setattr(loop, "backward", backward_alone_in_no_sync)
        for step in batches(2, each):
            numbers.clear()
            next(optimize(one, [step]))
    return len(numbers), len(set(numbers))


def backward_alone_in_no_sync(one: Engine, given: list[Batch], weight: torch.Tensor) -> torch.Tensor:
    loss = torch.zeros(())
    for index, batch in enumerate(given):
        part = token_loss_sum(one.model, batch) / weight
        with one.accumulating(last=index == len(given) - 1):
            one.backward(part)
        loss += part.detach()
    return loss


class SomeUnused(torch.nn.Module):
    """A causal language model that looks at one of its two matrices and leaves the other alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = torch.nn.Embedding(2000, 8), torch.nn.Linear(8, 2000)
        self.used, self.unused = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return CausalLMOutput(logits=self.head(self.used(self.embed(input_ids))))


def wrapper() -> dict[str, Any]:
    """What DDP does besides exchanging gradients."""
    one = engine("ddp")
    (given,) = batches(1, 2)
    one.optimizer.step = lambda: None  # the gradients stay to be looked at
    one.optimizer.zero_grad = lambda: None
    with Exchanges() as mode:
        next(optimize(one, [given]))
    grads = [p.grad for p in one.model.parameters() if p.grad is not None]
    # one position table a process, which grows with the longest row that process has seen
    growing = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}}
    two, rank = engine("ddp", {**growing, "max_position_embeddings": 64}), torch.distributed.get_rank()
    ids = torch.arange(5, 105 if rank == 0 else 35)[None]
    both = [two.model(input_ids=ids, use_cache=False).logits for _ in range(2)]
    alone = two.unwrapped_model(input_ids=ids, use_cache=False).logits
    config = named_config("tiny_llama_full_docstrings_e1").replace(device="cpu")
    three = make_engine(SomeUnused(), config, 6, make_accelerator(config))
    losses = [record["loss"] for record in optimize(three, batches(3, 2))]
    return {
        "broadcasts": mode.broadcasts,
        "memories": len({grad.untyped_storage().data_ptr() for grad in grads}),
        "positions of its own": all(torch.equal(logits, alone) for logits in both),
        "unused": losses,
    }


# ------------------------------------------------------------------------------------------------- not finite


def kept(one: Engine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in kept_tensors(one)}


def poisoned(what: str, call: int) -> Callable[..., torch.Tensor]:
    """``token_loss_sum`` whose ``call``-th loss is NaN, or infinite with a finite gradient, or the other way round."""
    count = iter(range(10**6))

    def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        value = token_loss_sum(model, batch)
        if next(count) == call:
            if what == "gradient":
                value.register_hook(lambda gradient: gradient * math.nan)
            else:
                value = value + math.inf if what == "infinity" else value * math.nan
        return value

    return loss


def left_out(way: str, dtype: str, what: str, ranks: tuple[int, ...]) -> dict[str, Any]:
    """Three steps of two batches, the second planted: its records, and whether the end is as without that step."""
    given = batches(3, 2)
    one, other = engine(way, dtype=dtype), engine(way, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        if torch.distributed.get_rank() in ranks:
            patch.setattr(loop, "token_loss_sum", poisoned(what, 2))  # the first of two batches of the second step
        records = list(optimize(one, given))
    list(optimize(other, given[:1]))
    other.scheduler.step()
    between = kept(other)
    list(optimize(other, given[2:]))
    return {
        "skipped": [record.get("skipped", False) for record in records],
        "loss is finite": math.isfinite(records[1]["loss"]),
        "as without it": same(kept(one), kept(other)),
        "the third step did something": not same(between, kept(other)),
    }


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def nowhere_but_in_one(way: str) -> str:
    """What every process says of an engine in which one weight of the last process is not finite any more."""
    one = engine(way)
    next(optimize(one, batches(1, 1)))
    refuse_nonfinite(one, 1, None)
    if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
        next(tensor for name, tensor in kept_tensors(one) if "exp_avg" in name).view(-1)[-1] = math.nan
    with pytest.raises(InputError) as refused:
        refuse_nonfinite(one, 1, Path("iter_9.pth"))
    return str(refused.value)


# ------------------------------------------------------------------------------------------------- checkpoints


def on_a_full_disk(way: str, path: Path) -> str:
    """What a process says that finds no room for its part of a checkpoint."""
    one = engine(way)
    next(optimize(one, batches(1, 1)))

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 0")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError) as refused:
        patch.setattr(torch, "save", full)
        one.save(path, {})
    one.accelerator.wait_for_everyone()
    assert not path.exists()
    return str(refused.value)


def crossings(folder: Path) -> dict[str, str]:
    """Each engine's checkpoint opened by each: "to the bit", "close", "other", or the sentence that refuses it."""
    saved, found = {}, {}
    for way in WAYS:
        one = engine(way)
        next(optimize(one, batches(1, 1)))
        one.save(folder / f"{way}.pth", {"processes": 2})
        saved[way] = kept(one)
    for came in WAYS:
        for goes in WAYS:
            path, one = folder / f"{came}.pth", engine(goes)
            try:
                one.restore(path, read_checkpoint(path))
            except InputError as refused:
                found[f"{came} to {goes}"] = str(refused)
                continue
            pairs = [(value, saved[goes][name]) for name, value in kept(one).items()]
            close = all(torch.allclose(value, there, atol=1e-6) for value, there in pairs)
            exact = all(torch.equal(value, there) for value, there in pairs)
            found[f"{came} to {goes}"] = "to the bit" if exact else "close" if close else "other"
    return found


def losses(way: str) -> list[float]:
    """Of steps of four batches, the same ones however many processes share them."""
    torch.manual_seed(0)
    one = engine(way)
    rank, count = one.accelerator.process_index, one.accelerator.num_processes
    documents = torch.randint(5, 2000, (8, 4, 60)).tolist()
    steps = []
    for step in documents:
        cut = [ids[: 20 + 10 * number] for number, ids in enumerate(step)]
        rows = [{"input_ids": ids, "labels": [-100, *ids[1:]], "seq_lengths": [len(ids)]} for ids in cut]
        steps.append([Batch.of([row], collator("varlen", 0)) for row in rows[rank::count]])
    return [record["loss"] for record in optimize(one, steps)]


def losses_of_all() -> dict[str, list[float]]:
    return {way: losses(way) for way in WAYS}


# ------------------------------------------------------------------------------------------------- the laws


def facts(folder: Path) -> dict[str, Any]:
    """Everything below, measured in one process of two that are started once."""
    found: dict[str, Any] = {f"buckets {each}": buckets_of_ddp(each) for each in EACH}
    found["late"] = buckets_of_ddp(4, late=True)
    found |= {"wrapper": wrapper(), "crossings": crossings(folder), "losses": losses_of_all()}
    for way in WAYS:
        found[f"exchanges {way}"] = [exchanges(way, each) for each in EACH]
        found[f"refused {way}"] = nowhere_but_in_one(way)
        if way.startswith("zero"):  # of the others only the first process writes
            found[f"full {way}"] = on_a_full_disk(way, folder / "full" / "iter_1.pth")
        for dtype in ("fp32", "bf16"):
            for what, ranks in PLANTED:
                found[f"{way} {dtype} {what} {ranks}"] = left_out(way, dtype, what, ranks)
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return in_processes(2, tmp_path_factory.mktemp("engines"), facts, tmp_path_factory.mktemp("checkpoints"))


pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_ddp_exchanges_every_bucket_once_a_step(measured: list[dict[str, Any]]) -> None:
    for found in measured:
        assert [found[f"buckets {each}"] for each in EACH] == [(2, 2)] * 3
        assert found["late"] == (8, 2)  # the planted fault: the forward pass decides, so it must be inside too


def test_ddp_holds_gradients_once_and_sends_nothing_but_them(measured: list[dict[str, Any]]) -> None:
    for found in measured:
        assert found["wrapper"]["broadcasts"] == 0
        assert found["wrapper"]["memories"] == 1  # its bucket, which the gradients are views of
        assert found["wrapper"]["positions of its own"]


def test_a_weight_that_no_batch_uses_stops_no_process(measured: list[dict[str, Any]]) -> None:
    one, two = (found["wrapper"]["unused"] for found in measured)
    assert one == two and one[2] != one[0] and all(map(math.isfinite, one))


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_exchanged_once_a_step_or_as_the_outlook_says(way: str, measured: list[dict[str, Any]]) -> None:
    counted = [found[f"exchanges {way}"] for found in measured]
    groups = 5 if way == "fsdp" else 1  # two layers, the embedding, the head and the rest
    assert counted == [[each if way in ("zero2", "zero3") else groups for each in EACH]] * 2


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_is_not_finite_leaves_no_trace(way: str, dtype: str, measured: list[dict[str, Any]]) -> None:
    for what, ranks in PLANTED:
        for found in measured:
            one = found[f"{way} {dtype} {what} {ranks}"]
            assert one["skipped"] == [False, True, False], (what, ranks)
            assert one["as without it"] and one["the third step did something"], (what, ranks)
            assert one["loss is finite"] is (what == "gradient"), (what, ranks)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_finite_in_one_process_is_saved_by_none(way: str, measured: list[dict[str, Any]]) -> None:
    said = {found[f"refused {way}"] for found in measured}
    assert len(said) == 1, said
    assert "exp_avg of" in (sentence := said.pop()) and "after step 1" in sentence and "iter_9.pth" in sentence


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith("zero")])
def test_a_shard_that_finds_no_room_is_said(way: str, measured: list[dict[str, Any]]) -> None:
    for found in measured:
        assert "iter_1.pth could not be written" in found[f"full {way}"]


def test_losses_of_one_two_and_four_processes_are_the_same(measured: list[dict[str, Any]], tmp_path: Path) -> None:
    alone, four = losses("ddp"), in_processes(4, tmp_path, losses_of_all)
    for found in [*(one["losses"] for one in measured), *four]:
        assert found == {way: pytest.approx(alone, abs=1e-5) for way in WAYS}


def test_a_checkpoint_is_opened_by_its_own_engine_or_refused_by_name(measured: list[dict[str, Any]]) -> None:
    for found in (one["crossings"] for one in measured):
        for came in WAYS:
            for goes in WAYS:
                said = found[f"{came} to {goes}"]
                if came == goes:
                    assert said == "to the bit"
                elif not came.startswith("zero") and not goes.startswith("zero"):
                    assert said in ("to the bit", "close")
                elif not came.startswith("zero"):
                    assert "was not written under DeepSpeed" in said
                elif not goes.startswith("zero"):
                    assert f"add --deepspeed deepspeed_{came}" in said
                else:
                    assert f"was written under ZeRO stage {came[-1]}" in said and f"use deepspeed_{came}" in said
