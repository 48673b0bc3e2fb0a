"""A record of another format becomes messages: Alpaca's three columns, ShareGPT's conversations."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from varlen_lab.course.verdicts import Verdict, Wrong, call, judging, not_yet, right, shown, unless

Messages = list[dict[str, str]]
ALPACA = {"instruction": "Translate into French.", "input": "good morning", "output": "bonjour"}
SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Is a kite alive?"},
        {"from": "gpt", "value": "No."},
        {"from": "human", "value": "And a heron?"},
        {"from": "gpt", "value": "Yes."},
    ]
}
RECORDS: tuple[dict[str, Any], ...] = (
    ALPACA,
    {"instruction": "Name a bird.", "input": "", "output": "A heron."},
    {"instruction": "Name a tree.", "output": "A birch."},
    SHAREGPT,
    {"conversations": [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]},
)
SHAREGPT_ROLES = {"system": "system", "human": "user", "gpt": "assistant"}


@judging
def check_to_messages(to_messages: Callable[[dict[str, Any]], Messages]) -> Verdict:
    """Whether ``to_messages(record)`` reads Alpaca's and ShareGPT's records whole, each turn by who said it."""
    for record in RECORDS:
        given = turns_of(call(to_messages, record=deepcopy(record)))
        unless(
            given,
            wanted(record),
            mistakes(record),
            "not all of the record came through, or something came in",
            record_in(record),
        )
    return right("who spoke, what was said, nothing lost and no empty turn, in both formats.")


def record_in(record: dict[str, Any]) -> str:
    return f"record = {shown(record)}"


def turns_of(answer: Any) -> list[list[str]]:
    """``[[role, content], ...]`` of what came back, or Wrong by way of a verdict that says what is wanted."""
    whole = isinstance(answer, list | tuple) and all(
        isinstance(one, dict) and {"role", "content"} <= set(one) for one in answer
    )
    if not whole:
        words = "a list of dicts with 'role' and 'content' is wanted, this is {answer}."
        raise Wrong(not_yet(words, answer=shown(answer)))
    return [[one["role"], one["content"]] for one in answer]


def wanted(record: dict[str, Any]) -> list[list[str]]:
    if "conversations" in record:
        return [[SHAREGPT_ROLES[turn["from"]], turn["value"]] for turn in record["conversations"]]
    asked = "\n".join(filter(None, [record["instruction"], record.get("input")]))
    return [["user", asked], ["assistant", record["output"]]]


def mistakes(record: dict[str, Any]) -> list[tuple[list[list[str]], str]]:
    """What each known mistake makes of a record, and its sentence."""
    good = wanted(record)
    swapped = {"user": "assistant", "assistant": "user"}
    found = [
        (
            [[swapped.get(role, role), text] for role, text in good],
            "the roles are swapped: the model would learn to ask",
        ),
        ([one for one in good if one[0] != "system"], "the system message is lost: the answers were given under it"),
        (good[:2], "only the first exchange came through; a conversation goes on"),
        (
            [one for one in good if one[0] != "system"][:2],
            "only the first exchange came through; a conversation goes on",
        ),
    ]
    if "conversations" in record:
        raw = [[turn["from"], turn["value"]] for turn in record["conversations"]]
        asked = [["user" if role == "system" else role, text] for role, text in good]
        turns = [[("user", "assistant")[number % 2], text] for number, (_, text) in enumerate(good)]
        return [
            *found,
            (raw, "'human' and 'gpt' are no roles of messages; they are 'user' and 'assistant'"),
            (asked, "a system message keeps its role; the user did not say it"),
            (turns, "who speaks stands in 'from'; counting turns fails where a system message comes first"),
        ]
    answer, instruction = good[-1], record["instruction"]
    extra = record.get("input", "")
    empty = "an empty input leaves something behind in the question; every token of it would be read in training"
    lost = "the input is lost: the model would learn to translate what it never read"
    glued = "instruction and input belong on two lines, one line break between them" if extra else empty
    return [
        (good[:1], "the answer is missing: there would be nothing to train on"),
        ([["user", f"{extra}\n{instruction}"], answer], "the input stands before its instruction"),
        ([["user", instruction], answer], lost if extra else empty),
        ([["user", extra], answer], "the instruction is lost, only its input came through"),
        (
            [["system", instruction], ["user", extra], answer],
            "the instruction is what the user says, not a system message",
        ),
        *(([["user", f"{instruction}{glue}{extra}"], answer], glued) for glue in ("\n", "\n\n", " ", "")),
        (
            [["user", instruction], ["user", extra], answer],
            "two turns of the user in a row; join instruction and input with a line break",
        ),
        *found,
    ]
