"""The collator that a reader writes: packed rows in, the arrays that carry their seams out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

from varlen_lab.course.verdicts import Verdict, Wrong, call, judging, not_yet, numbers, right, shown, unless
from varlen_lab.language.saying import say

IGNORED = -100
# Rows as (lengths of documents, places in the row whose label is already -100: a prompt)
CASES: tuple[tuple[tuple[list[int], list[int]], ...], ...] = (
    (([2, 3], []), ([4], [])),
    (([3, 2], [1]), ([4, 1, 2], [5])),
    (([1], []),),
    (([5], []), ([1, 1], [])),
)
ARRAYS = ("input_ids", "labels", "position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


@judging
def check_collator(collate: Callable[[list[dict[str, list[int]]]], Any]) -> Verdict:
    """A collator of packed rows: one row of T tokens out, with positions, labels and seams of every document.

    ``collate(rows)``: each row has ``input_ids``, ``labels`` and ``seq_lengths``; a dict of tensors comes back.
    """
    for case in CASES:
        rows = [row_of(lengths, prompt, 10 + 20 * number) for number, (lengths, prompt) in enumerate(case)]
        before = [{name: list(values) for name, values in row.items()} for row in rows]
        batch = call(collate, rows=rows)
        lengths = say(" and ").join(str(row["seq_lengths"]) for row in before)
        on = say("rows with seq_lengths {lengths}", lengths=lengths)
        check_shapes(batch, before, on)
        check_cu_seqlens_of(batch, before, on)
        check_positions_of(batch, before, on)
        check_labels_of(batch, before, on)
        check_longest(batch, before, on)
        if rows != before:
            raise Wrong(not_yet("the collator writes into the rows, so the next epoch gets other labels; copy them."))
    return right("three arrays and one number say where every document begins and ends, and no label looks across.")


def row_of(lengths: list[int], prompt: list[int], first: int) -> dict[str, list[int]]:
    """A packed row with tokens from ``first`` on."""
    ids = list(range(first, first + sum(lengths)))
    return {
        "input_ids": ids,
        "labels": [IGNORED if at in prompt else token for at, token in enumerate(ids)],
        "seq_lengths": list(lengths),
    }


def joined(rows: list[dict[str, list[int]]], name: str) -> list[int]:
    """A column of all rows end to end."""
    return [value for row in rows for value in row[name]]


def edges(lengths: list[int]) -> list[int]:
    """Where documents begin and end."""
    return [0, *accumulate(lengths)]


def check_shapes(batch: Any, rows: list[dict[str, list[int]]], on: str) -> None:
    """All arrays are there, as tensors, and the tokens are in one row."""
    if not isinstance(batch, Mapping):
        words = "a dict is wanted, with {arrays}; this is {answer}."
        raise Wrong(not_yet(words, arrays=", ".join(ARRAYS), answer=shown(batch)))
    if missing := [name for name in ARRAYS if name not in batch]:
        words = "the batch has no {name!r}; transformers hands on {arrays} by name."
        raise Wrong(not_yet(words, name=missing[0], arrays=", ".join(ARRAYS)))
    unless(
        numbers(batch["input_ids"]),
        joined(rows, "input_ids"),
        [(rows[0]["input_ids"], "these are the tokens of the first row only; lay all rows end to end.")],
        "input_ids are the tokens of all rows, end to end.",
        on,
    )
    count = len(joined(rows, "input_ids"))
    for name in ARRAYS[:3]:
        if tuple(getattr(batch[name], "shape", ())) != (1, count):
            shape = getattr(batch[name], "shape", None)
            got = tuple(shape) if shape is not None else type(batch[name]).__name__
            words = "{name} is one row for the model, a tensor of shape (1, T)."
            raise Wrong(not_yet(words, (1, count), got, name=name))
        kind = kind_of(batch[name])
        if kind != "torch.int64" and (name == "labels" or kind != "torch.int32"):
            words = "{name} must be whole numbers in a tensor, or the model stops."
            raise Wrong(not_yet(words, "torch.int64", kind, name=name))


def kind_of(array: Any) -> str:
    """The dtype of a tensor, or what else it is."""
    kind = str(getattr(array, "dtype", type(array).__name__))
    return kind if kind.startswith("torch.") or not hasattr(array, "dtype") else f"numpy {kind}"


def check_cu_seqlens_of(batch: Any, rows: list[dict[str, list[int]]], on: str) -> None:
    """The seams: a running total over all rows, int32."""
    lengths = joined(rows, "seq_lengths")
    wanted = edges(lengths)
    anew = [edge for row in rows for edge in edges(row["seq_lengths"])]
    of_rows = edges([len(row["input_ids"]) for row in rows])
    for name in ARRAYS[3:5]:
        mistakes = [
            (lengths, "these are the lengths; cu_seqlens is their running total, from 0."),
            (wanted[1:], "the ends are right but the leading 0 is missing: the first document starts there."),
            (wanted[:-1], "the starts are right but the end of the last document is missing."),
            (anew, "the seams begin at 0 again in the second row; the rows lie end to end now, so the total runs on."),
            (of_rows, "these are the edges of the rows; a seam is where a document ends."),
        ]
        otherwise = say("{name} must be the edges of all documents.", name=name)
        unless(numbers(batch[name]), wanted, mistakes, otherwise, on)
        kind = kind_of(batch[name])
        if kind != "torch.int32":
            words = "the numbers of {name} are right, but kernels read int32."
            raise Wrong(not_yet(words, "torch.int32", kind, name=name))
        if batch[name].ndim != 1:
            words = "{name} is flat, of shape ({count},): kernels take no batch dimension."
            raise Wrong(not_yet(words, name=name, count=len(wanted)))


def check_positions_of(batch: Any, rows: list[dict[str, list[int]]], on: str) -> None:
    """Positions start again in every document."""
    lengths = joined(rows, "seq_lengths")
    wanted = [place for length in lengths for place in range(length)]
    mistakes = [
        (list(range(len(wanted))), "these positions run through; every document starts again at 0."),
        (
            [place for row in rows for place in range(len(row["input_ids"]))],
            "these positions start again in every row; a row holds several documents, and each starts at 0.",
        ),
        ([place + 1 for place in wanted], "positions count from 0, these count from 1."),
        (
            [number for number, length in enumerate(lengths) for _ in range(length)],
            "this says which document a token is in, not where in its document it stands.",
        ),
    ]
    unless(numbers(batch["position_ids"]), wanted, mistakes, "positions count from 0 within each document.", on)


def check_labels_of(batch: Any, rows: list[dict[str, list[int]]], on: str) -> None:
    """The rows' own labels, and -100 at the first token of every document."""
    ids, given = joined(rows, "input_ids"), joined(rows, "labels")
    starts = edges(joined(rows, "seq_lengths"))[:-1]
    firsts = edges([len(row["input_ids"]) for row in rows])[:-1]
    wanted = [IGNORED if at in starts else label for at, label in enumerate(given)]
    ends = {start - 1 for start in starts[1:]} | {len(ids) - 1}
    mistakes = [
        (given, "the last token of a document is still asked to predict the first of the next one."),
        ([*given[1:], IGNORED], "do not shift: the model shifts labels itself, twice is the token after next."),
        ([*wanted[1:], IGNORED], "do not shift: the model shifts labels itself, twice is the token after next."),
        (
            [IGNORED if at in firsts else label for at, label in enumerate(given)],
            "the first token of each row is masked, the first of its other documents is not.",
        ),
        (
            [IGNORED if at in ends else label for at, label in enumerate(given)],
            "you masked the last token of each document; a label says what its token is, so mask the first.",
        ),
        (
            [IGNORED if at in starts else token for at, token in enumerate(ids)],
            "the rows' own -100 are gone: start from their labels, not from input_ids, or prompts are trained.",
        ),
        ([0 if at in starts else label for at, label in enumerate(given)], "0 is a token; what is ignored is -100."),
    ]
    otherwise = say("labels are the rows' own, with -100 at {places}.", places=starts)
    unless(numbers(batch["labels"]), wanted, mistakes, otherwise, on)


def check_longest(batch: Any, rows: list[dict[str, list[int]]], on: str) -> None:
    """How long the longest document is, as a plain int."""
    lengths = joined(rows, "seq_lengths")
    for name in ARRAYS[5:]:
        value = batch[name]
        plain = value.item() if hasattr(value, "item") and getattr(value, "numel", lambda: 1)() == 1 else value
        mistakes = [
            (sum(lengths), "this is the length of the row; a kernel wants the longest document, and plans less work."),
            (max(len(row["input_ids"]) for row in rows), "this is the longest row; the longest document is wanted."),
            (len(lengths), "this is the number of documents; the length of the longest is wanted."),
        ]
        otherwise = say("{name} is the length of the longest document.", name=name)
        unless(plain, max(lengths), mistakes, otherwise, on)
        if type(value) is not int:
            words = "{name} must be a plain int; a GPU waits for a tensor to be read."
            raise Wrong(not_yet(words, "int", type(value).__name__, name=name))
