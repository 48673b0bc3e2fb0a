"""However a model is called, wrapped or compiled, it is checked; and what is no row of documents is left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from expect import refused
from test_attention_guard import IDS, packed, without_seams
from transformers import PreTrainedModel

from varlen_lab.attention.calls import CALL
from varlen_lab.attention.huggingface import register
from varlen_lab.models.miniature import miniature, scale_weights
from varlen_lab.packing.collators import VarlenCollator

# ---------------------------------------------------------------------------------------------- how it is called


def test_attention_weights_are_refused_at_the_model() -> None:
    model = miniature("llama")
    for call in (
        lambda: model(IDS[None], output_attentions=True),
        lambda: model.model(IDS[None], output_attentions=True),
    ):
        with refused("output_attentions=True asks .* attn_implementation='eager'.*attention_seen"):
            call()
    model.set_attn_implementation("eager")
    assert model(IDS[None], output_attentions=True).attentions is not None


def test_arguments_in_their_order_are_looked_at() -> None:
    given = without_seams()
    with refused("go back to 0 at token 5"):
        miniature("llama")(given["input_ids"], None, given["position_ids"])


def test_to_register_again_changes_nothing_and_models_that_were_there_are_watched() -> None:
    model = miniature("llama", "sdpa")
    before = PreTrainedModel.__call__
    register()
    assert PreTrainedModel.__call__ is before
    model(**without_seams(), use_cache=False)  # transformers' own attention is not ours to judge
    model.set_attn_implementation("varlen_reference")
    with refused("go back to 0 at token 5"):
        model(**without_seams())


def wrapped_by_peft(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(target_modules="all-linear"))


def checkpointed(model: Any) -> Any:
    model.gradient_checkpointing_enable()
    return model.train()


def inside_another(model: Any) -> Any:
    outer = torch.nn.Module()
    outer.inner, outer.forward = model, lambda **given: model(**given)
    return outer


@pytest.mark.parametrize("wrap", [wrapped_by_peft, checkpointed, inside_another])
def test_wrapped_models_are_watched_and_train(wrap: Callable[[Any], Any]) -> None:
    model = wrap(miniature("llama"))
    model(**packed()).logits.sum().backward()
    assert any(weight.grad is not None for weight in model.parameters())
    with refused("go back to 0 at token 5"):
        model(**without_seams())


class Scorer(PreTrainedModel):
    """A model of a user's own that packs documents itself and asks another for their logits."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner.config)
        self.inner = inner

    def forward(self, tokens: torch.Tensor, **known: Any) -> Any:
        return self.inner(**without_seams() | known | {"input_ids": tokens})


def test_what_only_an_inner_model_is_given_is_looked_at_there() -> None:
    scorer = Scorer(miniature("llama"))
    with refused("position_ids go back to 0 at token 5 of row 0 but LlamaForCausalLM got no cu_seq_lens_q"):
        scorer(IDS[None])
    scorer(IDS[None], position_ids=torch.arange(32)[None])


def test_a_class_that_drops_the_seams_is_seen_under_an_adapter() -> None:
    with refused("StableLm.* was given cu_seq_lens_q and does not hand it on"):
        wrapped_by_peft(miniature("stablelm"))(**packed())


def test_each_thread_has_its_own_call() -> None:
    """One with seams waits inside of its forward pass while another runs without: neither sees the other's seams."""
    model, inside, done = miniature("llama"), threading.Event(), threading.Event()
    found: list[Any] = []

    def wait(*_: Any) -> None:
        if not inside.is_set():
            inside.set()
            done.wait(20)

    model.model.layers[1].register_forward_pre_hook(wait)
    first = threading.Thread(target=lambda: found.append(model(**packed()).logits))
    first.start()
    assert inside.wait(20)
    found.append(model(input_ids=IDS[None]).logits)
    done.set()
    first.join()
    assert len(found) == 2 and CALL.get() is None


def test_an_error_leaves_no_call_behind() -> None:
    model = miniature("llama")
    with refused("the boundaries end at 31"):
        model(
            **packed(cu_seq_lens_q=torch.tensor([0, 5, 31], dtype=torch.int32), cu_seq_lens_k=None, max_length_q=None)
        )
    assert CALL.get() is None
    model(**packed())


# --------------------------------------------------------------------------------------------------- compiled


def in_place(model: torch.nn.Module) -> torch.nn.Module:
    model.compile(backend="eager")
    return model


def wrapped(model: torch.nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def around_a_wrapper(model: torch.nn.Module) -> Any:
    return torch.compile(inside_another(model), backend="eager")


def its_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


SLOW = [pytest.param(compile_it, marks=pytest.mark.slow) for compile_it in (wrapped, around_a_wrapper, its_forward)]


@pytest.mark.parametrize("compiled", [lambda model: model, in_place, *SLOW])
def test_a_compiled_model_is_checked_as_one_that_is_not(compiled: Callable[[Any], Any]) -> None:
    model, dropping = compiled(miniature("gpt_bigcode").eval()), compiled(miniature("stablelm").eval())
    exact = model(**packed()).logits
    torch.testing.assert_close(exact, miniature("gpt_bigcode").eval()(**packed()).logits, rtol=0, atol=2e-5)
    with refused("position_ids go back to 0 at token 5 of row 0 but GPTBigCodeForCausalLM got no cu_seq_lens_q"):
        model(**without_seams())
    with refused("StableLmForCausalLM was given cu_seq_lens_q and"):
        dropping(**packed())


def test_a_graph_of_any_length_has_a_causal_mask_left_out() -> None:
    """Where the number of queries is a symbol, a comparison with it is one too, and torch's kernel takes a bool."""
    model = miniature("llama").eval()
    ids = IDS[None]
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(ids).logits, model(ids).logits, rtol=0, atol=5e-6)


# ---------------------------------------------------------------------------------------------- towers


@pytest.mark.parametrize("lengths", [[6, 20, 19], [16 + 9, 20]])
def test_images_of_a_packed_row_are_seen_as_each_alone(lengths: list[int]) -> None:
    """The class hands the seams of the row to its vision tower too, whose rows are images of 17 tokens each."""
    eager = see_and_tell()
    mine = deepcopy(eager)
    mine.set_attn_implementation("varlen")
    rows, pictures = IDS.repeat(2)[: sum(lengths)].clone().split(lengths), torch.randn(len(lengths), 3, 16, 16)
    seen = torch.tensor(lengths) > 16
    for row in rows:
        row[1:17] = 62 if len(row) > 16 else row[1:17]
    made = VarlenCollator()([{"input_ids": torch.cat(rows).tolist(), "seq_lengths": lengths}])
    del made["labels"]
    with torch.no_grad():
        alone = [
            eager(input_ids=row[None], **({"pixel_values": picture[None]} if len(row) > 16 else {})).logits[0]
            for row, picture in zip(rows, pictures, strict=True)
        ]
        there = mine(**made, pixel_values=pictures[seen]).logits[0]
    torch.testing.assert_close(there, torch.cat(alone), rtol=0, atol=1e-5)


def test_a_tower_of_as_many_tokens_as_the_row_is_not_cut_by_its_seams() -> None:
    """One image of 17 tokens for a row of 17: nothing tells them apart but who attends."""
    mine = see_and_tell()
    mine.set_attn_implementation("varlen")
    made = VarlenCollator()([{"input_ids": [62] * 16 + [5], "seq_lengths": [16, 1]}])
    del made["labels"]
    with refused("LlavaForConditionalGeneration was given cu_seq_lens_q and does not hand it on"):
        mine(**made, pixel_values=torch.randn(1, 3, 16, 16))


def see_and_tell() -> Any:
    """A tiny Llava: images of 16 tokens, id 62."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    seeing = CLIPVisionConfig(**sizes, image_size=16, patch_size=4)
    telling = LlamaConfig(**sizes, vocab_size=64, num_key_value_heads=2)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=seeing, text_config=telling, image_token_id=62))
    model.set_attn_implementation("eager")
    scale_weights(model)
    return model.eval()
