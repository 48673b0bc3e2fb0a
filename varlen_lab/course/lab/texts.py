"""What the lab says, in the language spoken: the words of its parts, and what a run shows in sentences.

Pictures are for eyes; ``told`` says the same to ears: which documents hear which, what is trained and should not be.
"""

from __future__ import annotations

from typing import Any

from varlen_lab.language.saying import say

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # tokens are called by these
SAME = 5e-5  # a loss that differs by less is shown as the same


def interface() -> dict[str, str]:
    """The words on switches, pictures and tables."""
    return {
        "lab": say("Break-it lab"),
        "stop": say(". "),
        "lead": say("Turn a switch on and make one mistake. Each was made by somebody, and none of them was "
                    "announced."),
        "board": say("Twelve mistakes, one at a time"),
        "surprise": say("Surprise me"),
        "hidden": say("One of the twelve is on, and the board does not say which. Look at the picture, the strip, the "
                      "losses and the batch, then name it."),
        "give_up": say("Tell me"),
        "named": say("named so far: {count} of {all}", count="{count}", all="{all}"),
        "right": say("As it should be"),
        "now": say("As it is"),
        "axes": say("token ↓ hears token →"),
        "tokens": say("the tokens"),
        "predict": say("must predict"),
        "own": say("heard, as it should be"),
        "cross": say("there, and should not be"),
        "missing": say("missing, and should be there"),
        "pale": say("The paler, the weaker."),
        "specimen": say("A tiny Mistral with random weights runs a row of {count} tokens. Each of its two layers has a "
                        "window of six, so a token hears ten tokens back at most.", count="{count}"),
        "losses": say("What it costs"),
        "document": say("document"),
        "alone": say("alone"),
        "in_row": say("in the row"),
        "difference": say("difference"),
        "all": say("all that is trained"),
        "untrained": say("trains nothing"),
        "arrived": say("What arrived at the model"),
        "key": say("key"),
        "should": say("should be"),
        "is": say("is"),
        "absent": say("not there"),
        "same_batch": say("The batch is as it should be: the mistake sits in the model."),
        "which": say("Which bug is it?"),
        "choose": say("choose a name"),
        "name_it": say("Name it"),
        "choose_first": say("Choose one of the twelve names first."),
        "audit": say("The audit says"),
        "clean": say("Nothing is wrong: every document is computed as if it were alone."),
        "covered": say("That is covered until you have named the bug."),
        "deed": say("What somebody did"),
        "sign": say("How you see it"),
        "source": say("Where it was met"),
        "mend": say("How to mend it"),
        "recorded": say("recorded run"),
        "live": say("measured by your kernel just now"),
        "off": say("Every switch is off: each document hears itself only, and the row costs what its documents cost "
                   "alone."),
    }  # fmt: skip


def correct(words: dict[str, str]) -> str:
    """What is said when the bug is named; ``words``: of its switch."""
    return say("Right, it is “{label}”. {deed} {fix}", label=words["label"], deed=words["deed"], fix=words["fix"])


def mistaken(guess: dict[str, str], sign: str) -> str:
    """What is said for another name: by which sign the two differ. ``guess``: words of its switch."""
    return say(
        "Not “{guess}”. With that one {its_sign}; here {sign}.", guess=guess["label"], its_sign=guess["sign"], sign=sign
    )


def told(run: dict[str, Any], record: dict[str, Any]) -> dict[str, str]:
    """``picture`` and ``loss`` of a run (JSON of ``record.as_json``) in sentences."""
    return {"picture": picture_in_words(run, record), "loss": loss_in_words(run["loss"], record["truth"])}


def picture_in_words(run: dict[str, Any], record: dict[str, Any]) -> str:
    """Who hears whom and what is trained, beside what should be."""
    right, lengths = record["right"], record["lengths"]
    pairs = [
        (a != "0", b != "0") for row, twin in zip(run["heard"], right["heard"], strict=True) for a, b in zip(row, twin)
    ]
    own, cross, missing = (pairs.count(kind) for kind in ((True, True), (True, False), (False, True)))
    said = [
        say("{own} of {all} pairs of tokens hear each other as they should.", own=own, all=sum(b for _, b in pairs)),
        *[say("{count} pairs do and should not.", count=cross)] * bool(cross),
        *[say("{count} pairs do not and should.", count=missing)] * bool(missing),
    ]
    owner = [number for number, length in enumerate(lengths, 1) for _ in range(length)]
    strangers: dict[int, set[int]] = {}
    for query, row in enumerate(run["heard"]):
        for key, mark in enumerate(row):
            if mark != "0" and owner[query] != owner[key]:
                strangers.setdefault(owner[query], set()).add(owner[key])
    said += [
        say("Document {one} hears document {others}.", one=one, others=", ".join(map(str, sorted(others))))
        for one, others in sorted(strangers.items())
    ]
    wrong = [LETTERS[at] for at, (a, b) in enumerate(zip(run["trained"], right["trained"])) if a != b]
    said += [say("In the strip tokens {which} are trained and should not be.", which=", ".join(wrong))] if wrong else []
    return " ".join(said)


def loss_in_words(loss: float, truth: float) -> str:
    """A loss beside the truth."""
    difference = loss - truth
    if abs(difference) < SAME:
        return say("The loss is {truth:.3f}, exactly what the documents cost alone.", truth=truth)
    given = {"loss": loss, "truth": truth, "difference": f"{difference:+.3f}".replace("-", "−")}
    if difference < 0:
        return say(
            "The loss is {loss:.3f} and not {truth:.3f} ({difference}): the run looks better than it is.", **given
        )
    return say("The loss is {loss:.3f} and not {truth:.3f} ({difference}).", **given)
