"""Every named template, character by character: ``templates_written.toml`` holds the bytes and says whose they are."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from written import WRITTEN

from varlen_lab.documents.dialogues import BadRecord, Dialogue
from varlen_lab.documents.registry import TEMPLATES, TEMPLATES_FILE, XTUNER, Template, template_rows
from varlen_lab.documents.templates import segments

SYSTEM = {"role": "system", "content": "S"}
DIALOGUE = [
    {"role": "user", "content": "Q1"},
    {"role": "assistant", "content": "A1"},
    {"role": "user", "content": "Q2"},
    {"role": "assistant", "content": "A2"},
]


NOT_WRITTEN = ("about", "source", "system_in", "thought_end", "marks")  # of a row: what stands in no text


def marked(dialogue: list[dict[str, Any]], name: str, bos: str = "<s>", eos: str = "</s>") -> str:
    """The dialogue under a template, what is trained on in ⟦ ⟧."""
    return "".join(f"⟦{text}⟧" if trained else text for text, trained in segments(Dialogue(dialogue), name, eos, bos))


def test_every_template_is_written_down_here_and_says_whose_it_is() -> None:
    assert WRITTEN.keys() == TEMPLATES.keys()
    assert all(row.about and row.source and "\n" not in row.about + row.source for row in TEMPLATES.values())
    assert {row.source for name, row in TEMPLATES.items() if name.startswith(XTUNER)} == {"xtuner 0.1.23"}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_template_is_as_its_publisher_writes_it(name: str) -> None:
    row = WRITTEN[name]
    marks = (row.get("bos", "<s>"), row.get("eos", "</s>"))
    assert marked(DIALOGUE, name, *marks) == row["without"]
    if "with_system" in row:
        assert marked([SYSTEM, *DIALOGUE], name, *marks) == row["with_system"]
    else:
        with pytest.raises(BadRecord, match=f"^message 1 is a system message, for which prompt_template {name} has no"):
            marked([SYSTEM, *DIALOGUE], name)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", [[], [SYSTEM]])
def test_a_prompt_is_the_beginning_of_what_is_trained(name: str, system: list[dict[str, str]]) -> None:
    """Each answer is asked for as it was trained; where S stands in the last question, the last."""
    if system and not TEMPLATES[name].system:
        return
    dialogue = system + DIALOGUE
    for turn in (2, 4) if not (system and TEMPLATES[name].system_in == "last") else (4,):
        asked = dialogue[: len(system) + turn - 1]
        prompt, whole = marked(asked, name), marked(dialogue, name)
        plain = prompt.replace("⟦", "").replace("⟧", "")
        assert whole.replace("⟦", "").replace("⟧", "").startswith(plain)
        assert whole[len(prompt) :].startswith("⟦")


def test_what_a_person_wrote_is_not_filled_in() -> None:
    braces = "{round} {input} {system} {bos} {eos}"
    asked = [{"role": "system", "content": braces}, {"role": "user", "content": braces}]
    for name, row in TEMPLATES.items():
        dialogue = [*asked[not row.system :], {"role": "assistant", "content": braces}]
        assert marked(dialogue, name).count(braces) == len(dialogue), name


def test_an_answer_with_a_thought_gets_no_empty_one() -> None:
    """As Qwen 3's own template, which leaves a thought out once others follow: what is taught may not lose it."""
    own = "<think>\n2+2\n</think>\n\n4"
    asked = "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n"
    said = [DIALOGUE[0], {"role": "assistant", "content": own}]
    assert marked(said, "qwen_chat@3") == f"{asked}⟦{own}<|im_end|>⟧\n"
    assert marked(said[:1], "qwen_chat@3") == asked
    assert marked(said, "qwen_chat@2.5").endswith(f"⟦{own}<|im_end|>⟧\n")
    reason = (
        r"^message 2 \(assistant\) holds a thought and is not the last answer, for which .* qwen_chat@3 has no form$"
    )
    for dialogue in ([*said, *DIALOGUE[2:]], [*said, DIALOGUE[2]]):
        with pytest.raises(BadRecord, match=reason):
            marked(dialogue, "qwen_chat@3")
        assert own in marked(dialogue, "qwen_chat@2.5")


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_that_is_not_trained_on_has_its_text_all_the_same(name: str) -> None:
    first = [DIALOGUE[0], {**DIALOGUE[1], "trained": False}, *DIALOGUE[2:]]
    assert marked(first, name).replace("⟦", "").replace("⟧", "") == marked(DIALOGUE, name).replace("⟦", "").replace(
        "⟧", ""
    )
    trained = [text for text, is_trained in segments(Dialogue(first), name) if is_trained]
    assert len(trained) == 1 and "A2" in trained[0]


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_without_end_mark_trains_none(name: str) -> None:
    """The next question is whole again: where its mark ended the answer, it is written and not trained on."""
    open_ended = [DIALOGUE[0], {**DIALOGUE[1], "end_mark": False}, DIALOGUE[2], {**DIALOGUE[3], "end_mark": False}]
    trained = [text for text, is_trained in segments(Dialogue(open_ended), name, "</s>", "<s>") if is_trained]
    assert [text[-2:] for text in trained] == ["A1", "A2"]
    if TEMPLATES[name].end_is_next:
        assert marked(open_ended, name).count("<|user|>\n Q") == 2


def test_what_a_tool_gave_back_is_a_system_message_and_an_empty_question() -> None:
    react = [*DIALOGUE[:2], {"role": "tool", "content": "Response:4\n"}, DIALOGUE[3]]
    assert marked(react, "default") == (
        "<|User|>:Q1\n<|Bot|>:⟦A1</s>⟧\n<|System|>:Response:4\n\n<|User|>:\n<|Bot|>:⟦A2</s>⟧\n"
    )
    assert marked(react, "xtuner:chatglm2").endswith(
        "\n\n[gMASK]sopResponse:4\n\n[Round 2]\n\n问：\n\n答：⟦A2</s>⟧\n\n"
    )
    with pytest.raises(
        BadRecord, match=r"^message 4 is what a second tool gave back at once, for which .* default has no"
    ):
        marked([*react[:3], *react[2:]], "default")  # an empty answer would stand between them
    for name, row in TEMPLATES.items():
        if not row.tool:
            with pytest.raises(
                BadRecord, match=f"^message 3 is what a tool gave back, for which .* {name} has no form$"
            ):
                marked(react, name)
    assert all(row.tool and not row.system_in for name, row in TEMPLATES.items() if name.startswith(XTUNER))


@pytest.mark.parametrize(
    ("key", "value"),
    [("tool_calls", [{}]), ("reasoning_content", "hm"), ("name", "calculator"), ("tool_call_id", "1")],
)
@pytest.mark.parametrize("name", ["mistral", "xtuner:mistral", "default"])
def test_what_no_named_template_writes_is_refused(key: str, value: Any, name: str) -> None:
    with pytest.raises(
        BadRecord, match=rf"^message 2 \(assistant\) has {key}, for which prompt_template {name} has no"
    ):
        marked([DIALOGUE[0], {**DIALOGUE[1], key: value}], name)
    assert marked([DIALOGUE[0], {**DIALOGUE[1], key: None}], name) == marked(DIALOGUE[:2], name)


def test_tools_and_a_second_system_message_are_refused() -> None:
    with pytest.raises(BadRecord, match=r"^it has a list of tools, for which prompt_template mistral has no form$"):
        segments(Dialogue(DIALOGUE, tools=[{"type": "function"}]), "mistral")  # type: ignore[arg-type]
    with pytest.raises(BadRecord, match=r"^message 3 is a system message behind others"):
        marked([*DIALOGUE[:2], SYSTEM, *DIALOGUE[2:]], "mistral")


def test_text_that_has_its_own_marks_gets_none() -> None:
    text = [{"role": "context", "content": "read"}, {"role": "text", "content": "learned"}]
    assert {marked(text, name) for name in TEMPLATES} == {"read⟦learned⟧"}


def test_a_planted_character_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every string of every row is in what is written down: change one, and a text is no longer the same."""
    for name, row in TEMPLATES.items():
        texts = [one.name for one in dataclasses.fields(Template) if one.name not in NOT_WRITTEN]
        texts = [one for one in texts if isinstance(getattr(row, one), str)]
        for one in texts:
            monkeypatch.setitem(TEMPLATES, name, dataclasses.replace(row, **{one: getattr(row, one) + "#"}))
            with pytest.raises((AssertionError, pytest.fail.Exception)):
                test_a_template_is_as_its_publisher_writes_it(name)
        monkeypatch.setitem(TEMPLATES, name, row)


def test_like_takes_what_a_row_does_not_say() -> None:
    rows = template_rows({"a": {"about": "A", "sep": "|"}, "b": {"like": "a", "about": "B"}}, "x:")
    assert rows == {"x:a": Template("A", sep="|"), "x:b": Template("B", sep="|")}
    table = TEMPLATES_FILE["publishers"]
    names = list(table)
    assert all(names.index(row["like"]) < names.index(name) for name, row in table.items() if "like" in row)
