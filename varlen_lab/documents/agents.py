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

from varlen_lab.config.recipes.react import react_prompt
from varlen_lab.documents.fields import BadRecord, Turns, parsed
from varlen_lab.errors import nearest

# ------------------------------------------------------------------------------------------------------- MOSS

SPEAKERS = ("Human", "Inner Thoughts", "Commands", "Tool Responses", "MOSS")
RESULTS, END_OF_RESULTS = "<|Results|>:", "<eor>\n"


def from_moss(record: dict[str, Any]) -> Turns:
    """The turns of a ``moss-003-sft`` record, each field a piece of its own, in the order of the record."""
    chat = parsed(record["chat"], "chat", dict, "an object of turns")
    chat = {name: turn for name, turn in chat.items() if turn is not None}  # a table has a cell for the longest chat
    count = record.get("num_turns", len(chat))
    if isinstance(count, bool) or not isinstance(count, int | str) or not str(count).isdecimal():
        raise BadRecord(f"num_turns is {count!r}, not a number of turns")
    yield "context", record["meta_instruction"]
    for number in range(1, int(count) + 1):
        name = f"turn_{number}"
        if name not in chat:
            raise BadRecord(f"num_turns is {count}, but chat has no {name}")
        for who, said in parsed(chat[name], name, dict, "an object of what each said").items():
            if who not in SPEAKERS:
                raise BadRecord(f"{name} has {who!r}, speakers are {', '.join(SPEAKERS)}{nearest(who, SPEAKERS)}")
            if not isinstance(said, str):
                raise BadRecord(f"{name}: {who} holds {type(said).__name__}, not text")
            yield from tool_said(said) if who == "Tool Responses" else [("text", said)]


def tool_said(text: str) -> Turns:
    """The marks are trained on where they stand, what is between them never."""
    begin = RESULTS if text.startswith(RESULTS) else ""
    end = END_OF_RESULTS if text.endswith(END_OF_RESULTS) else ""
    yield from [("text", begin)] * bool(begin)
    yield "context", text[len(begin) : len(text) - len(end)]
    yield from [("text", end)] * bool(end)


# -------------------------------------------------------------------------------------------------- MSAgent

THOUGHT = re.compile(r"(.*?)<\|startofthink\|>(.*?)<\|endofthink\|>", re.DOTALL)
RESULT = re.compile(r"<\|startofexec\|>(.*?)<\|endofexec\|>(.*)", re.DOTALL)
TOOLS = ("function", "tool")  # a result in a message of its own


def from_msagent(record: dict[str, Any]) -> Turns:
    """The turns of an MSAgent-Bench record as ReAct. Questions in a row are one; a call that is not JSON is bad."""
    asked = ""
    for number, message in enumerate(parsed(record["conversations"], "conversations"), start=1):
        if not isinstance(message, dict) or "from" not in message or not isinstance(message.get("value"), str):
            raise BadRecord(f"message {number} needs 'from' and 'value', both text")
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
    said, calls = THOUGHT.subn(lambda thought: action_of(thought, number), called)
    yield "assistant", f"{said}\n" if calls else f"Final Answer:{said}\n"
    found = RESULT.fullmatch(mark + result)
    if found and found[2].strip():
        try:
            given = json_in(found[1])
        except (ValueError, RecursionError):  # as XTuner: the call is trained on, what follows is left out
            return
        yield "tool", f"Response:{given}\n"
        yield "assistant", f"Final Answer:{found[2].strip()}\n"


def action_of(thought: re.Match[str], number: int) -> str:
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


def tools_of(text: str) -> dict[str, str]:
    """Name and description, with those of its parameters, of each tool that a system message describes in JSON."""
    found = {}
    for tool in objects_in(text):
        if "name" in tool and "description" in tool:
            found[str(tool["name"])] = str(tool["description"]) + parameters_of(tool)
    return found


def parameters_of(tool: dict[str, Any]) -> str:
    try:
        parameters = {one["name"]: one["description"] for one in tool["paths"][0]["parameters"]}
    except (KeyError, IndexError, TypeError):  # a tool may say nothing of them
        return ""
    return f"\n输入参数: {parameters}"


def objects_in(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in running text; one that is no tool is looked into for those that are."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield value
            if not ("name" in value and "description" in value):
                end = at + 1
        at = text.find("{", end)
