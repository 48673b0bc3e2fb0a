"""Chat templates: how a dialogue becomes text, and which pieces of that text are trained on.

A dialogue is cut into segments ``(text, trained)``: everything up to an answer is not trained on, the answer
with the mark that ends it is. Named templates are XTuner's, rows of TEMPLATES: facts, no code; a new one is a
new row. The name ``tokenizer`` means the template inside the tokenizer itself, which ``own_template`` asks.

Not here: tokens. ``encode`` turns segments into ids, and adds the one ``bos`` of a document.
"""

from __future__ import annotations

from dataclasses import dataclass

from varlen_lab.errors import InputError, nearest

# messages {"role": ..., "content": ...}: system, user, assistant; "tool", what a tool gave back; and the two of WRITTEN
Dialogue = list[dict[str, str]]
Segments = list[tuple[str, bool]]  # (text, is it trained on?)

OF_TOKENIZER = "tokenizer"

# Text that already stands as the model shall read it, no template puts anything around it -> is it trained on?
WRITTEN = {"text": True, "context": False}


@dataclass(frozen=True)
class Template:
    """The strings around a turn, in XTuner's fields (``SYSTEM`` → ``system``, ...).

    ``suffix`` ends an answer and is trained on, like the answer. ``suffix_as_eos``: the suffix already is the
    end mark, no EOS token follows. ``sep`` stands behind every finished turn and is not trained on.
    """

    system: str = ""
    instruction: str = "{input}"
    suffix: str = ""
    suffix_as_eos: bool = False
    sep: str = ""


CHATML = Template(
    system="<|im_start|>system\n{system}<|im_end|>\n",
    instruction="<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n",
    suffix="<|im_end|>",
    suffix_as_eos=True,
    sep="\n",
)
INST = Template(system="[INST] {system} [/INST]\n", instruction="[INST] {input} [/INST]", sep="\n")

TEMPLATES: dict[str, Template] = {
    "default": Template(
        system="<|System|>:{system}\n",
        instruction="<|User|>:{input}\n<|Bot|>:",
        sep="\n",
    ),
    "internlm_chat": Template(
        system="<|System|>:{system}\n",
        instruction="<|User|>:{input}<eoh>\n<|Bot|>:",
        suffix="<eoa>",
        suffix_as_eos=True,
        sep="\n",
    ),
    "internlm2_chat": CHATML,
    "llama2_chat": Template(
        system="[INST] <<SYS>>\n You are a helpful, respectful and honest assistant. Always answer as helpfully as "
        "possible, while being safe. Your answers should not include any harmful, unethical, racist, sexist, toxic, "
        "dangerous, or illegal content. Please ensure that your responses are socially unbiased and positive in "
        "nature.\n{system}\n<</SYS>>\n [/INST] ",
        instruction="[INST] {input} [/INST]",
        sep="\n",
    ),
    "llama3_chat": Template(
        system="<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
        instruction="<|start_header_id|>user<|end_header_id|>\n\n{input}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        suffix="<|eot_id|>",
        suffix_as_eos=True,
    ),
    "mistral": INST,
    "mixtral": INST,
    "zephyr": Template(
        system="<|system|>\n{system}\n",
        instruction="<|user|>\n{input}\n<|assistant|>\n",
        sep="\n",
    ),
    "qwen_chat": CHATML,
    "chatglm2": Template(
        system="{system}\n",
        instruction="[Round {round}]\n\n问：{input}\n\n答：",
        sep="\n\n",
    ),
    "chatglm3": Template(
        system="<|system|>\n{system}",
        instruction="<|user|>\n{input}<|assistant|>\n",
        sep="\n",
    ),
    "baichuan_chat": Template(system="{system}\n", instruction="<reserved_102>{input}<reserved_103>", sep="\n"),
    "baichuan2_chat": Template(system="{system}\n", instruction="<reserved_106>{input}<reserved_107>", sep="\n"),
    "gemma": Template(
        system="<start_of_turn>system\n{system}<end_of_turn>\n",
        instruction="<start_of_turn>user\n{input}<end_of_turn>\n<start_of_turn>model\n",
        suffix="<end_of_turn>",
        sep="\n",
    ),
    "deepseek_coder": Template(
        system="You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by DeepSeek "
        "Company, and you only answer questions related to computer science. For politically sensitive questions, "
        "security and privacy issues, and other non-computer science questions, you will refuse to answer. "
        "{system}\n",
        instruction="### Instruction:\n{input}\n### Response:\n",
        sep="\n",
    ),
    "deepseek_moe": INST,
    "deepseek_v2": Template(
        system="{system}\n\n",
        instruction="User: {input}\n\nAssistant: ",
        suffix="<｜end▁of▁sentence｜>",
        suffix_as_eos=True,
    ),
    "starcoder_chat": Template(  # StarChat's; XTuner has none and trains StarCoder on "default"
        system="<|system|>\n{system}<|end|>\n",
        instruction="<|user|>\n{input}<|end|>\n<|assistant|>\n",
        suffix="<|end|>",
        suffix_as_eos=True,
        sep="\n",
    ),
    "yi": CHATML,  # Yi's own; XTuner trains Yi on "default"
    "plain": Template(system="{system}"),  # no marks, but the end of an answer: for text that is continued
    "moss_sft": Template(system="{system}\n", instruction="<|Human|>: {input}<eoh>\n", sep="\n"),
    "wizardlm": Template(
        system="A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. {system}\n ",
        instruction="USER: {input} ASSISTANT:",
        sep="\n",
    ),
}


def names() -> list[str]:
    """Everything ``prompt_template`` may be: ``tokenizer`` and the rows of TEMPLATES."""
    return [OF_TOKENIZER, *TEMPLATES]


def get(name: str) -> Template:
    """The row called ``name``, or an InputError that suggests the near one."""
    if name not in TEMPLATES:
        hint = nearest(name, names()) or f"; known are {', '.join(names())}."
        raise InputError(f"there is no prompt_template {name!r}{hint}")
    return TEMPLATES[name]


def segments(dialogue: Dialogue, template: Template | str, eos: str = "") -> Segments:
    """The pieces of one dialogue under a named template; ``eos`` is the tokenizer's end token, as text.

    >>> dialogue = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    >>> segments(dialogue, "internlm_chat")
    [('<|User|>:2+2?<eoh>\\n<|Bot|>:', False), ('4<eoa>', True), ('\\n', False)]
    """
    form = get(template) if isinstance(template, str) else template
    end = form.suffix if form.suffix_as_eos else form.suffix + eos
    pieces: Segments = []
    turn = 0
    for message in dialogue:
        # str.replace, not str.format: what people write holds braces.
        if message["role"] == "system":
            pieces.append((form.system.replace("{system}", message["content"]), False))
        elif message["role"] == "user":
            turn += 1
            # the number first: what a person wrote may hold "{round}"
            asked = form.instruction.replace("{round}", str(turn)).replace("{input}", message["content"])
            pieces.append((asked, False))
        elif message["role"] == "tool":  # as XTuner writes it: a system message, and nothing asked
            turn += 1
            told = form.system.replace("{system}", message["content"])
            pieces.append((told + form.instruction.replace("{round}", str(turn)).replace("{input}", ""), False))
        elif message["role"] in WRITTEN:
            pieces.append((message["content"], WRITTEN[message["role"]]))
        else:
            pieces += [(message["content"] + end, True), (form.sep, False)]
    return merged(pieces)


def merged(pieces: Segments) -> Segments:
    """The same text with empty pieces gone and untrained neighbours joined."""
    result: Segments = []
    for text, trained in pieces:
        if text and result and not trained and not result[-1][1]:
            result[-1] = (result[-1][0] + text, False)
        elif text:
            result.append((text, trained))
    return result
