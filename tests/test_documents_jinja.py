"""A named template in a tokenizer: the same text as the segments of training, and the same prompt."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2.exceptions import TemplateError

from varlen_lab.documents.builtin import CHAT_TEMPLATE, builtin_tokenizer
from varlen_lab.documents.dialogues import Dialogue
from varlen_lab.documents.jinja import chat_template
from varlen_lab.documents.marks import bos_of
from varlen_lab.documents.prompts import prompt_ids
from varlen_lab.documents.registry import TEMPLATES
from varlen_lab.documents.templates import named_segments
from varlen_lab.errors import InputError

SYSTEM = {"role": "system", "content": "Be {round} brief."}
# what people write looks like places in a row, Jinja, escapes and marks
SAID = [
    "Hi {input} {{ x }} {% if %}",
    'A "quoted" \\n back\\slash',
    " two\n lines {bos}\n",
    "问 🙂 {system} <s>",
    "$name",
    ".",
]


@pytest.fixture(scope="module", params=[True, False], ids=["marks", "no marks"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """With a begin and an end mark, or without any."""
    made = builtin_tokenizer()
    if not request.param:
        made.bos_token = made.eos_token = None
    return made


def dialogue(turns: int, system: bool) -> Dialogue:
    roles = ["user", "assistant"] * turns
    said = [{"role": role, "content": text} for role, text in zip(roles, SAID, strict=False)]
    return Dialogue([SYSTEM, *said] if system else said)  # type: ignore[list-item]


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_the_text_in_the_tokenizer_is_the_row(name: str, tokenizer: Any) -> None:
    """As encode joins the segments, begin mark included; and a question is the prompt of the sample answers."""
    tokenizer.chat_template = CHAT_TEMPLATE
    begin = bos_of(tokenizer, name)
    tokenizer.chat_template = chat_template(name, tokenizer)
    for turns in (1, 2, 3):
        for system in (False, True) if TEMPLATES[name].system else (False,):
            whole = dialogue(turns, system)
            for cut in (whole, Dialogue(whole[:-1])):
                pieces = named_segments(cut, tokenizer, name)
                expected = "".join(text for text, _ in pieces)
                if begin is not None and tokenizer(expected, add_special_tokens=False)["input_ids"][:1] != [begin]:
                    expected = tokenizer.bos_token + expected
                assert tokenizer.apply_chat_template(cut, tokenize=False) == expected
                assert tokenizer.apply_chat_template(cut, tokenize=False, add_generation_prompt=True) == expected
    for system in ["", "Be brief."] if TEMPLATES[name].system else [""]:
        messages = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": "Hi {input}"}]
        asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert asked == prompt_ids("Hi {input}", tokenizer, name, system=system)[0].tolist()


def test_the_second_of_two_questions_in_a_row_has_its_mark() -> None:
    """No dialogue of ours holds two, a person who uses the tokenizer may: the first has taken the end of the answer."""
    tokenizer = builtin_tokenizer()
    tokenizer.chat_template = chat_template("chatglm3", tokenizer)
    asked = [*dialogue(2, system=False)[:3], {"role": "user", "content": "Yes?"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False)
    assert text.count("<|user|>") == 3 and "<|assistant|><|user|>\n Yes?<|assistant|>" in text
    assert text.endswith("".join(text for text, _ in named_segments(Dialogue(asked), tokenizer, "chatglm3")))


@pytest.mark.parametrize("name", ["internlm2_chat", "xtuner:internlm2_chat"])
def test_a_begin_mark_that_is_a_mark_of_the_template_stands_once(name: str) -> None:
    """SmolLM2 names ``<|im_start|>`` as its begin mark, InternLM2's template begins every turn with it."""
    tokenizer = builtin_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>"})
    tokenizer.chat_template = chat_template(name, tokenizer)
    asked = [{"role": "user", "content": "2+2?"}]
    written = "".join(text for text, _ in named_segments(Dialogue(asked), tokenizer, name))  # type: ignore[arg-type]
    assert written.startswith("<|im_start|>user") and written.count("<|im_start|>") == 2
    assert tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True).endswith(written)


def test_a_thought_is_written_as_in_training_and_forgotten_when_others_follow() -> None:
    tokenizer = builtin_tokenizer()
    tokenizer.chat_template = chat_template("qwen_chat@3", tokenizer)
    own = "<think>\n2+2\n</think>\n\n4"
    asked = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": own}]
    written = "".join(text for text, _ in named_segments(Dialogue(asked), tokenizer, "qwen_chat@3"))  # type: ignore[arg-type]
    assert tokenizer.apply_chat_template(asked, tokenize=False) == "<s>" + written
    again = [*asked, {"role": "user", "content": "And 3+3?"}]
    assert own not in (text := tokenizer.apply_chat_template(again, tokenize=False, add_generation_prompt=True))
    assert "<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\nAnd 3+3?" in text and text.endswith("assistant\n")
    again[1] = {"role": "assistant", "content": "\n4"}  # no thought, so nothing is taken off
    assert "<|im_start|>assistant\n\n4<|im_end|>" in tokenizer.apply_chat_template(again, tokenize=False)


REFUSED = {
    "tools": ([{"role": "user", "content": "Hi"}], [{"type": "function"}]),
    "tool_calls": ([{"role": "assistant", "content": "", "tool_calls": [{"type": "function"}]}], None),
    "reasoning_content": ([{"role": "assistant", "content": "4", "reasoning_content": "2+2"}], None),
    "role function": ([{"role": "user", "content": "Hi"}, {"role": "function", "content": "4"}], None),
    "role system": ([{"role": "user", "content": "Hi"}, {"role": "system", "content": "4"}], None),
    "but for text": ([{"role": "user", "content": [{"type": "image"}]}], None),
}


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_what_a_row_has_no_form_for_is_refused(name: str) -> None:
    tokenizer = builtin_tokenizer()
    tokenizer.chat_template = chat_template(name, tokenizer)
    for word, (messages, tools) in REFUSED.items():
        with pytest.raises(TemplateError, match=f"{name} has no form.*{word}"):
            tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    turns = [{"role": "user", "content": "Hi"}, {"role": "tool", "content": "4"}]
    if TEMPLATES[name].tool:
        written = named_segments(Dialogue(turns), tokenizer, name)  # type: ignore[arg-type]
        bos = (
            "" if tokenizer.apply_chat_template(turns[:1], tokenize=False).startswith(written[0][0] or "\0") else "<s>"
        )
        assert tokenizer.apply_chat_template(turns, tokenize=False) == bos + "".join(text for text, _ in written)
        with pytest.raises(TemplateError, match="role tool"):
            tokenizer.apply_chat_template([*turns, turns[1]], tokenize=False)
    else:
        with pytest.raises(TemplateError, match="role tool"):
            tokenizer.apply_chat_template(turns, tokenize=False)


def test_a_name_that_is_no_row_is_refused() -> None:
    with pytest.raises(InputError, match="internlm_chat"):
        chat_template("internlm_chatt", builtin_tokenizer())
