"""One sentence in the language that is spoken: English stands in the code, every other language in a catalogue.

    say("{share} of what a token sees is another document", share="58 %")
    counted(3, "document")

The English sentence is the key, as with gettext; ``zh/*.toml`` beside this file holds ``English = "中文"``, the words
between braces the same in both. A sentence that a catalogue does not have is said in English. Lessons, figures, checks
and pages speak so; the command line and errors are English always, so that they can be searched for.

The language is a setting of the process, as a locale is: what a lesson chose in its first cell holds for every figure
below it, without a keyword in each call. It changes words alone; no number may depend on it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from varlen_lab.errors import plural, unknown_choice

LANGUAGES = {"en": "English", "zh": "中文"}  # a name, and how its readers call it
TAGS = {"en": "en", "zh": "zh-CN"}  # of HTML
HERE = Path(__file__).parent
HOLE = re.compile(r"\{[^{}]*\}")
BETWEEN_SIGNS = re.compile("(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])")  # a space that a name of Chinese signs leaves
_now = "en"


class Said(str):
    """Words in another language that know their English, for whoever has to write them in a type without the signs."""

    english: str


def speak(language: str) -> None:
    """From now on ``say`` says it in ``language``; InputError for one that there is not."""
    global _now
    if not isinstance(language, str) or language not in LANGUAGES:
        raise unknown_choice("language", str(language), LANGUAGES)
    _now = language


def spoken() -> str:
    """The language that is spoken now, of ``LANGUAGES``."""
    return _now


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Inside the block ``language`` is spoken, after it what was spoken before."""
    before = spoken()
    speak(language)
    try:
        yield
    finally:
        speak(before)


def say(message: str, /, **values: Any) -> str:
    """``message``, an English sentence, in the language spoken, its ``{names}`` filled with ``values``.

    >>> say("{count:,} cells", count=1234)
    '1,234 cells'
    """
    found = phrase(message)
    if not values:
        return found
    if _now == "en":
        return found.format(**values)
    return kept(
        BETWEEN_SIGNS.sub("", found.format(**values)), message.format(**{n: meant(v) for n, v in values.items()})
    )


def counted(count: int, noun: str) -> str:
    """A number of things: ``1 document``, ``1,000 documents``; in other languages as the catalogue's ``# noun`` says.

    >>> counted(2, "document")
    '2 documents'
    """
    form = phrase(f"# {noun}")
    return plural(count, noun) if form == f"# {noun}" else kept(form.format(count=count), plural(count, noun))


def phrase(text: str) -> str:
    """Words that somebody hands over, a table's head or the name of a curve: in the language spoken where it has them.

    A lesson may have put them together: ``f"random, seed {seed}"`` is found under ``random, seed {seed}``. Words that
    were said in another language are English again where English is spoken: a figure may have to, for want of a font.

    >>> phrase("nobody translated this")
    'nobody translated this'
    """
    if _now == "en":
        return meant(text)
    found = catalogue(_now).get(text)
    return kept(put_together(_now, text) if found is None else found, meant(text))


def kept(said: str, english: str) -> str:
    """``said``, which knows its ``english``."""
    words = Said(said)
    words.english = english
    return words


def meant(value: Any) -> Any:
    """The English of words that were said in another language; anything else as it is."""
    return value.english if isinstance(value, Said) else value


def capital(words: str) -> str:
    """``words`` as a sentence begins: a capital in English, as they are in a language that has none.

    >>> capital("varlen")
    'Varlen'
    """
    return words[:1].upper() + words[1:] if _now == "en" else words


def listed(things: Iterable[str]) -> str:
    """Things one after the other: ``70, 300``; in Chinese ``70、300``.

    >>> listed(["note", "essay"])
    'note, essay'
    """
    found = list(things)
    joined = say(", ").join(found)
    return joined if _now == "en" else kept(joined, ", ".join(map(meant, found)))


def put_together(language: str, text: str) -> str:
    """``text`` as a lesson's f-string wrote it, in ``language``, or as it is where no lesson writes such a one."""
    for pattern, chinese, holes in patterns(language):
        if found := pattern.fullmatch(text):
            for hole, words in zip(holes, map(phrase, found.groups()), strict=True):
                chinese = chinese.replace(hole, words)
            return chinese
    return text


@cache
def patterns(language: str) -> list[tuple[re.Pattern[str], str, list[str]]]:
    """What finds each f-string of the lessons, its words in ``language``, and what stands between its braces."""
    return [
        (re.compile("(.+?)".join(map(re.escape, HOLE.split(english)))), words, HOLE.findall(english))
        for path in sorted((HERE / language / "lessons").glob("*.toml"))
        for english, words in tomllib.loads(path.read_text(encoding="utf-8")).items()
        if HOLE.search(english)
    ]


@cache
def catalogue(language: str) -> dict[str, str]:
    """English -> the words of ``language``, of all its files."""
    found: dict[str, str] = {}
    for path in sorted((HERE / language).rglob("*.toml")):
        found |= tomllib.loads(path.read_text(encoding="utf-8"))
    return found
