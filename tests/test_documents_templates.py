"""Every named template written out by hand: two turns and a system prompt.

All but starcoder_chat, yi and plain are rows of XTuner's own table, compared with it string by string (v0.1.23);
deepseek_coder differs in one place, where XTuner's joins "DeepSeek" and "Company". Against the publishers' own
``chat_template``, as other projects quote them (llama.cpp's tests, FastChat, the model pages; no tokenizer was
downloaded): llama3_chat, deepseek_v2 and yi (Yi-34B-Chat, ChatML) give the same text, and starcoder_chat that of
StarChat-beta; gemma too, but that Gemma knows no system message and XTuner ends an answer with the end token besides.
``[...]`` marks what is trained on.
"""

from __future__ import annotations

import pytest

from varlen_lab.documents.registry import TEMPLATES
from varlen_lab.documents.templates import segments

DIALOGUE = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "3+3?"},
    {"role": "assistant", "content": "6"},
]
CHATML = (
    "<|im_start|>system\nS<|im_end|>\n"
    "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n[4<|im_end|>]\n"
    "<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n[6<|im_end|>]\n"
)
INST = "[INST] S [/INST]\n[INST] 2+2? [/INST]{4</s>}\n[INST] 3+3? [/INST]{6</s>}\n"
EXPECTED = {
    "default": "<|System|>:S\n<|User|>:2+2?\n<|Bot|>:[4</s>]\n<|User|>:3+3?\n<|Bot|>:[6</s>]\n",
    "internlm_chat": "<|System|>:S\n<|User|>:2+2?<eoh>\n<|Bot|>:[4<eoa>]\n<|User|>:3+3?<eoh>\n<|Bot|>:[6<eoa>]\n",
    "internlm2_chat": CHATML,
    "qwen_chat": CHATML,
    "yi": CHATML,
    "llama3_chat": (
        "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[4<|eot_id|>]"
        "<|start_header_id|>user<|end_header_id|>\n\n3+3?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n[6<|eot_id|>]"
    ),
    "zephyr": "<|system|>\nS\n<|user|>\n2+2?\n<|assistant|>\n[4</s>]\n<|user|>\n3+3?\n<|assistant|>\n[6</s>]\n",
    "chatglm2": "S\n[Round 1]\n\n问：2+2?\n\n答：{4</s>}\n\n[Round 2]\n\n问：3+3?\n\n答：{6</s>}\n\n",
    "chatglm3": "<|system|>\nS<|user|>\n2+2?<|assistant|>\n[4</s>]\n<|user|>\n3+3?<|assistant|>\n[6</s>]\n",
    "baichuan_chat": ("S\n<reserved_102>2+2?<reserved_103>[4</s>]\n<reserved_102>3+3?<reserved_103>[6</s>]\n"),
    "baichuan2_chat": ("S\n<reserved_106>2+2?<reserved_107>[4</s>]\n<reserved_106>3+3?<reserved_107>[6</s>]\n"),
    "gemma": (
        "<start_of_turn>system\nS<end_of_turn>\n"
        "<start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n[4<end_of_turn></s>]\n"
        "<start_of_turn>user\n3+3?<end_of_turn>\n<start_of_turn>model\n[6<end_of_turn></s>]\n"
    ),
    "deepseek_v2": (
        "S\n\nUser: 2+2?\n\nAssistant: [4<｜end▁of▁sentence｜>]User: 3+3?\n\nAssistant: [6<｜end▁of▁sentence｜>]"
    ),
    "starcoder_chat": (
        "<|system|>\nS<|end|>\n<|user|>\n2+2?<|end|>\n<|assistant|>\n[4<|end|>]\n"
        "<|user|>\n3+3?<|end|>\n<|assistant|>\n[6<|end|>]\n"
    ),
    "plain": "S2+2?[4</s>]3+3?[6</s>]",
    "moss_sft": "S\n<|Human|>: 2+2?<eoh>\n[4</s>]\n<|Human|>: 3+3?<eoh>\n[6</s>]\n",
    "mistral": INST,
    "mixtral": INST,
    "deepseek_moe": INST,
}
LONG = {  # with a system prompt of their own around ours: how it begins, and the rest
    "llama2_chat": (
        "[INST] <<SYS>>\n You are a helpful, respectful and honest assistant.",
        "positive in nature.\nS\n<</SYS>>\n [/INST] [INST] 2+2? [/INST]{4</s>}\n[INST] 3+3? [/INST]{6</s>}\n",
    ),
    "deepseek_coder": (
        "You are an AI programming assistant, utilizing the DeepSeek Coder model,",
        "refuse to answer. S\n### Instruction:\n2+2?\n### Response:\n{4</s>}\n"
        "### Instruction:\n3+3?\n### Response:\n{6</s>}\n",
    ),
    "wizardlm": (
        "A chat between a curious user and an artificial intelligence assistant.",
        "questions. S\n USER: 2+2? ASSISTANT:{4</s>}\nUSER: 3+3? ASSISTANT:{6</s>}\n",
    ),
}


def written(name: str) -> tuple[str, str]:
    """The dialogue under a template, trained pieces in ``[ ]`` and, for templates that use those, in ``{ }``."""
    pieces = segments(DIALOGUE, name, eos="</s>")
    return tuple(
        "".join(f"{left}{text}{right}" if trained else text for text, trained in pieces) for left, right in ("[]", "{}")
    )  # type: ignore[return-value]


def test_every_template_is_written_down_here() -> None:
    assert EXPECTED.keys() | LONG.keys() == TEMPLATES.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_template_is_as_written(name: str) -> None:
    assert EXPECTED[name] in written(name)


@pytest.mark.parametrize("name", LONG)
def test_a_long_template_is_as_written(name: str) -> None:
    begins, ends = LONG[name]
    text = written(name)[1]
    assert text.startswith(begins) and text.endswith(ends)


def test_what_a_person_wrote_is_not_filled_in() -> None:
    asked = [{"role": "user", "content": "{round} {input} {system}"}, {"role": "assistant", "content": "{input}"}]
    text = "".join(piece for piece, _ in segments(asked, "chatglm2"))
    assert text == "[Round 1]\n\n问：{round} {input} {system}\n\n答：{input}\n\n"
