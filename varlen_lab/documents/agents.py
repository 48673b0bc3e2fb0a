"""Records of assistants that use tools: MOSS and MSAgent-Bench, trained on as XTuner trains on them.

MOSS writes its marks into the data, so a record is text already, and its system message is its ``meta_instruction``:

    Human           <|Human|>: 2+2?<eoh>\\n                  trained on, as in MOSS's own training
    Inner Thoughts  <|Inner Thoughts|>: I calculate.<eot>\\n  trained on
    Commands        <|Commands|>: Calculate("2+2")<eoc>\\n    trained on
    Tool Responses  <|Results|>: 4<eor>\\n                    only the marks: what stands between them the tool said
    MOSS            <|MOSS|>: 4.<eom>\\n                      trained on

MSAgent-Bench puts a call, its result and the answer into one assistant message; ReAct, which XTuner trains, parts
them: the call is trained on (``Action:``), what the tool gave back is read (``Response:``), the answer is trained on
again (``Final Answer:``). The system message is written anew, as a list of the tools and of the words to use.

Not here: XTuner's ``bot_name``, which rewrites "MOSS" to another name everywhere in the data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from varlen_lab.documents.dialogues import BadRecord, Turns, parsed
from varlen_lab.documents.registry import Shape
from varlen_lab.errors import nearest

# ------------------------------------------------------------------------------------------------------- MOSS

SPEAKERS = ("Human", "Inner Thoughts", "Commands", "Tool Responses", "MOSS")
RESULTS, END_OF_RESULTS = "<|Results|>:", "<eor>\n"


def from_moss(record: dict[str, Any], shape: Shape) -> Turns:
    """The turns of a ``moss-003-sft`` record, each field a piece of its own, in the order of the record."""
    chat = parsed(record["chat"], "chat", dict, "an object of turns")
    chat = {name: turn for name, turn in chat.items() if turn is not None}  # a table has a cell for the longest chat
    count = record.get("num_turns", len(chat))
    if isinstance(count, bool) or not isinstance(count, int | str) or not str(count).isdecimal():
        raise BadRecord(f"num_turns is {count!r}, not a number of turns")
    if len(chat) > int(count):
        raise BadRecord(f"num_turns is {count}, but chat has {len(chat)} turns")
    yield "context", record["meta_instruction"]
    for number in range(1, int(count) + 1):
        name = f"turn_{number}"
        if name not in chat:
            raise BadRecord(f"num_turns is {count}, but chat has no {name}")
        for speaker, text in parsed(chat[name], name, dict, "an object of what each said").items():
            if speaker not in SPEAKERS:
                raise BadRecord(
                    f"{name} has {speaker!r}, speakers are {', '.join(SPEAKERS)}{nearest(speaker, SPEAKERS)}"
                )
            if not isinstance(text, str):
                raise BadRecord(f"{name}: {speaker} holds {type(text).__name__}, not text")
            yield from tool_response(text) if speaker == "Tool Responses" else [("text", text)]


def tool_response(text: str) -> Turns:
    """The pieces of a tool's response: its marks are trained on where they stand, what is between them never."""
    begin = RESULTS if text.startswith(RESULTS) else ""
    end = END_OF_RESULTS if text.endswith(END_OF_RESULTS) else ""
    yield from [("text", begin)] * bool(begin)
    yield "context", text[len(begin) : len(text) - len(end)]
    yield from [("text", end)] * bool(end)


# -------------------------------------------------------------------------------------------------- MSAgent

THOUGHT = re.compile(r"(.*?)<\|startofthink\|>(.*?)<\|endofthink\|>", re.DOTALL)
RESULT = re.compile(r"<\|startofexec\|>(.*?)<\|endofexec\|>(.*)", re.DOTALL)
TOOLS = ("function", "tool")  # a result in a message of its own


def from_msagent(record: dict[str, Any], shape: Shape) -> Turns:
    """The turns of an MSAgent-Bench record as ReAct. Questions in a row are one; a call that is not JSON is bad."""
    asked = ""
    for number, message in enumerate(parsed(record["conversations"], "conversations"), start=1):
        if not isinstance(message, dict) or "from" not in message or not isinstance(message.get("value"), str):
            raise BadRecord(f"message {number} needs 'from' and 'value', both text")
        if others := [name for name in message if name not in ("from", "value") and message[name] is not None]:
            raise BadRecord(
                f"message {number} has the field {others[0]!r}, only 'from' and 'value' are read; remove it"
            )
        who, value = message["from"], message["value"]
        if who == "system":
            yield "system", react_prompt(tools_of(value))
        elif who == "user":
            asked += f"{value}\n"
        elif who in TOOLS:
            yield "tool", f"Response:{value}\n"
        elif who == "assistant":
            if asked:
                yield "user", asked
            asked = ""
            yield from answer_of(value, number)
        else:
            raise BadRecord(f"message {number} has role {who!r}; roles are system, user, assistant and function")


def answer_of(value: str, number: int) -> Turns:
    """One assistant message: a call and, if they stand in it, its result and the answer after it."""
    called, mark, result = value.partition("<|startofexec|>")
    if "<|startofexec|>" in result:
        raise BadRecord(f"message {number} uses tools more than once before it answers, which XTuner leaves out")
    text, calls = THOUGHT.subn(lambda thought: action_of(thought, number), called)
    yield "assistant", f"{text}\n" if calls else f"Final Answer:{text}\n"
    found = RESULT.fullmatch(mark + result)
    if found and found[2].strip():
        try:
            response = json_in(found[1])
        except (ValueError, RecursionError):  # as XTuner: the call is trained on, what follows is left out
            return
        yield "tool", f"Response:{response}\n"
        yield "assistant", f"Final Answer:{found[2].strip()}\n"


def action_of(thought: re.Match[str], number: int) -> str:
    """A tool call as ReAct writes it: the words before it as the thought, the JSON in it as action and input."""
    try:
        call = json_in(thought[2])
    except (ValueError, RecursionError):
        raise BadRecord(f"message {number} calls a tool in words that are not JSON") from None
    if not isinstance(call, dict) or not {"api_name", "parameters"} <= call.keys():
        raise BadRecord(f"message {number} calls a tool without 'api_name' and 'parameters'")
    before = f"Thought:{thought[1].strip()}\n" if thought[1].strip() else ""
    return f"{before}Action:{call['api_name']}\nAction Input:{call['parameters']}\n"


def json_in(text: str) -> Any:
    """What stands in a ```` ```JSON ```` block."""
    return json.loads(text.replace("```JSON", "").replace("```", "").replace("\n", ""))


def react_prompt(tools: dict[str, str]) -> str:
    """XTuner's system prompt for ReAct with tools: name -> what it does. Python's way to write them is meant."""
    return (
        f"你是一个可以调用外部工具的助手，可以使用的工具包括：\n{tools}\n如果使用工具请遵循以下格式回复：\n```\n"
        "Thought:思考你当前步骤需要解决什么问题，是否需要使用工具\n"
        f"Action:工具名称，你的工具必须从 [{list(tools)}] 选择\n"
        "Action Input:工具输入参数\n```\n工具返回按照以下格式回复：\n```\nResponse:调用工具后的结果\n```\n"
        "如果你已经知道了答案，或者你不需要工具，请遵循以下格式回复\n```\nThought:给出最终答案的思考过程\n"
        "Final Answer:最终答案\n```\n开始!\n"
    )


def tools_of(text: str) -> dict[str, str]:
    """Name and description, with those of its parameters, of each tool that a system message describes in JSON."""
    return {str(tool["name"]): f"{tool['description']}{parameters_of(tool)}" for tool in tools_in(text)}


def tools_in(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in running text that have a name and a description; others are looked into for such objects."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            value, end = {}, at + 1
        is_tool = "name" in value and "description" in value
        if is_tool:
            yield value
        at = text.find("{", end if is_tool else at + 1)


def parameters_of(tool: dict[str, Any]) -> str:
    """Name and description of the parameters of a tool, as XTuner writes them; ``""`` when the tool names none."""
    try:
        parameters = {one["name"]: one["description"] for one in tool["paths"][0]["parameters"]}
    except (KeyError, IndexError, TypeError):
        return ""
    return f"\n输入参数: {parameters}"
