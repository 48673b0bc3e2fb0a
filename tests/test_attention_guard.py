"""The check at the model: seams that are missing, dropped or not used are refused, with advice that fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from expect import refused
from packed import packed_row
from transformers import AutoModelForCausalLM

from varlen_lab.attention import guard
from varlen_lab.errors import InputError
from varlen_lab.models.isolation import isolate_layers, known_layers
from varlen_lab.models.miniature import miniature, miniature_config

LENGTHS = [5, 1, 17, 9]
IDS = torch.arange(10, 42)


def packed(**changes: Any) -> dict[str, Any]:
    return packed_row(LENGTHS, **{"labels": None} | changes)


def without_seams() -> dict[str, Any]:
    return packed(cu_seq_lens_q=None, cu_seq_lens_k=None, max_length_q=None, max_length_k=None)


# ------------------------------------------------------------------------------------------------- positions, no seams


@pytest.mark.parametrize("kind", ["llama", "gpt_bigcode", "persimmon", "llama4_text", "stablelm", "mamba", "bloom"])
def test_positions_that_restart_are_refused_whatever_a_class_does_with_them(kind: str) -> None:
    with refused("position_ids go back to 0 at token 5 of row 0 but .* got no cu_seq_lens_q.*VarlenCollator"):
        miniature(kind)(**without_seams())


@pytest.mark.parametrize(
    ("positions", "mask", "at"),
    [
        ([0, 1, 2, 3, 4], None, None),
        ([5, 6, 7, 8, 9], None, None),
        ([1, 1, 0, 1, 2], None, None),  # padding on the left
        ([1, 1, 0, 1, 2], [0, 0, 1, 1, 1], None),
        ([0, 0, 0, 1, 2], [0, 0, 1, 1, 1], None),
        ([0, 1, 2, 0, 0], [1, 1, 1, 0, 0], None),  # on the right
        ([0, 1, 2, 1, 1], [1, 1, 1, 0, 0], None),
        ([0, 1, 2, 1, 1], None, None),
        ([0, 1, 2, 0, 0], None, None),  # documents of one token would train nothing
        ([0, 1, 2, 0, 1], None, 3),
        ([0, 1, 2, 0, 1], [1, 1, 1, 1, 1], 3),
        ([0, 0, 1, 2, 3], None, 1),  # a document of one token is heard by the next
        ([0, 0, 1, 2, 3], [1, 1, 1, 1, 1], 1),
        ([2, 3, 4, 2, 3], None, 3),  # classes that count from 2
        ([7, 8, 9, 3, 4], None, 3),  # pieces of documents
        ([1, 1, 0, 1, 0], [0, 0, 1, 1, 1], 4),
    ],
)
def test_padding_is_no_restart(positions: list[int], mask: list[int] | None, at: int | None) -> None:
    model = miniature("llama")
    given = {"position_ids": torch.tensor([[0, 1, 2, 3, 4], positions]), "input_ids": IDS[:10].view(2, 5)}
    if mask is not None:
        given["attention_mask"] = torch.tensor([[1] * 5, mask])
    if at is None:
        model(**given)
    else:
        with refused(f"go back to {positions[at]} at token {at} of row 1"):
            model(**given)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt_oss"])
def test_a_mask_of_four_dimensions_says_who_sees_whom(kind: str) -> None:
    mine, eager = (miniature(kind, name).eval() for name in ("varlen", "eager"))
    document = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    seen = (document[:, None] == document).tril()[None, None]
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        theirs = eager(**without_seams(), attention_mask=added).logits
        for mask in (seen, added):
            there = mine(**without_seams(), attention_mask=mask).logits
            torch.testing.assert_close(there, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("planes", [3, 4])
def test_positions_of_several_planes_are_looked_at_too(planes: int) -> None:
    image = torch.tensor([0, 1, 1, 1, 1, 3])  # the tokens of an image share a time
    model = miniature("llama")
    guard.refuse_restarts("a model", image.expand(planes, 1, 6), {})
    with refused("go back to 0 at token 3"):
        model(input_ids=IDS[None, :6], position_ids=torch.tensor([0, 1, 2, 0, 1, 2]).expand(planes, 1, 6))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "phimoe", "gpt_oss"])
def test_generation_with_padding_on_the_left_is_no_packed_row(kind: str) -> None:
    mine, eager = (miniature(kind, name).eval() for name in ("varlen", "eager"))
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[0, :9] = 0
    asked = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 1, "eos_token_id": None}
    assert torch.equal(mine.generate(IDS.view(2, 16), **asked), eager.generate(IDS.view(2, 16), **asked))
    static = asked | {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(mine.generate(IDS.view(2, 16), **static), eager.generate(IDS.view(2, 16), **asked))


# -------------------------------------------------------------------------------------------------- seams, not taken


@pytest.mark.parametrize("kind", ["stablelm", "nemotron"])
def test_a_class_that_drops_the_seams_is_named_and_no_collator_advised(kind: str) -> None:
    with refused("ForCausalLM was given cu_seq_lens_q and does not hand it on to its attention.*unpacked") as said:
        miniature(kind)(**packed())
    assert "Collator" not in str(said.value)


@pytest.mark.parametrize("kind", ["openai-gpt", "xlnet"])
def test_a_class_without_an_attention_of_ours_is_refused(kind: str) -> None:
    with refused("no attention of ours took it.*unpacked") as said:
        miniature(kind)(**packed())
    assert "Collator" not in str(said.value)


@pytest.mark.parametrize(("kind", "layer"), [("mamba", "MambaMixer"), ("rwkv", "Rwkv"), ("lfm2", "Lfm2ShortConv")])
def test_layers_that_carry_a_state_are_refused_until_they_run_document_by_document(kind: str, layer: str) -> None:
    model = miniature(kind)
    with refused(rf"layers? that carr.* a state .*\({layer}.*varlen_lab.isolate\(model, batch\)"):
        model(**packed())
    if kind == "lfm2":
        model(**packed_row([9], labels=None))  # one document has no neighbour
    with guard.lifted():
        model(**packed())
    isolate_layers(model, known_layers(model))(**packed())


def test_one_layer_that_drops_the_seams_is_seen() -> None:
    model = miniature("llama", num_hidden_layers=3)
    attention = model.model.layers[1].self_attn
    real = attention.forward
    attention.forward = lambda *given, cu_seq_lens_q=None, **more: real(*given, **more)
    with refused("LlamaForCausalLM was given cu_seq_lens_q and does not hand it on"):
        model(**packed())
    with guard.lifted():
        model(**packed())
    model(input_ids=IDS[None])


@pytest.mark.parametrize("kind", ["bart", "marian", "pegasus"])
@pytest.mark.parametrize("change", [{}, {"position_ids": None}])
def test_a_class_that_counts_positions_itself_is_refused(kind: str, change: dict[str, Any]) -> None:
    with refused("ForCausalLM takes no position_ids and counts the tokens of a row itself"):
        miniature(kind)(**packed(**change))


@pytest.mark.parametrize("name", ["cu_seq_lens_k", "seq_idx", "max_length_q", "max_length_k"])
def test_what_tells_of_documents_without_their_seams_is_refused(name: str) -> None:
    value = {"seq_idx": torch.arange(4).repeat_interleave(torch.tensor(LENGTHS))[None]} | packed()
    with refused(f"LlamaForCausalLM was given {name} without cu_seq_lens_q"):
        miniature("llama")(IDS[None], **{name: value[name]})


def test_seams_without_positions_are_refused() -> None:
    """Learned positions would run on through the row, and rotary ones past the length a model was scaled for."""
    with refused("GPT2LMHeadModel was given cu_seq_lens_q without position_ids.*boundaries.position_ids"):
        miniature("gpt2")(**packed(position_ids=None))
    one = torch.tensor([0, 32], dtype=torch.int32)
    miniature("gpt2")(**packed(position_ids=None, cu_seq_lens_q=one, cu_seq_lens_k=one, max_length_q=32))


def test_positions_that_belong_to_padding_are_refused() -> None:
    eager, mine = (miniature("roberta", name).eval() for name in ("eager", "varlen"))
    with refused("position_ids start at 0 and RobertaForCausalLM counts positions from 2.*add 2"):
        mine(**packed())
    with torch.no_grad():
        alone = torch.cat([eager(input_ids=one[None], use_cache=False).logits[0] for one in IDS.split(LENGTHS)])
        there = mine(**packed(position_ids=packed()["position_ids"] + 2)).logits[0]
    torch.testing.assert_close(there, alone, rtol=1e-5, atol=1e-5)


def test_what_a_class_says_itself_is_one_sentence() -> None:
    model = miniature("llama")

    def forward(*_: Any, **__: Any) -> None:
        raise ValueError("no kernel keeps packed sequences apart.\nInstall one.")

    model.model.forward = forward
    with refused("LlamaForCausalLM does not run packed documents .no kernel keeps packed sequences apart.; .*unpacked"):
        model(**packed())
    with pytest.raises(ValueError, match="Install one"):
        model(input_ids=IDS[None])


@pytest.mark.parametrize("kind", ["falcon", "gpt_neo"])
def test_a_class_with_a_list_of_attentions_of_its_own_says_so(kind: str) -> None:
    config = miniature_config(kind)
    with pytest.raises(InputError, match=r"list of its own, without 'varlen'.*unpacked"):
        AutoModelForCausalLM.from_config(config, attn_implementation="varlen")
    assert AutoModelForCausalLM.from_config(config, attn_implementation="eager")
