"""Running a model of any make for a measurement: its logits, the embeddings they came from, and nothing left changed.

A model may be a transformers one or anything around it (DDP, peft, torch.compile, a module of the user's own). What
goes wrong inside it is a ``CannotRun``, which ``audit`` turns into a finding or a sentence.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from varlen_lab.errors import InputError, first_line
from varlen_lab.models.building import noise_probabilities
from varlen_lab.models.seams import SEARCHES
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.packing.registry import LOSS_MASKS

HALF = (torch.bfloat16, torch.float16)
EAGER, SDPA = "eager", "sdpa"
NATIVE = SEARCHES  # implementations of transformers that guess documents from positions
# Held while a model is measured: transformers' table of attentions and torch's random state are those of the process,
# so threads that measure at once take turns.
MEASURING = threading.RLock()


class CannotRun(Exception):
    """What a model raised when it was called."""

    def __init__(self, model: Any, problem: Exception) -> None:
        super().__init__(first_line(problem))
        self.model, self.attention = type(host_of(model)).__name__, attention_name(model)
        self.problem = problem

    def sentence(self) -> InputError:
        """The error to raise where the model cannot be audited at all."""
        if isinstance(self.problem, InputError):  # a sentence already, with its next step
            with_it = f"{self.model} with attn_implementation={self.attention!r}"  # another one may run
            return InputError(f"{with_it} does not run on one document alone: {self}.")
        why = f"{type(self.problem).__name__}: {self}"
        return InputError(f"{self.model} cannot be run on one document alone ({why}); mend that first, then audit.")


def host_of(model: Any) -> Any:
    """The transformers model inside a wrapper, or the outermost module with a config, or the model itself."""
    from transformers import PreTrainedModel

    modules = list(model.modules())
    native = [module for module in modules if isinstance(module, PreTrainedModel)]
    return next(iter(native + [module for module in modules if hasattr(module, "config")]), model)


def attention_name(model: Any) -> str:
    """The attn_implementation a model has now, or ``"unknown"``."""
    return str(getattr(getattr(host_of(model), "config", None), "_attn_implementation", None) or "unknown")


@contextmanager
def noise_off(model: Any) -> Iterator[list[str]]:
    """Every probability of noise at 0 and no gradients while it lasts; yields which were set to 0, in words.

    Afterwards the model is as it was, also after an exception: noise, gradients and the random state. Its
    mode is not touched, for some layers do something else in train() than in eval(), and both must be measurable.
    The random state is that of the process: another thread that draws from it meanwhile draws these numbers again.
    """
    with MEASURING:
        gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
        noise = noise_probabilities(model)
        device = next((parameter.device for parameter, _ in gradients), torch.device("cpu"))
        devices = [device] if device.type == "cuda" else []  # beside the CPU's random state
        apple = torch.mps.get_rng_state() if device.type == "mps" else None  # fork_rng cannot ask for it
        with torch.random.fork_rng(devices=devices):
            try:
                for parameter, _ in gradients:
                    parameter.grad = None
                for module, name, _ in noise:
                    setattr(module, name, 0.0)
                yield sorted({f"{type(module).__name__}.{name} {value}" for module, name, value in noise})
            finally:
                for module, name, value in noise:
                    setattr(module, name, value)
                for parameter, gradient in gradients:
                    parameter.grad = gradient
                if apple is not None:
                    torch.mps.set_rng_state(apple)


@contextmanager
def weights_frozen(model: Any) -> Iterator[None]:
    """No weight asks for gradients while it lasts: a graph holds activations alone."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()


def weightless(model: Any) -> list[tuple[torch.nn.Module, dict[str, Any], dict[str, Any]]]:
    """Attributes and buffers of the modules without weights: some rotary embeddings remember the longest row so far."""
    innermost = [module for module in model.modules() if not any(True for _ in module.children())]
    return [(module, dict(vars(module)), dict(module._buffers)) for module in innermost if not module._parameters]


def put_back(kept: list[tuple[torch.nn.Module, dict[str, Any], dict[str, Any]]]) -> None:
    """Modules as ``weightless`` found them."""
    for module, attributes, buffers in kept:
        vars(module).update(attributes)
        module._buffers.clear()
        module._buffers.update(buffers)


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without its labels and loss masks: the loss is ours, so that both runs weigh every token alike."""
    return {name: value for name, value in batch.items() if name not in ("labels", *LOSS_MASKS)}


def text_positions(batch: Mapping[str, Any]) -> torch.Tensor | None:
    """The positions of a batch (rows, T); of several planes (planes, rows, T) the first. None: it has none."""
    positions = batch.get("position_ids")
    return positions[0] if positions is not None and positions.ndim == 3 else positions


def run(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Logits (rows * T, V) of ``model(**inputs)``. CannotRun when the model raises; InputError without such logits.

    What the run changes in modules without weights is undone: each run is the first.
    """
    fresh = weightless(model)
    try:
        output = model(**inputs)
    except Exception as problem:  # every model has its own ways to refuse
        raise CannotRun(model, problem) from problem
    finally:
        put_back(fresh)
    rows, length = inputs["input_ids"].shape
    if isinstance(output, Mapping):
        output = [output.get("logits"), *output.values()]
    for logits in output if isinstance(output, list | tuple) else (getattr(output, "logits", output),):
        if isinstance(logits, torch.Tensor) and logits.is_floating_point() and logits.shape[:2] == (rows, length):
            return logits.flatten(0, 1).flatten(1)
    raise InputError(
        f"{type(host_of(model)).__name__} returns nothing of shape ({rows}, {length}, vocabulary); audit takes a model "
        "that returns logits for every token, for example AutoModelForCausalLM's."
    )


def run_alone(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits (T, V) of one document, ids (T,), with nothing but its tokens and no cache where there could be one."""
    try:
        return run(model, {"input_ids": ids[None]} | cache_off(model))
    except CannotRun as problem:
        raise problem.sentence() from problem


def cache_off(model: Any) -> dict[str, bool]:
    """``{"use_cache": False}`` for a model that may know what this means, else nothing."""
    taken = inspect.signature(model.forward).parameters.values()
    has_cache = any(one.name == "use_cache" or one.kind is one.VAR_KEYWORD for one in taken)
    return {"use_cache": False} if has_cache else {}


def logits_of(model: Any, batch: Mapping[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits (rows * T, V), and the embeddings (rows, T, C) they came from: leaves to ask for gradients of each token.

    The graph is cut behind every module that turns the batch's ``input_ids`` into vectors, for two tokens with one id
    share a row of its table: there the gradients of both would be one sum.
    """
    ids, kept = batch["input_ids"], []

    def cut(_: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> Any:
        given = next((x for x in (*inputs, *options.values()) if isinstance(x, torch.Tensor)), None)
        if given is None or not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return None
        # some models put a prompt of their own before the row
        if given.ndim != 2 or given.shape[1] < ids.shape[1] or output.shape[:2] != given.shape:
            return None
        if not torch.equal(given[:, -ids.shape[1] :], ids.to(given)):
            return None
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # some models change it in place, which a leaf does not allow

    tables = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    handles = [module.register_forward_hook(cut, with_kwargs=True) for module in tables if module is not model]
    try:
        # a compiled model would not see the hooks
        with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
            logits = run(model, inputs_of(batch))
    finally:
        for handle in handles:
            handle.remove()
    name = type(host_of(model)).__name__
    if not kept:
        raise InputError(
            f"{name} calls no embedding with the batch's input_ids, so there is nothing to measure gradients at; audit "
            "the model inside it, on what that one is given."
        )
    if not logits.requires_grad:
        raise InputError(
            f"{name} gives logits without a graph, so no leak can be measured; run it without torch.no_grad."
        )
    return logits, kept


@contextmanager
def as_if_alone(model: Any, attention: str | None = None) -> Iterator[str]:
    """Another attention while it lasts, as documents alone are run with; yields its name, or what the model kept.

    ``attention``: by default ``trusted_attention``. It stays out where layers know more than it does, or where
    transformers cannot set it.
    """
    host, mine = host_of(model), attention_name(model)
    if not any(hasattr(module, "alibi_slopes") for module in model.modules()):  # transformers' own would not see them
        for name in dict.fromkeys((attention or trusted_attention(model), EAGER)):
            with suppress(ValueError, AttributeError, KeyError):
                host.set_attn_implementation(name)
                break
    try:
        yield attention_name(model)
    finally:
        if attention_name(model) != mine:
            host.set_attn_implementation(mine)


def trusted_attention(model: Any) -> str:
    """What documents alone are run with where packed ones are measured: sdpa, or eager where sdpa cannot say it all.

    Any two kernels round in their own way, and a real model makes much of it: on SmolLM2 eager and sdpa differ by
    4.5e-5 of the largest logit, a hundred times as much as sdpa from sdpa. Most kernels round as sdpa does.
    """
    beyond = any(
        value is not None and (name == "sinks" or ("softcap" in name and "final" not in name))
        for module in model.modules()
        for name, value in (vars(module) | module._parameters).items()
    )
    return EAGER if beyond or attention_name(model) == EAGER else SDPA


def random_row(model: Any, lengths: list[int]) -> dict[str, Any]:
    """A packed batch of documents of random tokens: what an audit measures does not depend on the text."""
    embedded = model.get_input_embeddings().num_embeddings
    # some embed ids that they never predict
    vocabulary = min(embedded, getattr(model.config.get_text_config(decoder=True), "vocab_size", embedded))
    ids = torch.randint(0, vocabulary, (sum(lengths),), generator=torch.Generator().manual_seed(0)).tolist()
    return VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": lengths}])
