"""Records of assistants with tools, by hand: what is read, what is trained on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from varlen_lab.documents.agents import react_prompt
from varlen_lab.documents.builtin import builtin_tokenizer
from varlen_lab.documents.dialogues import BadRecord
from varlen_lab.documents.prompts import prompt_ids
from varlen_lab.documents.reading import dialogue_of, read_dialogues
from varlen_lab.documents.templates import segments
from varlen_lab.documents.tokens import encode
from varlen_lab.errors import InputError

TOKENIZER = builtin_tokenizer(progress=False)

TURN = {
    "Human": "<|Human|>: 2+2?<eoh>\n",
    "Inner Thoughts": "<|Inner Thoughts|>: I calculate.<eot>\n",
    "Commands": '<|Commands|>: Calculate("2+2")<eoc>\n',
    "Tool Responses": "<|Results|>: Calculate => 4<eor>\n",
    "MOSS": "<|MOSS|>: It is 4.<eom>\n",
}
MOSS = {"conversation_id": 1, "meta_instruction": "You are MOSS.\n", "num_turns": 1, "chat": {"turn_1": TURN}}


def marked(dialogue: list[dict[str, str]], template: str, eos: str = "</s>") -> str:
    """The text of a dialogue, what is trained on in ``[ ]``."""
    return "".join(f"[{text}]" if trained else text for text, trained in segments(dialogue, template, eos))


def test_moss_by_hand() -> None:
    """As XTuner: not the meta instruction, not what the tool said; the marks around it and all else are trained on."""
    assert marked(dialogue_of(MOSS, system="never in front of it"), "moss_sft") == (
        "You are MOSS.\n"
        "[<|Human|>: 2+2?<eoh>\n]"
        "[<|Inner Thoughts|>: I calculate.<eot>\n]"
        '[<|Commands|>: Calculate("2+2")<eoc>\n]'
        "[<|Results|>:] Calculate => 4[<eor>\n]"
        "[<|MOSS|>: It is 4.<eom>\n]"
    )


@pytest.mark.parametrize("template", ["moss_sft", "tokenizer", "llama2_chat"])
def test_moss_as_labels(template: str) -> None:
    """No template adds a mark to text that has its own; the document begins with one bos and has no other end."""
    row = encode([dialogue_of(MOSS)], TOKENIZER, prompt_template=template)[0]
    ids, labels = row["input_ids"], row["labels"]
    assert TOKENIZER.decode(ids) == "<s>You are MOSS.\n" + "".join(TURN.values())
    spoken = TOKENIZER.decode([label for label in labels if label != -100])
    assert spoken == "".join(TURN.values()).replace(" Calculate => 4", "")
    assert labels[0] == -100 and all(label in (-100, token) for label, token in zip(labels, ids))


def test_moss_turns_in_order_and_cells_of_a_table() -> None:
    """A Parquet table has a cell for the longest chat; twelve turns come by number, not by name."""
    turn = {"Human": "<|Human|>: {}<eoh>\n", "MOSS": "<|MOSS|>: {}<eom>\n"}
    chat = {f"turn_{n}": {who: said.format(n) for who, said in turn.items()} for n in range(12, 0, -1)}
    record = {"meta_instruction": "M", "num_turns": "12", "chat": json.dumps({**chat, "turn_13": None})}
    said = [message["content"] for message in dialogue_of(record) if message["role"] == "text"]
    assert said == [one.format(n) for n in range(1, 13) for one in turn.values()]


MOSS_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"chat": []}, "chat is list, not an object of turns"),
    ({"chat": "hello"}, "chat is text, not an object of turns"),
    ({"num_turns": 2}, "num_turns is 2, but chat has no turn_2"),
    ({"num_turns": 0, "chat": {}}, "nothing to train on"),
    ({"num_turns": "many"}, "num_turns is 'many'"),
    ({"num_turns": -1}, "num_turns is -1"),
    ({"chat": {"turn_1": []}}, "turn_1 is list"),
    ({"chat": {"turn_1": {"Humans": "x"}}}, "turn_1 has 'Humans', speakers are Human,"),
    ({"chat": {"turn_1": {"Human": None}}}, "turn_1: Human holds NoneType, not text"),
    ({"chat": {"turn_1": {"Tool Responses": ["x"]}}}, "turn_1: Tool Responses holds list"),
    ({"meta_instruction": 7}, "message 1 holds int"),
    ({"chat": {"turn_1": {"MOSS": "\ud800"}}}, "half of a character"),
]


@pytest.mark.parametrize(("change", "reason"), MOSS_FAULTS, ids=[reason for _, reason in MOSS_FAULTS])
def test_a_planted_fault_in_moss_is_named(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        dialogue_of(MOSS | change)
    assert reason in str(caught.value)


# ------------------------------------------------------------------------------------------------- MSAgent

TOOL = {"name": "weather", "description": "Says the weather.", "paths": [{"parameters": [
    {"name": "city", "description": "where"}]}]}  # fmt: skip
CALL = '<|startofthink|>```JSON\n{"api_name": "weather",\n"parameters": {"city": "Rome"}}```<|endofthink|>'
CALLED = "Action:weather\nAction Input:{'city': 'Rome'}\n"
RESULT = '<|startofexec|>```JSON\n{"sky": "blue"}\n```<|endofexec|>'


def agent(*messages: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": who, "value": value} for who, value in messages]


def read(conversations: object) -> list[dict[str, str]]:
    return dialogue_of({"id": "1", "conversations": conversations}, map_fn="msagent_react")


def test_msagent_by_hand() -> None:
    """The call, the thought before it and the answer are trained on; the tools, the question and the result are not."""
    messages = agent(
        ("system", f"You may use tools: {json.dumps(TOOL)} and no other."),
        ("user", "Is it nice in Rome?"),
        ("assistant", f"I look it up. {CALL}\n{RESULT} Yes, it is."),
        ("user", "Thanks!"),
        ("assistant", "Gladly."),
    )
    tools = react_prompt({"weather": "Says the weather.\n输入参数: {'city': 'where'}"})
    assert "{'weather': \"Says the weather.\\n输入参数: {'city': 'where'}\"}\n" in tools and "[['weather']]" in tools
    assert marked(read(messages), "default") == (
        f"<|System|>:{tools}\n<|User|>:Is it nice in Rome?\n\n<|Bot|>:"
        f"[Thought:I look it up.\n{CALLED}\n\n</s>]\n"
        "<|System|>:Response:{'sky': 'blue'}\n\n<|User|>:\n<|Bot|>:"
        "[Final Answer:Yes, it is.\n</s>]\n"
        "<|User|>:Thanks!\n\n<|Bot|>:[Final Answer:Gladly.\n</s>]\n"
    )
    # a cell of a table: written as JSON, or as Python writes it, which is what MSAgent-Bench has
    assert read(json.dumps(messages)) == read(str(messages)) == read(messages)


def test_msagent_with_a_message_of_the_tool_and_questions_in_a_row() -> None:
    turns = read(
        agent(("user", "Rome?"), ("user", "Quick!"), ("assistant", CALL), ("function", "blue"), ("assistant", "Nice."))
    )
    assert turns == [
        {"role": "user", "content": "Rome?\nQuick!\n"},
        {"role": "assistant", "content": CALLED + "\n"},
        {"role": "tool", "content": "Response:blue\n"},
        {"role": "assistant", "content": "Final Answer:Nice.\n"},
    ]
    # a call at the end is trained on, the result nobody answers is left off
    assert read(agent(("user", "Rome?"), ("assistant", CALL), ("tool", "blue")))[-1]["content"] == CALLED + "\n"


def test_a_result_that_is_not_json_ends_the_answer_as_in_xtuner() -> None:
    turns = read(agent(("user", "Rome?"), ("assistant", CALL + "<|startofexec|>oh<|endofexec|> Nice.")))
    assert [turn["content"] for turn in turns] == ["Rome?\n", CALLED + "\n"]


MSAGENT_FAULTS: list[tuple[object, str]] = [
    ("__import__('os').getcwd()", "conversations is text, not a list"),
    ("[" * 10_000, "conversations is text, not a list"),
    (agent(("user", "Rome?")), "nothing to train on"),
    (agent(("assistant", "Hi"), ("user", "Rome?")), "out of order: message 1 is assistant"),
    (agent(("user", "a"), ("assistant", "b"), ("assistant", "c")), "out of order: message 3 is assistant"),
    (agent(("user", "a"), ("oracle", "b")), "role 'oracle'"),
    ([{"from": "user", "value": 3}], "message 1 needs 'from' and 'value'"),
    (agent(("user", "a"), ("assistant", CALL.replace("{", "("))), "message 2 calls a tool in words that are not JSON"),
    (agent(("user", "a"), ("assistant", CALL.replace("api_", ""))), "without 'api_name' and 'parameters'"),
    (agent(("user", "a"), ("assistant", f"{CALL}{RESULT}{CALL}{RESULT} b")), "more than once"),
]


@pytest.mark.parametrize(("conversations", "reason"), MSAGENT_FAULTS, ids=[reason for _, reason in MSAGENT_FAULTS])
def test_a_planted_fault_in_msagent_is_named(conversations: object, reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        read(conversations)
    assert reason in str(caught.value)


def test_the_prompt_of_the_questions_is_the_prompt_of_the_data() -> None:
    described = {"search": "Searches.\n", "python": "Runs 'code'."}
    tools = json.dumps([{"name": name, "description": words} for name, words in described.items()])
    said = read(agent(("system", tools), ("user", "a"), ("assistant", "b")))[0]["content"]
    assert said == react_prompt(described) and "[['search', 'python']]" in said
    assert said.startswith("你是一个可以调用外部工具的助手") and said.endswith("开始!\n")


# ------------------------------------------------------------------------------------------------- plain text


@pytest.mark.parametrize("template", ["plain", "default", "tokenizer"])
def test_pretraining_text_is_trained_on_whole(template: str, tmp_path: Path) -> None:
    """By hand: bos, which nothing predicts, then every token of the stripped text, and no end mark."""
    path = tmp_path / "sky.jsonl"
    path.write_text(json.dumps({"text": "  ### Human: 上海 is a city.\n"}) + "\n" + json.dumps({"text": "x"}) + "\n")
    dialogues, skipped, _ = read_dialogues(path, map_fn="pretrain", progress=False)
    rows = encode(dialogues, TOKENIZER, prompt_template=template)
    text = TOKENIZER("### Human: 上海 is a city.", add_special_tokens=False)["input_ids"]
    assert not skipped and len(rows) == 2
    assert rows[0]["input_ids"] == [TOKENIZER.bos_token_id, *text] and rows[0]["labels"] == [-100, *text]


def test_a_question_under_plain_is_itself() -> None:
    assert TOKENIZER.decode(prompt_ids("上海的景点有", TOKENIZER, "plain")[0]) == "<s>上海的景点有"


@pytest.mark.parametrize("text", ["", " \n", 3, "\udc80", ["a"]])
def test_what_is_no_text_is_refused(text: object) -> None:
    with pytest.raises(BadRecord):
        dialogue_of({"text": text}, map_fn="pretrain")


def test_plain_text_is_not_taken_for_a_dialogue_nor_the_other_way_round(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match="set dataset_map_fn = 'pretrain'"):
        dialogue_of({"text": "The sky is blue."})
    with pytest.raises(BadRecord, match="its fields are messages; known shapes have text"):
        dialogue_of({"messages": []}, map_fn="pretrain")
    with pytest.raises(InputError, match="did you mean 'pretrain'"):
        dialogue_of({"text": "x"}, map_fn="pretrian")
