"""Every field of a record is read, refused by its name, or counted: none is passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from varlen_lab.documents.dialogues import UNANSWERED, BadRecord
from varlen_lab.documents.fields import REFUSED, is_nothing
from varlen_lab.documents.reading import dialogue_of, read_dialogues
from varlen_lab.documents.registry import MAP_FNS, SHAPES
from varlen_lab.errors import InputError

QUESTION, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
DIALOGUE = [QUESTION, ANSWER]
SYSTEM = {"role": "system", "content": "SYS"}
COLUMNS = {
    "messages": {"messages": DIALOGUE},
    "sharegpt": {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
    "xtuner": {"conversation": [{"input": "2+2?", "output": "4"}]},
    "moss": {"meta_instruction": "m", "num_turns": 1, "chat": {"turn_1": {"Human": "2+2?", "MOSS": "4"}}},
    "guanaco": {"text": "### Human: 2+2? ### Assistant: 4"},
    "text": {"text": "2+2 is 4"},
    "msagent": {"conversations": [{"from": "user", "value": "2+2?"}, {"from": "assistant", "value": "4"}]},
}
KINDS = [(map_fn, name) for map_fn, shapes in MAP_FNS.items() for name in shapes]


def sample(map_fn: str, name: str) -> dict[str, Any]:
    """A small good record of a shape."""
    return COLUMNS.get(name) or {field: f"{field} says" for field in MAP_FNS[map_fn][name].fields}


def noticed(record: dict[str, Any], more: dict[str, Any], field: str, map_fn: str) -> bool:
    """Whether ``more``, a record with a field more, is read as another dialogue, refused, or counts the field."""
    before = dialogue_of(record, map_fn=map_fn)
    try:
        after = dialogue_of(more, map_fn=map_fn)
    except BadRecord:
        return True
    return list(after) != list(before) or after.tools != before.tools or field in after.unused


fields = st.text(min_size=1, max_size=12) | st.sampled_from(
    ["id", "system", "tools", "Input", "inputs", "history", "images", "label", "loss", "weight", "role", "name", "text"]
)
values = (
    st.text(min_size=1) | st.integers(2) | st.floats(0.1, 0.9) | st.lists(st.integers(), min_size=1) | st.just(False)
)


@pytest.mark.parametrize(("map_fn", "name"), KINDS)
@given(fields, values)
@example("inputs", "x")
@example("images", ["cat.png"])
@example("id", 7)
@example("label", False)
@example("weight", 0.5)
@example("tools", "[]x")
def test_a_field_more_is_read_refused_or_counted(map_fn: str, name: str, field: str, value: Any) -> None:
    record = sample(map_fn, name)
    blank = "system" in field and isinstance(value, str) and not value.strip()  # a system message of blanks is none
    if field not in record and not blank:
        # what fits several shapes is of the first: a field more can make a record another shape, which is to read it
        assert noticed(record, {**record, field: value}, field, map_fn)


@pytest.mark.parametrize("name", ["messages", "sharegpt", "xtuner", "completion"])
@given(fields, values)
@example("reasoning_content", "x")
@example("train", 0.5)
@example("sep", "x")
def test_a_field_more_in_a_turn_is_read_refused_or_counted(name: str, field: str, value: Any) -> None:
    record = {"prompt": [QUESTION], "completion": [ANSWER]} if name == "completion" else sample("auto", name)
    place = list(record)[-1]
    turn = record[place][-1]
    blank = field == "system" and isinstance(value, str) and not value.strip()  # which is no system message
    if field not in turn and not blank:
        more = {**record, place: [*record[place][:-1], {**turn, field: value}]}
        assert noticed(record, more, f"{place}.{field}", "auto")


@pytest.mark.parametrize("nothing", [None, "", [], {}])
def test_a_field_that_holds_nothing_says_nothing(nothing: Any) -> None:
    """A table has every field in every row."""
    assert is_nothing(nothing)
    everything = dict.fromkeys(["id", "system", "tools", "history", "weight", "Input", *REFUSED], nothing)
    dialogue = dialogue_of({**everything, "instruction": "2+2?", "input": nothing, "output": "4"})
    assert dialogue == DIALOGUE and dialogue.tools is None and dialogue.unused == ()
    words = dict.fromkeys(["tool_calls", "name", "loss", "weight", "image"], nothing)
    assert dialogue_of({"messages": [{**QUESTION, **words}, {**ANSWER, **words}]}) == DIALOGUE


# ------------------------------------------------------------------------------------------------------ what is read

BESIDE = [one for one in SHAPES if one != "moss"]


@pytest.mark.parametrize("field", ["system", "system_prompt"])
@pytest.mark.parametrize("name", BESIDE)
def test_a_system_message_beside_the_turns_stands_in_front(name: str, field: str) -> None:
    record = sample("auto", name)
    dialogue = dialogue_of({**record, field: "SYS"}, "of the config")
    assert dialogue == [SYSTEM, *dialogue_of(record)]


def test_two_system_messages_are_one_or_a_bad_record() -> None:
    among = {"messages": [SYSTEM, *DIALOGUE]}
    assert dialogue_of({**among, "system": "SYS"}) == among["messages"]
    for record in (
        {**among, "system": "OTHER"},
        {"messages": DIALOGUE, "system": "a", "system_prompt": "b"},
        {"conversation": [{"system": "a", "input": "2+2?", "output": "4"}], "system": "b"},
    ):
        with pytest.raises(BadRecord, match="system"):
            dialogue_of(record)
    assert dialogue_of({"messages": DIALOGUE, "system": "a", "system_prompt": "a"})[0]["content"] == "a"


@pytest.mark.parametrize("empty", ["", " \n", None])
def test_an_empty_system_message_is_none(empty: Any) -> None:
    assert dialogue_of({"messages": [{"role": "system", "content": empty}, *DIALOGUE]}) == DIALOGUE
    assert dialogue_of({"messages": [{"role": "system", "content": empty}, *DIALOGUE]}, "SYS") == [SYSTEM, *DIALOGUE]
    assert dialogue_of({"conversation": [{"system": empty, "input": "2+2?", "output": "4"}]}) == DIALOGUE
    assert dialogue_of({"messages": DIALOGUE, "system": empty}) == DIALOGUE
    assert dialogue_of({"messages": DIALOGUE, "system": empty}, "SYS") == [SYSTEM, *DIALOGUE]


def test_history_comes_before_the_question() -> None:
    for field, record in (
        ("history", {"instruction": "2+2?", "output": "4"}),
        ("history", {"prompt": "2+2?", "response": "4"}),
    ):
        for history in ([["q0", "a0"], ["q1", "a1"]], '[["q0", "a0"], ["q1", "a1"]]'):
            dialogue = dialogue_of({**record, field: history})
            assert [m["content"] for m in dialogue] == ["q0", "a0", "q1", "a1", "2+2?", "4"]
            assert not any("trained" in message for message in dialogue)  # all are trained on
        for wrong in ([["q0"]], ["q0"], "q0", {"q": "a"}, [["q0", 3]]):
            with pytest.raises(BadRecord):
                dialogue_of({**record, field: wrong})


def test_a_prompt_and_a_completion_of_messages() -> None:
    """As TRL: nothing of the prompt is trained on, the answers in it neither."""
    before = [QUESTION, ANSWER, {"role": "user", "content": "3+3?"}]
    after = [{"role": "assistant", "content": "6"}]
    dialogue = dialogue_of({"prompt": before, "completion": after})
    assert dialogue == [QUESTION, {**ANSWER, "trained": False}, *before[2:], *after]
    assert dialogue_of({"prompt": before[2:], "completion": "6"}) == before[2:] + after
    assert dialogue_of({"prompt": "3+3?", "response": after}) == before[2:] + after
    with pytest.raises(BadRecord, match="out of order"):
        dialogue_of({"prompt": before[:2], "completion": after})


def test_a_tables_cell_holds_messages_as_text() -> None:
    """A CSV of TRL's conversational prompts: JSON, or Python's own writing; other text that begins alike stays text."""
    want = list(dialogue_of({"prompt": [QUESTION], "completion": [ANSWER]}))
    for write in (json.dumps, repr):
        assert list(dialogue_of({"prompt": write([QUESTION]), "completion": write([ANSWER])})) == want
    for text in ('[{"role": open', "[{'name': 'add'}]", "[]"):
        assert dialogue_of({"prompt": text, "completion": text})[1]["content"] == text


def test_a_list_of_messages_may_have_the_names_of_the_other_trainers() -> None:
    shared = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4", "loss": False}, {"from": "human"}]
    want = [QUESTION, {**ANSWER, "trained": False}]
    assert list(dialogue_of({"messages": shared[:2]})) == want
    assert list(dialogue_of({"conversations": [QUESTION, {**ANSWER, "train": 0}]})) == want
    with pytest.raises(BadRecord, match="message 3 needs 'from' and 'value'"):
        dialogue_of({"messages": shared})


@pytest.mark.parametrize(
    ("record", "asked"),
    [
        ({"query": "2+2?", "response": "4"}, "2+2?"),
        ({"prompt": "Count.", "query": "2+2?", "response": "4"}, "Count.\n2+2?"),
        ({"instruction": "Count.", "context": "2+2?", "response": "4"}, "Count.\n2+2?"),
        ({"kind": "sums", "input": "2+2?", "target": "4"}, "2+2?"),
    ],
)
def test_columns_of_other_trainers(record: dict, asked: str) -> None:
    assert [one["content"] for one in dialogue_of(record)] == [asked, "4"]


def test_a_longer_name_is_no_misspelt_one() -> None:
    with pytest.raises(BadRecord, match="known shapes have"):
        dialogue_of({"conversation_id": 1, "plain_text": "x"})


def test_a_content_of_parts_is_their_text() -> None:
    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?", "image": None}]
    assert dialogue_of({"messages": [{"role": "user", "content": parts}, ANSWER]}) == DIALOGUE
    for part in (
        {"type": "image_url", "image_url": "x"},
        {"type": "text"},
        "2+2?",
        {"type": "text", "text": "a", "n": 1},
    ):
        with pytest.raises(BadRecord, match="message 1"):
            dialogue_of({"messages": [{"role": "user", "content": [part]}, ANSWER]})


def test_xtuners_text_without_a_question_is_trained_on_as_it_stands() -> None:
    turns = [
        {"input": "", "output": "Tides ", "need_eos_token": False},
        {"input": "", "output": "are long.", "output_with_loss": False},
        {"input": "", "output": "So is the sea."},
    ]
    assert dialogue_of({"conversation": turns}, "SYS") == [
        {"role": "text", "content": "Tides ", "end_mark": False},
        {"role": "context", "content": "are long.", "end_mark": True},
        {"role": "text", "content": "So is the sea.", "end_mark": True},
    ]
    with pytest.raises(BadRecord, match="message 1 \\(user\\) is empty"):
        dialogue_of({"conversation": [*turns, {"input": "2+2?", "output": "4"}]})


def test_an_alpaca_record_without_an_instruction_asks_its_input() -> None:
    assert dialogue_of({"instruction": "", "input": "2+2?", "output": "4"}) == DIALOGUE
    with pytest.raises(BadRecord, match="empty"):
        dialogue_of({"instruction": "", "input": "", "output": "4"})


# ---------------------------------------------------------------------------------------------- what is trained on

FLAGS = ["loss", "weight", "train", "trainable", "training", "loss_mask", "output_with_loss"]


@pytest.mark.parametrize("flag", FLAGS)
def test_an_answer_says_whether_it_is_trained_on(flag: str) -> None:
    for value, trained in ((True, True), (False, False), (1, True), (0, False), (1.0, True), (0.0, False)):
        assert dialogue_of({"messages": [QUESTION, {**ANSWER, flag: value}]})[1].get("trained") is trained
    for value in (0.5, 2, "false", "yes", [1], {"a": 1}):
        with pytest.raises(BadRecord, match=f"message 2 has {flag}"):
            dialogue_of({"messages": [QUESTION, {**ANSWER, flag: value}]})
    assert dialogue_of({"messages": [{**QUESTION, flag: False}, ANSWER]}) == DIALOGUE
    with pytest.raises(BadRecord, match="only answers"):
        dialogue_of({"messages": [{**QUESTION, flag: True}, ANSWER]})
    with pytest.raises(BadRecord, match=f"{flag} = 0 stands beside the turns"):
        dialogue_of({"messages": DIALOGUE, flag: 0})
    assert dialogue_of({"messages": DIALOGUE, flag: 1}).unused == ()


def test_flags_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(BadRecord, match="message 2 contradicts itself: loss = True, weight = 0"):
        dialogue_of({"messages": [QUESTION, {**ANSWER, "loss": True, "weight": 0}]})


def test_xtuners_turn_without_an_end_mark() -> None:
    turn = {"input": "2+2?", "output": "4", "need_eos_token": False}
    assert dialogue_of({"conversation": [turn]}) == [QUESTION, {**ANSWER, "end_mark": False}]
    assert dialogue_of({"conversation": [{**turn, "need_eos_token": True}]}) == DIALOGUE


# ------------------------------------------------------------------------------------------------------------ tools

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
RESULT = {"role": "tool", "content": "4"}


@pytest.mark.parametrize(
    "calls",
    [
        [CALL],
        [{"function": {"name": "add", "arguments": '{"a": 2}'}}],
        [{"name": "add", "arguments": {"a": 2}}],
        json.dumps([CALL]),
        {"name": "add", "arguments": '{"a": 2}'},
    ],
)
def test_a_tool_call_is_kept_as_templates_take_it(calls: Any) -> None:
    asked = [QUESTION, {"role": "assistant", "content": None, "tool_calls": calls}, RESULT, ANSWER]
    dialogue = dialogue_of({"messages": asked, "tools": [{"name": "add"}]})
    assert dialogue == [QUESTION, {"role": "assistant", "content": "", "tool_calls": [CALL]}, RESULT, ANSWER]
    assert dialogue.tools == [{"name": "add"}]
    sharegpt = [
        {"from": "human", "value": "2+2?"},
        {"from": "function_call", "value": calls if isinstance(calls, str) else json.dumps(calls)},
        {"from": "observation", "value": "4"},
        {"from": "gpt", "value": "4"},
    ]
    assert dialogue_of({"conversations": sharegpt}) == dialogue


def test_what_a_template_of_a_tokenizer_can_write_is_kept() -> None:
    result = {**RESULT, "name": "add", "tool_call_id": "c1"}
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **CALL}], "reasoning_content": "hm"}
    assert dialogue_of({"messages": [QUESTION, call, result, result, ANSWER]})[1:4] == [call, result, result]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({**ANSWER, "tool_calls": "add"}, "not a tool call in JSON"),
        ({**ANSWER, "tool_calls": [{"function": {}}]}, "without a name"),
        ({**ANSWER, "tool_calls": [{"name": "add", "arguments": "2"}]}, "no JSON object"),
        ({**ANSWER, "tool_calls": [{"name": "\ud800"}]}, "half of a character"),
        ({**ANSWER, "reasoning_content": 3}, "reasoning_content is int"),
        ({**ANSWER, "tool_call_id": "c1"}, "only tool may have it"),
        ({**ANSWER, "thinking": "hm"}, "write 'reasoning_content' for 'thinking'"),
        ({**ANSWER, "tool_call": [CALL]}, "write 'tool_calls' for 'tool_call'"),
        ({**ANSWER, "Loss": False}, "write 'loss' for 'Loss'"),
        ({**ANSWER, "is_train": False}, "is_train = False may say what is trained on"),
        ({**ANSWER, "masked": 1}, "masked = 1 may say what is trained on"),
        ({**ANSWER, "computeLoss": False}, "computeLoss = False may say what is trained on"),
        ({**ANSWER, "images": ["x"]}, "message 2: the field 'images' is not read"),
        ({"role": "function_call", "content": "add"}, "not a tool call in JSON"),
    ],
)
def test_a_turn_that_cannot_be_read_is_refused_by_name(message: dict, reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        dialogue_of({"messages": [QUESTION, message]})
    assert reason in str(caught.value)


# ----------------------------------------------------------------------------------------------- refused and counted


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"Input": "x"}, "write 'input' for 'Input'"),
        ({"inputs": "x"}, "write 'input' for 'inputs'"),
        ({"System": "x"}, "write 'system' for 'System'"),
        ({"histroy": [["a", "b"]]}, "write 'history' for 'histroy'"),
        ({"label": False}, "label is false"),
        ({"images": ["cat.png"]}, "the field 'images' is not read"),
        ({"train": "False"}, "train = 'False' stands beside the turns"),
        ({"system": 3}, "system is int, not text"),
        ({"tools": "weather"}, "tools is text, not a list of tools"),
    ],
)
def test_what_changes_a_records_meaning_is_refused_by_name(more: dict, reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        dialogue_of({"instruction": "2+2?", "output": "4", **more})
    assert reason in str(caught.value)


def test_other_fields_are_counted_in_records(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    records = [
        {"id": 1, "source": "web", "messages": [{**QUESTION, "id": "a"}, {**ANSWER, "id": "b"}]},
        {"id": 2, "label": True, "messages": DIALOGUE, "rejected_response": "5", "input_id": 3},
        {"messages": [*DIALOGUE, QUESTION], "new\nline": 1},
        {"id": 3, "messages": []},
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    reading = read_dialogues(path, skip_bad=True, progress=False)
    assert len(reading.dialogues) == 3 and len(reading.skipped) == 1
    assert reading.counted == {
        "id": 2,
        "source": 1,
        "messages.id": 1,
        "label": 1,
        "rejected_response": 1,
        "input_id": 1,
        "new line": 1,
        UNANSWERED: 1,
    }
    twice = read_dialogues([str(path), str(path)], skip_bad=True, progress=False)
    assert twice.counted == {name: 2 * count for name, count in reading.counted.items()}


# ------------------------------------------------------------------------------------------------- a key twice


def test_a_key_that_stands_twice_is_no_value(tmp_path: Path) -> None:
    good = json.dumps({"messages": DIALOGUE})
    twice = good[:-1] + ', "messages": []}'
    inner = good.replace('"content": "4"', '"content": "4", "content": "5"')
    same = good[:-1] + f", {good[1:]}"
    for name, text in (
        ("a.jsonl", "\n".join([good, twice, inner, same])),
        ("a.json", f"[{good},\n {twice}, {inner},{same}]"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=r"[:, ](record )?2: the key 'messages' stands twice"):
            read_dialogues(tmp_path / name, progress=False)
        reading = read_dialogues(tmp_path / name, skip_bad=True, progress=False)
        assert reading.dialogues == [DIALOGUE, DIALOGUE]
        assert ["'messages' stands" in reading.skipped[0], "'content' stands" in reading.skipped[1]] == [True, True]
    with pytest.raises(BadRecord, match="'role' stands twice"):
        dialogue_of({"messages": '[{"role": "user", "role": "assistant", "content": "2+2?"}]'})
