"""Layers that carry a state along the row run document by document inside a packed row, everything else stays packed.

A mask cannot keep a recurrence or a convolution apart. So the ``forward`` of such a layer is replaced, on its instance:
with seams its arguments are cut to each document, it runs once a document, and what it returns is laid end to end
again. That is what the layer computes on each document alone, on any device and with whatever kernel it has. Where its
class takes seams itself, and was seen to keep them (``wholerow``), the row is one call.

Seams come to it from the call of its model (``seams``). Without them all is as before: padding, ``generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any

import torch

from varlen_lab.attention.calls import one_document, seams_taken
from varlen_lab.attention.guard import LIFTED, WATCHED
from varlen_lab.attention.recurrent import carries_state, document_runner, known_layers
from varlen_lab.errors import InputError
from varlen_lab.models.documentwise import by_document, tensors_in
from varlen_lab.models.seams import CHECKPOINTING, KeepsSeams, Running
from varlen_lab.models.wholerow import LEAST, keeps_apart, may_take_seams, with_seams
from varlen_lab.packing.boundaries import Boundaries


def isolate_layers(model: Any, paths: Sequence[str]) -> Any:
    """Run the modules at ``paths`` document by document whenever a call brings seams; in place, returns the model.

    Once more is once: what is isolated stays so, and a wrapper around the model that is new is watched too. InputError
    for a path that is not in the model.
    """
    modules = dict(model.named_modules())
    if missing := [path for path in paths if path not in modules]:
        raise InputError(
            f"{type(model).__name__} has no module {missing[0]!r} to isolate; take paths of model.named_modules()."
        )
    wanted = [path for path in modules if path in set(paths) | set(isolated_layers(model))]
    if not wanted:
        return model
    runners = [runner for module in modules.values() if (runner := document_runner(module)) is not None]
    running = runners[0].running if runners else Running()
    for runner in runners:  # parts that were isolated by themselves share one object from now on
        runner.running = running
    for path in wanted:
        if document_runner(modules[path]) is None:
            modules[path].forward = Isolated(modules[path], running)
    holders = [
        module for path, module in modules.items() if path in wanted or any(inside(layer, path) for layer in wanted)
    ]
    running.holders = holders
    for module in holders:
        if (module is model or is_model(module)) and not running.watches(module):
            module.register_forward_pre_hook(running.enter, with_kwargs=True)
            module.register_forward_hook(running.leave, with_kwargs=True, always_call=True)
    return model


def isolate_known(model: Any) -> Any:
    """Isolate the ``known_layers`` of a model with our attention, in place; returns the model."""
    names = {getattr(getattr(module, "config", None), "_attn_implementation", None) for module in model.modules()}
    return isolate_layers(model, known_layers(model)) if names & WATCHED else model


def release(model: Any) -> Any:
    """Take isolation off again, in place; returns the model."""
    for module in model.modules():
        isolated = document_runner(module)
        if isolated is not None:
            if isolated.inner is None:
                del module.forward
            else:
                module.forward = isolated.inner
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for number, hook in list(hooks.items()):
                if isinstance(getattr(hook, "__self__", None), Running):
                    del hooks[number]
        if isinstance(kept := vars(module).get(CHECKPOINTING), KeepsSeams):
            setattr(module, CHECKPOINTING, kept.inner)
    return model


def isolated_layers(model: Any) -> list[str]:
    """Paths of the modules that run document by document, in the order of the model."""
    return [path for path, module in model.named_modules() if document_runner(module) is not None]


def in_words(model: Any) -> str:
    """How many layers run document by document, as "isolated: 3 of 6 layers"; "" where none does.

    With ", 3 in one call" where kernels were found that keep a row's documents apart themselves.
    """
    paths = isolated_layers(model)
    if not paths:
        return ""
    stacks = {path: len(module) for path, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}
    numbered = {decoder_layer(path, stacks) for path in paths}
    total = sum(stacks[stack] for stack in {path.rpartition(".")[0] for path in numbered} & set(stacks))
    whole = {
        decoder_layer(path, stacks) for path in paths if any(document_runner(model.get_submodule(path)).whole.values())
    }
    said = f"isolated: {len(numbered)} of {max(total, len(numbered))} layers"
    return said + f", {len(whole)} in one call" * bool(whole)


def decoder_layer(path: str, stacks: Mapping[str, int]) -> str:
    """The outermost numbered layer that a path leads through, or the path."""
    parts = path.split(".")
    for place in range(1, len(parts)):
        if ".".join(parts[:place]) in stacks:
            return ".".join(parts[: place + 1])
    return path


def inside(path: str, container: str) -> bool:
    """Whether a module lies in another one, by their paths."""
    return path != container and (not container or path.startswith(container + "."))


def is_model(module: Any) -> bool:
    """Whether it is a model of transformers, whose calls bring seams."""
    from transformers import PreTrainedModel

    return isinstance(module, PreTrainedModel)


class Isolated:
    """The ``forward`` of a layer that runs document by document where its model's call brought seams."""

    by_document = True

    def __init__(self, module: torch.nn.Module, running: Running) -> None:
        self.module = module
        self.running = running
        self.inner = vars(module).get("forward")  # another one's, which stays in place
        self.whole: dict[tuple[str, torch.dtype], bool] = {}  # whether a row may run in one call, once that was tried

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What it runs, for whoever asks for its signature."""
        return self.inner or MethodType(type(self.module).forward, self.module)

    @torch.compiler.disable
    def __call__(self, *args: Any, **options: Any) -> Any:
        documents = self.running.documents(self.module)
        if documents is None:
            return self.__wrapped__(*args, **options)
        # a class of states has no positions; any other may count them through the row, beside the layer
        seams_taken(attention=not carries_state(self.module))
        if self.runs_whole(documents, args, options):
            given, words = with_seams(self.__wrapped__, type(self.module).__name__, documents, args, options)
            return self.__wrapped__(*given, **words)
        with one_document(), self.running.again(None):  # a layer inside it that is isolated too has nothing to cut
            return by_document(self.__wrapped__, type(self.module).__name__, documents, args, options)

    def runs_whole(self, documents: Boundaries, args: tuple[Any, ...], options: dict[str, Any]) -> bool:
        """Whether the row runs in one call, with seams: tried on the first row with several documents."""
        row = next((x for x in tensors_in([*args, *options.values()]) if x.is_floating_point()), None)
        if row is None:
            return False
        kind = (row.device.type, row.dtype)
        if kind not in self.whole:
            if not may_take_seams(self.__wrapped__, row.device):
                self.whole[kind] = False
            elif len(documents) < LEAST or torch.is_inference_mode_enabled() or LIFTED.get():
                return False  # not tried yet: too little is seen, or somebody measures what the modules inside do
            else:
                with one_document():
                    name = type(self.module).__name__
                    self.whole[kind] = keeps_apart(self.__wrapped__, name, documents, args, options)
        return self.whole[kind]
