"""Tokens and labels: only what the assistant says is trained on, and a prompt is what training saw."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.documents.dialogues import Dialogue
from varlen_lab.documents.loading import load_documents
from varlen_lab.documents.marks import end_ids
from varlen_lab.documents.prompts import prompt_ids
from varlen_lab.documents.reading import read_dialogues
from varlen_lab.documents.registry import OF_TOKENIZER, TEMPLATES
from varlen_lab.documents.templates import segments
from varlen_lab.documents.tokens import encode
from varlen_lab.errors import InputError

CASES = Path(__file__).parent / "cases"
TOKENIZER = builtin_tokenizer(progress=False)
ONE = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
TWO = [*ONE, {"role": "user", "content": "And 3+3?"}, {"role": "assistant", "content": "6"}]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


def text_of(ids: list[int]) -> str:
    return TOKENIZER.decode(ids)


def trained(row: dict) -> str:
    return text_of([label for label in row["labels"] if label != -100])


def test_a_hand_worked_document() -> None:
    row = encode([ONE], TOKENIZER)[0]
    assert text_of(row["input_ids"]) == "<s><|user|>2+2?</s><|assistant|>4</s>"
    assert trained(row) == "4</s>"
    assert row["labels"][0] == -100 and row["labels"][-2:] == row["input_ids"][-2:]


EXPECTED = {
    "tokenizer": ("<s><|user|>2+2?</s><|assistant|>4</s><|user|>And 3+3?</s><|assistant|>6</s>", "4</s>6</s>"),
    "default": ("<s><|User|>:2+2?\n<|Bot|>:4</s>\n<|User|>:And 3+3?\n<|Bot|>:6</s>\n", "4</s>6</s>"),
    "internlm_chat": (
        "<s><|User|>:2+2?<eoh>\n<|Bot|>:4<eoa>\n<|User|>:And 3+3?<eoh>\n<|Bot|>:6<eoa>\n",
        "4<eoa>6<eoa>",
    ),
}


@pytest.mark.parametrize("template", EXPECTED)
def test_a_template_writes_what_is_written_here(template: str) -> None:
    row = encode([TWO], TOKENIZER, prompt_template=template)[0]
    assert (text_of(row["input_ids"]), trained(row)) == EXPECTED[template]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
@settings(max_examples=50)
def test_only_answers_are_trained_and_the_first_label_never(turns: list[tuple[str, str]]) -> None:
    dialogue = []
    for question, answer in turns:
        dialogue += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    row = encode([dialogue], TOKENIZER)[0]
    assert len(row["input_ids"]) == len(row["labels"]) and row["labels"][0] == -100
    assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"]))
    assert sum(label != -100 for label in row["labels"]) < len(row["labels"])


@pytest.mark.parametrize("template", [OF_TOKENIZER, *TEMPLATES])
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_a_prompt_is_the_beginning_of_the_document(template: str, system: str) -> None:
    if template == "xtuner:minicpm":  # it has no form for a system message
        system = ""
    dialogue = [{"role": "system", "content": system}] * bool(system) + ONE
    row = encode([dialogue], TOKENIZER, prompt_template=template)[0]
    prompt = prompt_ids("2+2?", TOKENIZER, template, system=system)[0].tolist()
    assert row["input_ids"][: len(prompt)] == prompt
    assert all(label == -100 for label in row["labels"][: len(prompt)])
    assert row["labels"][len(prompt)] != -100


@given(TEXTS)
@settings(max_examples=50)
def test_named_templates_never_change_what_was_said(text: str) -> None:
    dialogue = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    for name in TEMPLATES:
        pieces = segments(dialogue, name)
        assert sum(text in piece for piece, _ in pieces) >= 2
        assert [text in piece for piece, is_trained in pieces if is_trained] == [True]


def test_documents_without_a_trained_token_are_dropped_and_counted() -> None:
    mute = [{"role": "user", "content": "hi"}]
    dataset = encode([ONE, mute, ONE], TOKENIZER, prompt_template="default")
    assert len(dataset) == 2 and "1 without a token to train on were dropped" in dataset.info.description
    with pytest.raises(InputError, match="every label is masked"):
        encode([mute], TOKENIZER, prompt_template="default")


def test_an_unknown_template_suggests_the_near_one() -> None:
    with pytest.raises(InputError, match="did you mean 'internlm_chat'"):
        encode([ONE], TOKENIZER, prompt_template="internlm_chatt")


def test_a_tokenizer_without_a_template_is_told_so() -> None:
    bare = builtin_tokenizer(progress=False)
    bare.chat_template = None
    with pytest.raises(InputError, match="no chat template of its own"):
        encode([ONE], bare)


def test_a_template_that_rewrites_history_is_refused() -> None:
    """Some templates drop earlier answers as a dialogue grows: what was trained on could not be told."""
    forgetful = builtin_tokenizer(progress=False)
    forgetful.chat_template = "{% for m in messages[-2:] %}{{ m['role'] + m['content'] }}{% endfor %}"
    with pytest.raises(InputError, match="rewrites earlier turns"):
        encode([TWO], forgetful)


def refusing_tokenizer() -> object:
    """One whose template drops the thinking of earlier answers, so that a dialogue of two cannot be trained on."""
    tokenizer = builtin_tokenizer(progress=False)
    tokenizer.chat_template = (CASES / "template_refuses.jinja").read_text(encoding="utf-8")
    return tokenizer


def test_a_refused_dialogue_is_named_with_its_place_or_skipped_and_counted() -> None:
    path = CASES / "template_refuses.jsonl"
    with pytest.raises(InputError, match=r"template_refuses\.jsonl:2: the chat template .* rewrites .* skip_bad"):
        load_documents(path, refusing_tokenizer(), progress=False)
    with pytest.warns(UserWarning, match=r"1 record skipped, the first: .*refuses\.jsonl:2: .*1 dialogues were read"):
        documents = load_documents(path, refusing_tokenizer(), skip_bad=True, progress=False)
    assert len(documents) == 1 and "0 without a token" in documents.info.description
    alone = read_dialogues(path, progress=False).dialogues[:1]
    assert documents["input_ids"] == encode(alone, refusing_tokenizer())["input_ids"]


@pytest.mark.parametrize("bad", [0, 700, 1000, 2499])
def test_a_refused_dialogue_takes_no_other_with_it(bad: int) -> None:
    """The dialogues of a batch are rendered together: which one the template raised at is found."""
    moody = builtin_tokenizer(progress=False)
    moody.chat_template = moody.chat_template.replace(
        "{{ bos_token }}",
        "{% if 'bad' in messages[0]['content'] %}{{ raise_exception('no bad words') }}{% endif %}{{ bos_token }}",
    )
    dialogues = [Dialogue(ONE, f"chat.jsonl:{n + 1}") for n in range(2500)]
    expected = encode(dialogues[:bad] + dialogues[bad + 1 :], moody)
    dialogues[bad] = Dialogue([{"role": "user", "content": "bad"}, ONE[1]], f"chat.jsonl:{bad + 1}")
    skipped: list[str] = []
    assert encode(dialogues, moody, skipped=skipped)[:] == expected[:]
    assert skipped == [f"chat.jsonl:{bad + 1}: the chat template of the tokenizer refuses this dialogue (no bad words)"]
    with pytest.raises(InputError, match=f"chat.jsonl:{bad + 1}: .*no bad words"):
        encode(dialogues, moody)
    with pytest.raises(InputError, match=r"refused all 1 dialogues, the first: chat\.jsonl"):
        encode([dialogues[bad]], moody, skipped=[])
    with pytest.raises(InputError, match="no bad words"):
        prompt_ids("bad", moody)


@pytest.mark.parametrize(
    ("template", "mark"),
    [(OF_TOKENIZER, "</s>"), ("default", "</s>"), ("internlm_chat", "<eoa>"), ("qwen_chat", "<|im_end|>")],
)
def test_an_answer_is_over_at_the_end_mark_and_at_eos(template: str, mark: str) -> None:
    assert end_ids(TOKENIZER, template) == (2,)  # a mark that is several tokens ends nothing
    other = builtin_tokenizer(progress=False)
    other.add_tokens(["<eoa>", "<|im_end|>"], special_tokens=True)
    expected = [other.convert_tokens_to_ids(mark), other.eos_token_id]
    assert end_ids(other, template) == tuple(dict.fromkeys(expected))


def test_end_ids_of_marks_that_are_not_one_token() -> None:
    other = builtin_tokenizer(progress=False)
    other.add_tokens(["<|EOT|>"], special_tokens=True)
    other.chat_template = "{% for m in messages %}{{ m['content'] + '\n<|EOT|>\n' }}{% endfor %}"
    assert end_ids(other) == (other.convert_tokens_to_ids("<|EOT|>"), 2)
    other.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert end_ids(other) == (2,)
    other.chat_template = "{{ raise_exception('never') }}"
    assert end_ids(other) == (2,)
    other.eos_token = None
    assert end_ids(other) == ()
    with pytest.raises(InputError, match="did you mean 'internlm_chat'"):
        end_ids(other, "internlm_chatt")


# ------------------------------------------------------------------------------------------------- tokenizer


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=100)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    if not any(token in text for token in TOKENIZER.all_special_tokens):
        assert TOKENIZER.decode(ids) == text
    assert all(0 <= token < 2048 for token in ids)


def test_the_tokenizer_is_an_ordinary_one(tmp_path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "What does `len` do? 长度"
    assert again(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert again.apply_chat_template(ONE, tokenize=False) == TOKENIZER.apply_chat_template(ONE, tokenize=False)
    assert len(again) == 2048 and (again.pad_token_id, again.bos_token_id, again.eos_token_id) == (0, 1, 2)


def test_padding_and_truncation_of_a_tokenizer_json_are_nobodys_business_here() -> None:
    dialogues = [ONE, TWO, [ONE[0], {"role": "assistant", "content": " ".join(map(str, range(3000)))}]]
    expected = encode(dialogues, TOKENIZER)[:]
    other = builtin_tokenizer(progress=False)
    other.backend_tokenizer.enable_truncation(2)
    other.backend_tokenizer.enable_padding(length=9)
    assert encode(dialogues, other)[:] == expected
    assert prompt_ids("2+2?", other).tolist() == prompt_ids("2+2?", TOKENIZER).tolist()
    other.split_special_tokens = True
    ids = encode([TWO], other)["input_ids"][0]
    text = TOKENIZER.apply_chat_template(TWO, tokenize=False)
    assert ids == other(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_the_fingerprint_is_of_the_content() -> None:
    one, two = ([{"role": "user", "content": "a"}, {"role": "assistant", "content": word}] for word in "bc")
    digests = [encode(dialogues, TOKENIZER)._fingerprint for dialogues in ([one], [one], [two], [one, two], [two, one])]
    assert digests[0] == digests[1] and len(set(digests)) == 4
