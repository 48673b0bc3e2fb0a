"""The capstone's end: whether a mended ``stranger.py`` is right, piece by piece, and its receipt.

A mended batch, norm and loss are compared with what each document alone gives; then LeakCheck says what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from varlen_lab.course.puzzles import stranger
from varlen_lab.course.verdicts import Verdict, Wrong, call, in_case, judging, not_yet, number, right, shown, unless
from varlen_lab.errors import LeakFound
from varlen_lab.language.saying import say
from varlen_lab.leaks.callback import LeakCheck
from varlen_lab.leaks.receipt import Receipt

ROWS = ([[7, 8, 9], [5], [6, 4]], [[3, 5, 7, 9]], [[4], [8, 6]])


@judging
def check_mended_collate(collate: Callable[[list[list[int]]], Any]) -> Verdict:
    """``collate(row)``: a batch for sdpa that keeps the documents of ``row`` apart, and trains no seam."""
    for row in ROWS:
        given = call(collate, row=[list(document) for document in row])
        if not isinstance(given, Mapping):
            words = "a dict is wanted, as model(**batch) takes it; this is {answer}."
            raise Wrong(not_yet(words, answer=shown(given)))
        check_batch(given, row)
    return right("positions restart, no seam is trained, and neither a mask nor a cache hides the documents.")


def check_batch(given: Mapping[str, Any], row: list[list[int]]) -> None:
    """Wrong where a batch of ``row`` is not right, with the first thing that is not."""
    ids = [token for document in row for token in document]
    places = [place for document in row for place in range(len(document))]
    labels = [-100 if place == 0 else token for token, place in zip(ids, places, strict=True)]
    for name, wanted in (("input_ids", ids), ("position_ids", places), ("labels", labels)):
        if name not in given:
            words = "the batch has no {name}; the model is called with what you return (for row = {row})."
            raise Wrong(not_yet(words, name=name, row=row))
        if tuple(getattr(given[name], "shape", ())) != (1, len(ids)):
            words = "{name} must be a tensor of shape (1, {count}) (for row = {row})."
            raise Wrong(not_yet(words, name=name, count=len(ids), row=row))
        got = given[name].reshape(-1).tolist()
        unread = name == "labels"  # the model never asks for the first label of a row
        if got[unread:] != wanted[unread:]:
            raise Wrong(not_yet(in_case(wrong_values(name, got, ids, row), f"row = {row}"), wanted, got))
    mask = given.get("attention_mask")
    if getattr(mask, "ndim", 2) == 4:
        raise Wrong(not_yet("a mask of pairs can be right, and takes T² memory; without one sdpa finds the documents."))
    if mask is not None:
        raise Wrong(not_yet("an attention_mask of ones still switches off the search for documents; leave it out."))
    if given.get("use_cache", True) is not False:
        raise Wrong(not_yet("use_cache is not False: the config's default is True, and with a cache nobody looks."))


def wrong_values(name: str, got: list[Any], ids: list[int], row: list[list[int]]) -> str:
    """What is wrong with the values of a key."""
    if name == "labels" and got == ids:
        return "every label is trained: the last token of a document has to predict the next document"
    if name == "labels" and got == [-100, *ids[1:]]:
        return "only the row's first label is -100, every document needs it"
    if name == "labels" and got == [token for document in row for token in [*document[1:], -100]]:
        return "these labels are shifted already, and the model shifts them once more"
    if name == "labels" and got == [token for document in row for token in [*document[:-1], -100]]:
        return "the model shifts labels by itself, so the first token of a document is the one to leave out"
    if name == "position_ids" and got == list(range(len(ids))):
        return "positions run on: nothing else tells sdpa of documents"
    return say("{name} is not what the documents say", name=name)


@judging
def certify(collate: Any, mean_square: Any, step_loss: Any) -> Verdict:
    """The receipt of a mended script: its model on two of its rows, as two batches of one step."""
    import torch

    rows = [[list(range(20, 29)), [50], list(range(60, 72))], [[5, 6, 7, 8]]]
    batches = [dict(call(collate, row=row)) for row in rows]
    torch.manual_seed(0)
    model = stranger.build(mean_square)
    counts = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]

    def loss(model: Any, batch: Mapping[str, Any]) -> Any:
        """What the first of the two rows adds to the loss of the step."""
        return torch.as_tensor(step_loss([model(**batch).loss, torch.zeros(())], counts)).item()

    receipt = receipt_of(model, batches[0], loss, [len(document) for document in rows[0]], sum(counts))
    words = "{receipt}"  # in English, as all receipts are
    if receipt.ok:
        return right(words, receipt=str(receipt).removeprefix("✓ ok: "))
    return not_yet(words, receipt=str(receipt).removeprefix("✗ not ok: "))


def receipt_of(model: Any, batch: Mapping[str, Any], loss: Any, lengths: list[int], items: int) -> Receipt:
    """What LeakCheck says of the first of two batches of a step, found or not."""
    try:
        return LeakCheck(None).check(
            model, batch, boundaries=lengths, loss=loss, num_items_in_batch=items, accumulated=2
        )
    except LeakFound as leak:
        receipt: Receipt = leak.receipt
        return receipt


class Mended(NamedTuple):
    """The three functions of the script, put right."""

    collate: Any
    mean_square: Any
    step_loss: Any


def mended() -> Mended:
    """Ours, for comparison: they are also in the folded answer of the lesson."""

    def collate(row: list[list[int]]) -> dict[str, Any]:
        batch = stranger.collate(row)
        labels = batch["labels"].masked_fill(batch["position_ids"] == 0, -100)
        return {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "labels": labels} | {
            "use_cache": False
        }

    def mean_square(hidden: Any) -> Any:
        return hidden.pow(2).mean(-1, keepdim=True)

    def step_loss(losses: list[Any], counts: list[int]) -> Any:
        return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)

    return Mended(collate, mean_square, step_loss)


@judging
def check_mended_rest(mean_square: Callable[..., Any], step_loss: Callable[..., Any]) -> Verdict:
    """``mean_square(hidden)`` must ask each token alone, ``step_loss(losses, counts)`` weigh each token alike."""
    import torch

    hidden = torch.arange(1.0, 25.0).reshape(1, 6, 4)
    given, wanted = hidden.clone(), hidden.pow(2).mean(-1, keepdim=True)
    got = call(mean_square, hidden=given)
    if not torch.equal(given, hidden):
        return not_yet("your function changes hidden itself, which the norm divides afterwards; make a new tensor.")
    shape = tuple(getattr(got, "shape", ()))
    if shape == (1, 1, 4):
        return not_yet("mean(1) runs over the tokens of the row: every token is divided by what all others say.")
    if shape == (1, 6):
        return not_yet("the mean lacks keepdim=True, so that hidden cannot be divided by it.", (1, 6, 1), shape)
    if shape != (1, 6, 1):
        return not_yet("one number for each token is wanted, from its own channels.", (1, 6, 1), shape)
    if not torch.allclose(torch.as_tensor(got).to(wanted), wanted):
        return not_yet("the shape is right, the numbers are not: the mean of the squares of a token's channels.")
    for losses, counts in (([2.0, 4.0], [10, 30]), ([3.0], [7]), ([1.0, 5.0, 3.0], [100, 1, 10])):
        loss = number(call(step_loss, losses=losses, counts=counts))
        total = sum(one * count for one, count in zip(losses, counts, strict=True))
        mistakes = (
            (
                sum(losses) / len(losses),
                "this is still the mean of the rows' means: a row of few tokens weighs as much",
            ),
            (total, "this is the sum over all tokens; divide it by how many they are"),
            (sum(losses) / sum(counts), "a row's loss is a mean already: multiply it by its count before you add up"),
        )
        on = f"losses = {losses}, counts = {counts}"
        unless(loss, total / sum(counts), mistakes, "every trained token of the step must weigh the same", on)
    return right("each token is measured by its own channels, and each trained token weighs the same.")
