"""Layers that carry a state run document by document: packed is alone, and nothing else about a model changes."""

from __future__ import annotations

import copy
import inspect
from functools import partial
from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from expect import refused
from packed import packed_row
from peft import LoraConfig, get_peft_model
from torch.utils.checkpoint import checkpoint
from turns import by_turns

from varlen_lab.attention.guard import lifted
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.leaks.layers import leaking_layers
from varlen_lab.leaks.running import CannotRun, noise_off
from varlen_lab.models.building import build_model
from varlen_lab.models.isolation import in_words, isolate_layers, isolated_layers, known_layers, release
from varlen_lab.models.loading import load_model
from varlen_lab.models.miniature import miniature
from varlen_lab.models.recomputing import recompute
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.studies.census import causal_lm_types
from varlen_lab.studies.one_class import LIMIT, apart, plain_model, run_alone, run_packed
from varlen_lab.studies.registry import STYLES

KINDS = ["lfm2", "jamba", "qwen3_next", "mamba", "mamba2", "recurrent_gemma", "rwkv", "zamba2", "nemotron_h"]
MORE = ["qwen3_5_text", "granitemoehybrid", "bamba", "falcon_h1", "xlstm", "minimax", "kimi_linear", "lfm3"]
LENGTHS = [5, 1, 17, 1, 8]


def isolated(kind: str, attention: str = "varlen", **changes: Any) -> Any:
    model = miniature(kind, attention, **changes)
    return isolate_layers(model, known_layers(model))


# -------------------------------------------------------------------------------------------------- packed is alone


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE)])
def test_a_packed_row_is_its_documents_alone(kind: str) -> None:
    """Logits and gradients, in train and in eval mode."""
    alone, model = plain_model(kind), isolated(kind)
    model.load_state_dict(alone.state_dict())
    assert isolated_layers(model) == known_layers(model) != []
    for training in (True, False):
        assert apart(run_packed(model.train(training), STYLES["ours"]), run_alone(alone.train(training))) <= LIMIT


@pytest.mark.parametrize("kind", ["lfm2", "mamba2", "rwkv"])
def test_several_rows_are_as_one(kind: str) -> None:
    """Seams run through all rows of a batch, laid end to end."""
    model = isolated(kind).eval()
    batch = packed_row([5, 1, 10, 16], labels=None)
    one = model(**batch, use_cache=False).logits
    two = {name: x.view(2, 16) if name in ("input_ids", "position_ids") else x for name, x in batch.items()}
    assert torch.allclose(model(**two, use_cache=False).logits.view_as(one), one, atol=1e-5)


@pytest.mark.parametrize("kind", ["lfm2", "mamba"])
@pytest.mark.parametrize("lengths", [[1], [9], [1, 1, 1], [1, 8], [8, 1]])
def test_ugly_rows(kind: str, lengths: list[int]) -> None:
    model = isolated(kind).eval()
    batch = packed_row(lengths, labels=None)
    row = model(**batch, use_cache=False).logits[0]
    for start, end in Boundaries.from_lengths(lengths).spans:
        alone = model(input_ids=batch["input_ids"][:, start:end], use_cache=False).logits[0]
        assert torch.allclose(row[start:end], alone, atol=1e-5)


def test_a_layer_computes_to_the_bit_what_it_computes_alone() -> None:
    model = isolated("lfm2").eval()
    layer, seen = model.get_submodule(isolated_layers(model)[0]), {}

    def look(_: Any, args: Any, options: dict[str, Any], out: torch.Tensor) -> None:
        seen.update(given=options["hidden_states"], out=out)

    layer.register_forward_hook(look, with_kwargs=True)
    model(**packed_row(LENGTHS, labels=None), use_cache=False)
    packed = dict(seen)
    for start, end in Boundaries.from_lengths(LENGTHS).spans:
        assert torch.equal(packed["out"][:, start:end], layer(hidden_states=packed["given"][:, start:end]))


# --------------------------------------------------------------------------------------- and all else is as it was


def test_without_seams_nothing_changes() -> None:
    plain, model = miniature("lfm2").eval(), isolated("lfm2").eval()
    ids = torch.arange(10, 22)[None]
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert torch.equal(model.generate(ids, **options), plain.generate(ids, **options))
    padded = {
        "input_ids": torch.arange(10, 22).view(2, 6),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]),
    }
    assert torch.equal(model(**padded).logits, plain(**padded).logits)


def test_weights_and_their_names_are_untouched(tmp_path: Any) -> None:
    plain, model = miniature("lfm2"), isolated("lfm2")
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    for one, its in ((model, plain), (copy.deepcopy(model), plain)):
        assert list(one.state_dict()) == list(its.state_dict())
    for one, folder in ((plain, "plain"), (model, "isolated")):
        one.save_pretrained(tmp_path / folder)
    for file in (tmp_path / "plain").iterdir():
        assert (tmp_path / "isolated" / file.name).read_bytes() == file.read_bytes()


def test_once_more_is_once_and_release_takes_it_off() -> None:
    plain, model = miniature("lfm2"), isolated("lfm2")
    layer = model.get_submodule(isolated_layers(model)[0])
    forward, hooks = layer.forward, len(model._forward_hooks)
    isolate_layers(model, known_layers(model))
    assert layer.forward is forward and len(model._forward_hooks) == hooks == 1
    assert inspect.signature(layer.forward) == inspect.signature(type(layer)(model.config, 1).forward)
    assert release(model) is model and isolated_layers(model) == [] and in_words(model) == ""
    assert vars(layer).keys() == vars(plain.get_submodule(known_layers(plain)[0])).keys()
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    assert in_words(isolated("jamba")) == "isolated: 1 of 2 layers"


def test_a_copy_has_documents_of_its_own() -> None:
    model = isolated("lfm2").eval()
    twin = copy.deepcopy(model)
    release(model)
    batch = packed_row(LENGTHS, labels=None)
    row = twin(**batch, use_cache=False).logits[0]
    last = twin(input_ids=batch["input_ids"][:, -LENGTHS[-1] :]).logits[0]
    assert torch.allclose(row[-LENGTHS[-1] :], last, atol=1e-5)


@pytest.mark.parametrize("kind", ["lfm2", "rwkv", "zamba2", "qwen3_next"])
def test_a_cache_that_is_left_on_changes_nothing(kind: str) -> None:
    model, batch = isolated(kind).eval(), packed_row(LENGTHS, labels=None)
    assert torch.equal(model(**batch).logits, model(**batch, use_cache=False).logits)


def test_it_goes_through_a_file_and_under_the_hooks_of_accelerate(tmp_path: Any) -> None:
    model, batch = isolated("lfm2").eval(), packed_row(LENGTHS, labels=None)
    expected = model(**batch, use_cache=False).logits
    torch.save(model, tmp_path / "model.pt")
    for module in model.modules():
        add_hook_to_module(module, AlignDevicesHook(io_same_device=True))
    for one in (model, torch.load(tmp_path / "model.pt", weights_only=False)):
        assert isolated_layers(one) == known_layers(one)
        assert torch.equal(one(**batch, use_cache=False).logits, expected)


def test_a_wrapper_that_calls_the_model_past_its_hooks_is_watched_once_it_is_there() -> None:
    """peft calls the ``forward`` of the model inside it."""
    model, batch = isolated("rwkv").eval(), packed_row(LENGTHS, labels=None)
    expected = model(**batch, use_cache=False).logits
    wrapped = get_peft_model(model, LoraConfig(target_modules=["key"]))
    isolate_layers(wrapped, isolated_layers(wrapped))
    assert len(wrapped._forward_pre_hooks) == 1
    assert torch.equal(wrapped(**batch, use_cache=False).logits, expected)


def test_parts_that_were_isolated_by_themselves_share_their_seams() -> None:
    model, batch = isolated("mamba").eval(), packed_row(LENGTHS, labels=None)
    expected = model(**batch, use_cache=False).logits
    paths = isolated_layers(model)
    release(model)
    for path in paths:
        isolate_layers(model.get_submodule(path), [""])
    assert isolated_layers(model) == paths
    assert torch.equal(isolate_layers(model, paths)(**batch, use_cache=False).logits, expected)


# ------------------------------------------------------------------------------------- models that are loaded or built


def test_a_model_that_is_loaded_runs_what_carries_a_state_document_by_document(tmp_path: Any) -> None:
    miniature("lfm2").save_pretrained(tmp_path)
    batch = packed_row(LENGTHS, labels=None)
    model = load_model(tmp_path)
    assert in_words(model) == "isolated: 1 of 2 layers"
    model(**batch, use_cache=False)
    with refused("Lfm2ForCausalLM has a layer that carries a state .* varlen_lab.isolate"):
        load_model(tmp_path, isolate=False)(**batch, use_cache=False)
    assert isolated_layers(load_model(tmp_path, "eager")) == []  # nothing of it is told of seams


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_model_of_a_run_too(method: str, small: Config, tmp_path: Any) -> None:
    miniature("lfm2").save_pretrained(tmp_path / "model")
    config = small.with_mode("varlen").replace(
        model_config=None, pretrained_model_name_or_path=str(tmp_path / "model"), method=method
    )
    for isolate in (True, False):
        model = build_model(config.replace(isolate=isolate))
        assert in_words(model) == "isolated: 1 of 2 layers" * isolate
    assert isolated_layers(build_model(config.with_mode("packed"))) == []


def test_a_path_that_is_not_there_is_said() -> None:
    with refused("has no module 'model.layers.9.conv' to isolate"):
        isolate_layers(miniature("lfm2"), ["model.layers.9.conv"])


# ------------------------------------------------------------------------------------------- activations computed again


class Counted(torch.nn.Module):
    """A convolution of width 3 that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.nn.Parameter(torch.tensor([0.5, 0.3, 0.2]))
        self.calls = 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        before = torch.nn.functional.pad(hidden, (0, 0, 2, 0))
        length = hidden.shape[1]
        return hidden + sum(weight * before[:, at : at + length] for at, weight in enumerate(self.kernel))


def convolved(convolution: Any = Counted) -> Any:
    """A Llama with a convolution before its second MLP, isolated."""
    model = miniature("llama", num_hidden_layers=2)
    layer = model.model.layers[1]
    layer.mlp = torch.nn.Sequential(convolution(), layer.mlp)
    return isolate_layers(model.train(), ["model.layers.1.mlp.0"])


def gradients_of(model: Any, *rows: list[int]) -> list[torch.Tensor]:
    """Forward passes of all rows first, then their backward passes."""
    for loss in [model(**packed_row(lengths), use_cache=False).loss for lengths in rows]:
        loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("how", ["reentrant", "not reentrant", "all", "cheap"])
def test_layers_that_are_computed_again_have_the_seams_of_their_call(how: str) -> None:
    rows = [5, 1, 17], [9, 2, 12]
    expected = gradients_of(convolved(), *rows)
    model = convolved()
    if "reentrant" in how:
        model.gradient_checkpointing_enable({"use_reentrant": how == "reentrant"})
        model.enable_input_require_grads()
    else:
        recompute(model, how)
    found = gradients_of(model, *rows)
    assert all(torch.equal(mine, its) for mine, its in zip(found, expected, strict=True))
    assert model.model.layers[1].mlp[0].calls == 2 * (3 + 3)
    # a call without seams is computed again without them
    expected, model.model.layers[1].mlp[0].calls = None, 0
    model(input_ids=torch.arange(10, 22)[None], labels=torch.arange(10, 22)[None], use_cache=False).loss.backward()
    assert model.model.layers[1].mlp[0].calls == 2


@pytest.mark.parametrize("reentrant", [True, False])
def test_other_ways_to_compute_again_are_refused(reentrant: bool) -> None:
    """They would run the layer on the whole row, and nobody would see it."""
    model = convolved()
    layer = model.model.layers[1]
    real = layer.forward
    layer.forward = lambda *given, **more: checkpoint(real, *given, use_reentrant=reentrant, **more)
    if reentrant:
        layer.forward = lambda hidden, **more: checkpoint(partial(real, **more), hidden, use_reentrant=True)
    loss = model(**packed_row(LENGTHS), use_cache=False).loss
    with refused("Counted runs document by document and is computed again .*gradient_checkpointing_enable"):
        loss.backward()


def test_a_layer_that_was_never_packed_may_be_computed_again_in_any_way() -> None:
    model = convolved()
    layer = model.model.layers[1]
    real = layer.forward
    layer.forward = lambda *given, **more: checkpoint(real, *given, use_reentrant=False, **more)
    ids = torch.arange(10, 22)[None]
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()


@pytest.mark.slow
def test_a_compiled_model_computes_the_same() -> None:
    """The isolated layer is no part of its graphs; also where activations are computed again."""
    rows = [5, 1, 17], [9, 2, 12]
    expected, model = gradients_of(convolved(), *rows), convolved()
    recompute(model, "all")
    torch._dynamo.reset()
    model.compile(backend="aot_eager", dynamic=True)
    for mine, its in zip(gradients_of(model, *rows), expected, strict=True):
        assert torch.allclose(mine, its, atol=1e-6)
    assert model.model.layers[1].mlp[0].calls == 2 * (3 + 3)


# ------------------------------------------------------------------------------------------------- how seams get there


def test_the_inner_model_called_by_itself_takes_its_own_seams() -> None:
    """A loss of one's own calls it past the head."""
    model = isolated("lfm2").eval()
    batch = packed_row(LENGTHS, labels=None)
    whole = model(**batch, use_cache=False, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(model.model(**batch, use_cache=False).last_hidden_state, whole)


def test_seams_go_with_their_call_even_when_it_fails() -> None:
    model, plain = isolated("lfm2").eval(), miniature("lfm2").eval()
    running = model.get_submodule(isolated_layers(model)[0]).forward.running
    batch = packed_row(LENGTHS, labels=None)
    ids = batch["input_ids"]
    for problem in (ZeroDivisionError, KeyboardInterrupt):

        def fails(*_: Any, problem: Any = problem) -> None:
            raise problem

        hook = model.model.layers[1].register_forward_pre_hook(fails)
        with pytest.raises(problem):
            model(**batch, use_cache=False)
        hook.remove()
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, plain(input_ids=ids, use_cache=False).logits)
        assert not running.calls


def test_positions_that_restart_without_seams_are_refused_with_any_attention() -> None:
    model = isolated("lfm2", "sdpa")
    batch = packed_row([5, 4], labels=None)
    without = {name: x for name, x in batch.items() if name in ("input_ids", "position_ids")}
    with refused("position_ids go back to 0 at token 5 of row 0 but Lfm2ForCausalLM got no cu_seq_lens_q"):
        model(**without, use_cache=False)
    with lifted():
        model(**without, use_cache=False)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_keeps_attention_of_transformers_from_finding_documents_is_refused(attention: str) -> None:
    """It reads no seams: with a mask, without positions or with a cache the documents would hear one another."""
    model, batch = isolated("lfm2", attention), packed_row([5, 4, 7], labels=None)
    ones = torch.ones_like(batch["input_ids"])
    with refused("looks for documents itself, but not here: a cache is made, the config's default; pass use_cache"):
        model(**batch)
    with refused("but not here: a cache is made; pass use_cache=False"):
        get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=["q_proj"]))(**batch, use_cache=True)
    with refused("an attention_mask came with the packed row; leave it out"):
        model(**batch, use_cache=False, attention_mask=ones)
    with refused("no position_ids came with the packed row"):
        model(**batch | {"position_ids": None}, use_cache=False)
    with lifted():
        model(**batch)  # somebody measures what it does
    got = model(**batch, use_cache=False).logits
    alone = model(input_ids=batch["input_ids"][:, 5:9]).logits
    assert (got[:, 5:9] - alone).abs().max() <= 1e-5 * alone.abs().max()
    assert model(**packed_row([6], labels=None)).logits.shape[1] == 6  # one document: nothing to find


def test_a_model_that_is_called_within_its_own_call_is_refused() -> None:
    """The inner call ends the outer one's seams, and layers after it would run through them."""
    model, batch = isolated("lfm2"), packed_row([5, 4], labels=None)

    def calls_it_again(*_: Any) -> None:
        hook.remove()
        model(input_ids=batch["input_ids"][:, :3], use_cache=False)

    hook = model.model.layers[0].register_forward_pre_hook(calls_it_again)
    with refused("was called once more within a call of its own"):
        model(**batch)
    model(**batch)


def test_a_layer_and_one_inside_it_may_both_run_document_by_document() -> None:
    model, batch = isolated("jamba"), packed_row([5, 1, 4], labels=None)
    got = model(**batch).logits
    isolate_layers(model, [path for path, module in model.named_modules() if path.split(".")[-2:-1] == ["layers"]])
    assert len(isolated_layers(model)) > len(known_layers(model))
    again = model(**batch).logits
    assert (again - got).abs().max() <= 1e-5 * got.abs().max()


def test_a_document_lies_in_one_row() -> None:
    model = isolated("mamba")
    batch = {"input_ids": torch.arange(10, 42).view(2, 16), "use_cache": False}
    batch |= {"cu_seq_lens_q": torch.tensor([0, 10, 32], dtype=torch.int32)}
    with refused("document 1 has tokens 10 to 31 and crosses the end of row 0 after token 15"):
        model(**batch)
    with refused("the seams end at 31 and none of its arguments has so many tokens"):
        model(**batch | {"cu_seq_lens_q": torch.tensor([0, 10, 31], dtype=torch.int32)})


def test_a_mask_that_hides_tokens_of_a_packed_row_is_refused() -> None:
    model, batch = isolated("mamba"), packed_row(LENGTHS, labels=None)
    mask = torch.ones(1, sum(LENGTHS), dtype=torch.long)
    model(**batch, attention_mask=mask)
    mask[0, -1] = 0
    with refused("attention_mask hides 1 tokens of a packed row"):
        model(**batch, attention_mask=mask)


def test_gradients_of_several_rows() -> None:
    rows = [5, 1, 10, 16]
    one, two = convolved(), convolved()
    batch = packed_row(rows, labels=None)
    split = {name: x.view(2, 16) if name in ("input_ids", "position_ids") else x for name, x in batch.items()}
    weights = torch.randn(32, one.config.vocab_size, generator=torch.Generator().manual_seed(0))
    for model, given in ((one, batch), (two, split)):
        (model(**given, use_cache=False).logits.flatten(0, 1) * weights).sum().backward()
    for mine, its in zip(two.parameters(), one.parameters(), strict=True):
        assert torch.allclose(mine.grad, its.grad, atol=1e-5 * float(its.grad.abs().max()))


def test_classes_that_count_positions_beside_an_isolated_attention_are_refused() -> None:
    model = miniature("trocr")
    with refused("TrOCRForCausalLM takes no position_ids and counts the tokens of a row itself"):
        isolate_layers(model, ["model.decoder.layers.0.self_attn", "model.decoder.layers.1.self_attn"])(
            **packed_row(LENGTHS, labels=None), use_cache=False
        )


@pytest.mark.parametrize(
    ("kind", "path"), [("openai-gpt", "transformer.h.{}.attn"), ("xglm", "model.layers.{}.self_attn")]
)
def test_attention_that_nobody_dispatches_is_exact_too(kind: str, path: str) -> None:
    """Its mask is cut to the document, or causality would be lost."""
    alone, model = plain_model(kind), miniature(kind)
    model.load_state_dict(alone.state_dict())
    isolate_layers(model, [path.format(number) for number in range(2)])
    assert apart(run_packed(model.eval(), STYLES["ours"]), run_alone(alone.eval())) <= LIMIT


# ------------------------------------------------------------------------------------ a row in one call, where it can


class Resets(Counted):
    """The same, which starts anew where it is told that a document begins."""

    def forward(self, hidden: torch.Tensor, seq_idx: torch.Tensor | None = None) -> torch.Tensor:
        if seq_idx is None:
            return super().forward(hidden)
        self.calls += 1
        return hidden + sum(weight * self.shifted(hidden, seq_idx, 2 - at) for at, weight in enumerate(self.kernel))

    def shifted(self, hidden: torch.Tensor, seq_idx: torch.Tensor, by: int) -> torch.Tensor:
        back = torch.nn.functional.pad(hidden, (0, 0, by, 0))[:, : hidden.shape[1]]
        mine = torch.nn.functional.pad(seq_idx, (by, 0), value=-1)[:, : hidden.shape[1]] == seq_idx
        return back * mine[..., None]


class Forgets(Resets):
    """It takes seams and leaves them out."""

    def shifted(self, hidden: torch.Tensor, seq_idx: torch.Tensor, by: int) -> torch.Tensor:
        return super().shifted(hidden, torch.zeros_like(seq_idx), by)


class Faint(Resets):
    """A thousandth of rounding crosses a seam."""

    def shifted(self, hidden: torch.Tensor, seq_idx: torch.Tensor, by: int) -> torch.Tensor:
        return super().shifted(hidden, seq_idx, by) + 1e-10 * super().shifted(hidden, torch.zeros_like(seq_idx), by)


class Raises(Resets):
    """Its kernel is not there."""

    def shifted(self, hidden: torch.Tensor, seq_idx: torch.Tensor, by: int) -> torch.Tensor:
        raise NotImplementedError("seq_idx needs a kernel")


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("layer", "whole"), [(Resets, True), (Forgets, False), (Faint, False), (Raises, False)])
def test_a_row_is_one_call_only_where_that_is_its_documents_alone(layer: Any, whole: bool, again: bool) -> None:
    rows = [5, 1, 17], [9, 2, 12]
    expected, model = gradients_of(convolved(), *rows), convolved(layer)
    if again:
        recompute(model, "all")
    found = gradients_of(model, *rows)
    assert all(torch.allclose(mine, its, atol=1e-6) for mine, its in zip(found, expected, strict=True))
    assert in_words(model) == "isolated: 1 of 2 layers" + ", 1 in one call" * whole
    counted = model.model.layers[1].mlp[0]
    counted.calls = 0
    model(**packed_row(LENGTHS), use_cache=False)
    assert counted.calls == (1 if whole else len(LENGTHS))


def test_one_document_tells_nothing_about_seams() -> None:
    model = convolved(Forgets)
    model(**packed_row([9], labels=None), use_cache=False)
    runner = model.model.layers[1].mlp[0].forward
    assert runner.whole == {}
    before = torch.random.get_rng_state()
    model(**packed_row(LENGTHS, labels=None), use_cache=False)
    assert list(runner.whole.values()) == [False] and torch.equal(torch.random.get_rng_state(), before)


# -------------------------------------------------------------------------------------- which layers carry a state


@pytest.mark.parametrize("kind", by_turns(causal_lm_types(), always=6))
def test_the_table_says_what_is_measured(kind: str) -> None:
    """Layers that carry a state, and are no attention, are in the table, and no others."""
    try:
        model = miniature(kind, "eager")
    except InputError:
        pytest.skip("transformers builds no tiny one, or without eager attention")
    row = Boundaries.from_lengths(LENGTHS)
    ids = torch.randint(10, 100, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "position_ids": row.position_ids()[None], "use_cache": False}
    try:
        with noise_off(model):
            found = leaking_layers(model, batch, row)
    except (CannotRun, InputError):
        pytest.skip("it does not run a plain row")
    assert known_layers(model) == [layer.path for layer in found if not layer.attends]
