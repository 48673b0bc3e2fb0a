"""The exception for what a person typed, and the words that sentences for people are made of.

``InputError`` carries one sentence: the value, the rule, the next step. The command line prints it and
exits with 2; in a notebook it is an ordinary ``ValueError``. Everything else that is raised is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any

QUOTED_CHARACTERS = 60  # characters of a long value that an error quotes
SAID_CHARACTERS = 200  # of what another library says: some print the whole model
LISTED = 30  # of more names than these an error says those near alone
NEAR = 3  # and not more of them than these


class InputError(ValueError):
    """What was asked for cannot be done as written; the message says why and what to do next."""

    exit_code = 2  # of the command line

    def __init__(self, message: str) -> None:
        # a sentence that ends in "did you mean 'x'?" needs no full stop after it
        super().__init__(message[:-1] if message.endswith("?.") else message)


class LeakFound(InputError):
    """The check says no: packing changes what a model computes."""

    exit_code = 1
    receipt: Any = None  # of a LeakCheck that found it


class SettingError(InputError):
    """A setting of a config breaks a rule; ``setting`` is its name, from which a reader of files knows the line."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


def of_kind(what: str, value: Any, kinds: type | tuple[type, ...], kind: str, instead: str) -> None:
    """InputError for a value of another type than a function takes.

    >>> of_kind("config", "a.py", dict, "a Config", "load_config('a.py') makes one")
    Traceback (most recent call last):
    varlen_lab.errors.InputError: config is 'a.py' (str), it must be a Config; load_config('a.py') makes one.
    """
    if not isinstance(value, kinds):
        raise InputError(f"{what} is {quoted(value)} ({type(value).__name__}), it must be {kind}; {instead}.")


def unknown_choice(what: str, value: str, known: Collection[str]) -> InputError:
    """The error to raise for a ``value`` that is none of the ``known`` names, with the one that was perhaps meant.

    >>> str(unknown_choice("overlong", "dorp", ["split", "drop"]))
    "overlong 'dorp' is unknown, use one of split, drop; did you mean 'drop'?"
    """
    return InputError(f"{what} {value!r} is unknown, use {one_of(value, known)}.")


def one_of(value: Any, known: Collection[str]) -> str:
    """``one of a, b, c`` and the name that was perhaps meant. Of many names only those near are said, if any are.

    >>> one_of("mistrl", ["mistral", "mistral@v3", *map(str, range(LISTED))])
    "one of 32 names; did you mean 'mistral' or 'mistral@v3'?"
    """
    if len(known) <= LISTED:
        return f"one of {', '.join(known)}{nearest(value, known)}"
    word = str(value).lower()
    close = difflib.get_close_matches(word, known, n=NEAR, cutoff=0.6)
    close += [name for name in known if len(word) > 2 and word in name.lower() and name not in close]
    if close:
        return f"one of {len(known)} names; did you mean {' or '.join(map(repr, close[:NEAR]))}?"
    plain = [name for name in known if name.isidentifier()]  # no revisions, nothing of a space of names of its own
    return f"one of {', '.join(plain)}" + (f" or {len(known) - len(plain)} others" if len(plain) < len(known) else "")


def nearest(word: str, candidates: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the candidate closest to ``word``, or ``""`` when none is close.

    >>> nearest("use_varlen_atn", ["use_varlen_attn", "lr"])
    "; did you mean 'use_varlen_attn'?"
    """
    close = closest(word, candidates)
    return f"; did you mean {close!r}?" if close else ""


def closest(word: str, candidates: Iterable[str]) -> str:
    """The candidate closest to ``word``; ``""`` when none is close."""
    close = difflib.get_close_matches(word, list(candidates), n=NEAR, cutoff=0.6)
    close.sort(key=lambda name: sorted(name) != sorted(word))  # the same letters in another order are nearer than fewer
    return close[0] if close else ""


def quoted(value: Any) -> str:
    """A value as a sentence quotes it: in one line, and cut in the middle where it has no end."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = "a number of thousands of digits"
    except RecursionError:
        text = "a value nested too deep to be written"
    return shortened(text.replace("\n", " "), QUOTED_CHARACTERS)  # a model's repr has a line a layer


def shortened(text: str, kept: int = SAID_CHARACTERS) -> str:
    """A text without its middle where that is long: ``kept`` characters of its begin, half as many of its end."""
    return text if len(text) <= 2 * kept else f"{text[:kept]} ... {text[-kept // 2 :]}"


def first_line(problem: BaseException) -> str:
    """What an exception of another library says, in one line and without a full stop; its type if it says nothing."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):  # what is wrong comes after the colon
        lines[0] += f" {lines[1]}"
    return shortened(lines[0].rstrip(".")) if lines else type(problem).__name__


def plural(count: int, noun: str) -> str:
    """``1 document``, ``1,000 documents``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
