"""A device without float64, as Apple's GPU is: training, evaluation and audit ask it for nothing it has not.

No such device is needed. ``apple_gpu`` pretends one: its tensors say that they lie on ``mps``, are computed on the CPU,
and refuse what the device refuses: float64, and to be mixed with tensors that lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.expect import refused
from varlen_lab.config.schema import Config
from varlen_lab.leaks import measure
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.seen import attention_seen
from varlen_lab.models.adapters import four_bit_settings
from varlen_lab.models.building import build_model, tiny
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.studies.comparison import first_gradient
from varlen_lab.training import step as loop
from varlen_lab.training.checkpoint import rng_state, set_rng_state
from varlen_lab.training.data import load_rows_and_held_out, load_tokenizer, pad_id
from varlen_lab.training.engines import make_accelerator, make_engine
from varlen_lab.training.evaluation import answers, held_out_loss
from varlen_lab.training.plan import plan_steps

MPS = torch.device("mps")
COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)  # the ways from one device to another


class OnMps(torch.Tensor):
    """A tensor that says it is on ``mps``; ``inner`` on the CPU holds its values. For autograd it is on ``meta``."""

    inner: torch.Tensor
    device = property(lambda self: MPS)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnMps:
        if inner.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        facts: dict[str, Any] = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device="meta", **facts)
        made.inner = inner
        return made

    @classmethod
    def holding(cls, x: Any) -> Any:
        return cls(x) if isinstance(x, torch.Tensor) else x

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Operations().__torch_dispatch__(operation, types, args, kwargs)

    def tolist(self) -> Any:
        return self.inner.tolist()


class Operations(TorchDispatchMode):
    """Computes on the CPU what is asked of the pretended device, and puts the results on it."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        known = {id(each.inner): each for each in tensors if isinstance(each, OnMps)}
        elsewhere = any(each.ndim for each in tensors if not isinstance(each, OnMps))  # a number may come from the CPU
        if known and elsewhere and operation not in COPIES:
            raise RuntimeError(f"{operation}: expected all tensors to be on the same device, found mps and cpu")
        inner_args, inner_kwargs = tree_map(inner_of, (args, kwargs))
        made = operation(*inner_args, **inner_kwargs)
        here = bool(known)
        if kwargs.get("device") is not None:
            here = torch.device(kwargs["device"]).type in ("mps", "meta")
        elif operation is torch.ops.aten.copy_.default:
            here = isinstance(args[0], OnMps)
        if not here:
            return made
        # what an operation changes in place stays the same tensor
        return tree_map(lambda x: known[id(x)] if id(x) in known else OnMps.holding(x), made)


def inner_of(x: Any) -> Any:
    """What stands for ``x`` on the CPU."""
    if isinstance(x, OnMps):
        return x.inner
    return torch.device("cpu") if isinstance(x, torch.device) else x


class Devices(TorchFunctionMode):
    """Lets "mps" through a torch that is built without it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in ("is_autocast_enabled", "_enter_autocast"):  # these want the true name
            return function(*args, **(kwargs or {}))
        if function is torch.tensor and kwargs and names_mps(kwargs.get("device")):  # it copies into C++ memory
            return OnMps(torch.tensor(*args, **{**kwargs, "device": "cpu"}))
        args, kwargs = tree_map(lambda x: torch.device("meta") if names_mps(x) else x, (args, kwargs or {}))
        return function(*args, **kwargs)


def names_mps(x: Any) -> bool:
    return isinstance(x, (str, torch.device)) and str(x) == "mps"


@contextmanager
def apple_gpu() -> Iterator[None]:
    """While it lasts there is a device ``mps``, and an accelerator is on it."""
    from accelerate import Accelerator

    with pytest.MonkeyPatch.context() as patch, Devices(), Operations():
        patch.setattr(torch.backends.mps, "is_available", lambda: True)
        patch.setattr(Accelerator, "device", property(lambda self: MPS))  # which remembers that there is none
        patch.setattr(torch, "Event", MagicMock())  # there is nothing to wait for
        patch.setattr(torch.mps, "get_rng_state", lambda: torch.get_rng_state())
        patch.setattr(torch.mps, "set_rng_state", lambda state: torch.set_rng_state(state))
        torch.__future__.set_swap_module_params_on_conversion(True)  # so that tied weights stay one
        try:
            yield
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.fixture
def config(small: Config) -> Config:
    """Its optimizer has no fused kernel: torch would look for one by the device that autograd sees."""
    return small.with_mode("varlen").replace(optim_type="SGD", lr=0.1, evaluation_share=0.25, evaluation_freq=1)


def a_run(config: Config) -> tuple[list[dict[str, Any]], float, torch.Tensor]:
    """Records of three steps, the held-out loss after them, and the first gradient."""
    tokenizer = load_tokenizer(config)
    rows, _, held_out = load_rows_and_held_out(config, tokenizer)
    assert held_out is not None
    steps = plan_steps(len(rows), config)
    engine = make_engine(build_model(config), config, len(steps), make_accelerator(config))
    batches = list(loop.batched(rows, steps, loop.collator(config.mode, pad_id(tokenizer))))
    gradient = first_gradient(engine, batches[0])
    records = list(loop.optimize(engine, batches))
    return records, held_out_loss(engine, held_out, config, pad_id(tokenizer)), gradient


@pytest.mark.parametrize("weighting", ["token", "longalign"])
def test_training_and_evaluation_need_no_float64(config: Config, weighting: str) -> None:
    config = config.replace(loss_weighting=weighting)
    records, held_out, gradient = a_run(config)
    with apple_gpu():
        records_there, held_out_there, gradient_there = a_run(config.replace(device="mps"))
    for one, two in zip(records, records_there, strict=True):
        counted = [name for name, value in one.items() if isinstance(value, int)]
        assert len(counted) == 5 and all(one[name] == two[name] for name in counted)
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    assert held_out_there == pytest.approx(held_out, rel=1e-6)
    torch.testing.assert_close(gradient_there, gradient, rtol=1e-5, atol=1e-6)


def test_counting_on_the_device_would_not_do(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: counts that go to the device in one process too, as they do in several."""
    monkeypatch.setattr(loop, "over_processes", lambda accelerator, counts: counts.to(accelerator.device))
    with apple_gpu(), pytest.raises(TypeError, match="MPS framework doesn't support float64"):
        a_run(config.replace(device="mps"))


def test_what_lies_elsewhere_is_noticed() -> None:
    """The planted fault: a tensor that stayed on the CPU."""
    with apple_gpu(), pytest.raises(RuntimeError, match="same device"):
        torch.ones(2).to("mps") + torch.ones(2)


def test_answers_come_from_there(config: Config) -> None:
    config = config.replace(evaluation_inputs=["What is a seam?"], evaluation_share=0.0)
    engine = make_engine(build_model(config), config, 1, make_accelerator(config))
    tokenizer = load_tokenizer(config)
    here = answers(engine, tokenizer, config, pad_id(tokenizer))
    config = config.replace(device="mps")
    with apple_gpu():
        engine = make_engine(build_model(config), config, 1, make_accelerator(config))
        assert answers(engine, tokenizer, config, pad_id(tokenizer)) == here


# -------------------------------------------------------------------------------------------------------- audit


def packed_there(lengths: list[int]) -> dict[str, Any]:
    ids = (torch.arange(sum(lengths)) * 37 % 2000).numpy()
    batch = VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": lengths}])
    return {name: value.to("mps") if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


@pytest.mark.parametrize("family, variant", [("llama", None), ("baichuan", "baichuan-13b")])  # the second has slopes
def test_an_audit_needs_no_float64(family: str, variant: str | None) -> None:
    """Of what is exact, and of what leaks, whose cause is looked for with the reference in float64."""
    with apple_gpu():
        model = tiny(family, variant).to("mps")
        assert audit(model, packed_there([14, 30, 9])).ok
        report = audit(model, packed_there([44, 9]), boundaries=[14, 30, 9])
        seen = attention_seen(model, packed_there([14, 30, 9]))
    assert not report.ok and "merged documents" in [finding.kind for finding in report.findings]
    assert seen.crossing.tolist() == [0.0, 0.0]


def test_the_reference_would_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: in float64 on the device itself."""
    monkeypatch.setattr(measure, "WITHOUT_FLOAT64", ())
    with apple_gpu(), pytest.raises(TypeError, match="MPS framework doesn't support float64"):
        attention_seen(tiny("llama").to("mps"), packed_there([14, 30, 9]))


# ------------------------------------------------------------------------------------------------ other promises


def test_random_numbers_of_the_device_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(7)  # stands for the device's own
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", generator.get_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", generator.set_state)
    states = rng_state()
    drawn = torch.rand(3, generator=generator)
    set_rng_state(states)
    assert torch.equal(torch.rand(3, generator=generator), drawn)
    set_rng_state({"cpu": states["cpu"]})  # a checkpoint of another device


def test_four_bits_are_refused_there() -> None:
    with refused("method = 'qlora' .* device 'mps'; use method = 'lora'"):
        four_bit_settings("mps")
