"""The check of a record that becomes messages: what counts as right, and that no reader's function changes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from varlen_lab.course import check_to_messages
from varlen_lab.course.puzzles.messages import SHAREGPT_ROLES


def right(record: dict[str, Any]) -> list[dict[str, str]]:
    if "conversations" in record:
        return [{"role": SHAREGPT_ROLES[one["from"]], "content": one["value"]} for one in record["conversations"]]
    asked = "\n".join(filter(None, [record["instruction"], record.get("input")]))
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": record["output"]}]


def in_place(record: dict[str, Any]) -> list[dict[str, str]]:
    """Writes into the record itself, as a quick ``datasets.map`` would."""
    turns: list[dict[str, str]] = record.get("conversations", [])
    for turn in turns:
        turn["role"], turn["content"] = SHAREGPT_ROLES[turn.pop("from")], turn.pop("value")
    return turns or right(record)


@pytest.mark.parametrize("answer", [right, lambda record: tuple(right(record)), in_place])
def test_what_is_right_is_accepted_and_spoils_nothing(answer: Callable[..., Any]) -> None:
    assert check_to_messages(answer).right
    assert check_to_messages(right).right
