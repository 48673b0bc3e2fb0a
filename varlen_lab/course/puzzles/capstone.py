"""The capstone: what is wrong with ``stranger.py``, which faults a reader found, and whether a mended script is right.

``stranger.py`` beside this file is wrong on purpose, and says nothing of it: it is what the reader is shown. Its faults
are named here, by pieces of its lines, so that no number goes stale.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from html import escape
from types import ModuleType
from typing import Any, NamedTuple

from varlen_lab.course.puzzles import stranger
from varlen_lab.course.verdicts import Verdict, Wrong, call, judging, not_yet, number, right, shown, unless
from varlen_lab.errors import LeakFound
from varlen_lab.leaks.callback import LeakCheck
from varlen_lab.leaks.receipt import Receipt


class Planted(NamedTuple):
    """A fault of the script: the audit's name for it, pieces of the lines where it is, words for it, a hint."""

    name: str
    lines: tuple[str, ...]
    words: tuple[str, ...]
    hint: str


FAULTS = (
    Planted(
        "border label",
        ("labels = ids.clone()",),
        ("label", "border", "seam"),
        "in collate(): who is asked to predict the first token of a document?",
    ),
    Planted(
        "attention_mask",
        ("mask = torch.ones_like(ids)", '"attention_mask": mask'),
        ("mask",),
        "in collate(): one thing it returns says nothing, and switches something off",
    ),
    Planted(
        "use_cache",
        ("losses = [model(**batch).loss",),
        ("cache",),
        "in train(): what is left unsaid when the model is called?",
    ),
    Planted(
        "mean of means",
        ("return sum(losses) / len(losses)", "loss = step_loss(losses, counts)"),
        ("mean of", "count", "average", "weigh"),
        "in a step of two rows with 10 and 200 trained tokens: what does one token of each weigh?",
    ),
    Planted(
        "recurrent layer",
        ("hidden.pow(2).mean(1", "return self.inner(hidden /", "layers[1].mlp = Norm"),
        ("norm", "dim", "mean(", "recurrent", "row"),
        "in the model: audit it on a batch that is right, and see whether it is still not ok",
    ),
)
SOUND = {
    "ids[:width]": "a document that is too long is cut, openly: tokens are lost, and nobody hears another",
    "places = ": "positions start again in every document, which is how sdpa finds them",
    "def collate": "name the line inside of collate()",
    'set_attn_implementation("sdpa")': "sdpa keeps documents apart where the batch lets it",
    "clip_grad_norm_": "clipping scales the whole step, all documents alike",
    "lr=3e-3": "a learning rate is a matter of taste, and mixes no documents",
    "counts = [": "the count is right; what is done with it is another line",
    "for first in range(": "an odd row at the end is left out: a loss of tokens, and no leak",
    "optimizer.zero_grad()": "gradients are cleared after each step, as they should be",
    "rows.append([])": "whole documents in order: not the fullest rows, and right ones",
}
OTHERWISE = "nothing there mixes documents"


class Script:
    """The stranger's file: shown with the numbers of its lines; its functions are attributes."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.lines = module, inspect.getsource(module).splitlines()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("module", "lines"):
            raise AttributeError(name)
        return getattr(self.module, name)

    def __repr__(self) -> str:
        return "\n".join(f"{number:3}  {line}".rstrip() for number, line in enumerate(self.lines, start=1))

    def _repr_html_(self) -> str:
        return f'<pre style="line-height:1.35">{escape(repr(self))}</pre>'

    def line_of(self, piece: str) -> int:
        """The number of the line that holds ``piece``."""
        return next(number for number, line in enumerate(self.lines, start=1) if piece in line)


def stranger_script() -> Script:
    """The script of the capstone."""
    return Script(stranger)


# ------------------------------------------------------------------------------------------------------- findings


def fault_named(key: Any, said: Any, script: Script) -> Planted | None:
    """The fault that a finding means: by the number of its line, or by the audit's name for it."""
    if isinstance(key, str):
        word = key.strip().lower().replace("-", " ")
        return next((one for one in FAULTS if one.name in (word, word.replace(" ", "_"))), None)
    number = int(key)
    here = [one for one in FAULTS if any(script.line_of(piece) == number for piece in one.lines)]
    if here and here[0].name == "attention_mask" and "cache" in str(said).lower():
        return next(one for one in FAULTS if one.name == "use_cache")  # what collate() returns could turn it off
    return here[0] if here else None


def why_sound(key: Any, script: Script) -> str:
    """Why what a finding accuses is right."""
    if isinstance(key, str):
        names = ", ".join(repr(one.name) for one in FAULTS[:2])
        return f"{key!r} is a name that the audit does not give here (its names are such as {names})"
    number = int(key)
    if not 1 <= number <= len(script.lines):
        return f"the script has no line {number}, its last is {len(script.lines)}"
    line = script.lines[number - 1]
    return f"line {number} is right: {next((why for piece, why in SOUND.items() if piece in line), OTHERWISE)}"


def unlined(key: Any) -> Any:
    """22 for ``"line 22"`` and ``"22"``, other keys as they are."""
    word = key.strip().lower().removeprefix("line").strip() if isinstance(key, str) else ""
    return int(word) if word.isdecimal() else key


@judging
def check_findings(findings: Mapping[Any, Any]) -> Verdict:
    """``findings``: line number, or the audit's name of a fault -> what is wrong, in any words."""
    if not isinstance(findings, Mapping):
        raise Wrong(not_yet(f"a dict of line numbers is wanted, {{22: 'why'}}; this is {shown(findings)}."))
    bad = [key for key in findings if isinstance(key, bool) or not isinstance(key, (int, str))]
    if bad:
        raise Wrong(not_yet(f"a finding is named by the number of its line, this key is {shown(bad[0])}."))
    script = stranger_script()
    findings = {unlined(key): said for key, said in findings.items()}
    meant = {key: fault_named(key, said, script) for key, said in findings.items()}
    found = {one.name for one in meant.values() if one is not None}
    missed = [one for one in FAULTS if one.name not in found]
    alarms = [why_sound(key, script) for key, one in meant.items() if one is None]
    count = f"{len(found)} of {len(FAULTS)} faults found"
    if not missed and not alarms:
        return right(f"{count}, and no line accused that is right.")
    words = [count + (f" ({', '.join(sorted(found))})" if found else "")]
    words += [f"A false alarm: {why}" for why in alarms]
    words += [f"Look {missed[0].hint}"] if missed else []
    return not_yet(". ".join(words) + ("" if words[-1].endswith("?") else "."))


# -------------------------------------------------------------------------------------------------- a mended script

ROWS = ([[7, 8, 9], [5], [6, 4]], [[3, 5, 7, 9]], [[4], [8, 6]])


@judging
def check_mended_collate(collate: Callable[[list[list[int]]], Any]) -> Verdict:
    """``collate(row)``: a batch for sdpa that keeps the documents of ``row`` apart, and trains no seam."""
    for row in ROWS:
        given = call(collate, row=[list(document) for document in row])
        if not isinstance(given, Mapping):
            raise Wrong(not_yet(f"a dict is wanted, as model(**batch) takes it; this is {shown(given)}."))
        check_batch(given, row)
    return right("positions restart, no seam is trained, and neither a mask nor a cache hides the documents.")


def check_batch(given: Mapping[str, Any], row: list[list[int]]) -> None:
    """Wrong where a batch of ``row`` is not right, with the first thing that is not."""
    ids = [token for document in row for token in document]
    places = [place for document in row for place in range(len(document))]
    labels = [-100 if place == 0 else token for token, place in zip(ids, places, strict=True)]
    on = f"for row = {row}"
    for name, wanted in (("input_ids", ids), ("position_ids", places), ("labels", labels)):
        if name not in given:
            raise Wrong(not_yet(f"the batch has no {name}; the model is called with what you return ({on})."))
        if tuple(getattr(given[name], "shape", ())) != (1, len(ids)):
            raise Wrong(not_yet(f"{name} must be a tensor of shape (1, {len(ids)}) ({on})."))
        got = given[name].reshape(-1).tolist()
        unread = name == "labels"  # the model never asks for the first label of a row
        if got[unread:] != wanted[unread:]:
            raise Wrong(not_yet(wrong_values(name, got, ids, row, on), wanted, got))
    mask = given.get("attention_mask")
    if getattr(mask, "ndim", 2) == 4:
        raise Wrong(not_yet("a mask of pairs can be right, and takes T² memory; without one sdpa finds the documents."))
    if mask is not None:
        raise Wrong(not_yet("an attention_mask of ones still switches off the search for documents; leave it out."))
    if given.get("use_cache", True) is not False:
        raise Wrong(not_yet("use_cache is not False: the config's default is True, and with a cache nobody looks."))


def wrong_values(name: str, got: list[Any], ids: list[int], row: list[list[int]], on: str) -> str:
    """What is wrong with the values of a key."""
    if name == "labels" and got == ids:
        return f"every label is trained: the last token of a document has to predict the next document ({on})"
    if name == "labels" and got == [-100, *ids[1:]]:
        return f"only the row's first label is -100, every document needs it ({on})"
    if name == "labels" and got == [token for document in row for token in [*document[1:], -100]]:
        return f"these labels are shifted already, and the model shifts them once more ({on})"
    if name == "labels" and got == [token for document in row for token in [*document[:-1], -100]]:
        return f"the model shifts labels by itself, so the first token of a document is the one to leave out ({on})"
    if name == "position_ids" and got == list(range(len(ids))):
        return f"positions run on: nothing else tells sdpa of documents ({on})"
    return f"{name} is not what the documents say ({on})"


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
    return (
        right(str(receipt).removeprefix("✓ ok: ")) if receipt.ok else not_yet(str(receipt).removeprefix("✗ not ok: "))
    )


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
