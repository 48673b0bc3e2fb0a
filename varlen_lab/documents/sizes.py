"""What a chat template asks for in one call or operation, looked at before it is done: nothing of endless size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Sized
from typing import Any

from varlen_lab.documents.budget import HOLDS, LEFT, MOST_BITS, MOST_LETTERS, SMALL, TEXT, Budget, Endless, step

MOST_TOGETHER = 100 * MOST_LETTERS  # a size times another
MOST_NUMBER = 1 << MOST_BITS
MOST_ROUGH = 100_000  # letters of what is gone over many times
WIDTH = re.compile(r"%(\([^)]*\))?[-+ #\d.]*(\d{5}|\*)|\{[^{}]*:[^{}]*(\d{5}|\{)")  # in a format: as many letters
SIZED = frozenset(  # calls in which a number is a size
    ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "truncate", "batch", "slice", "round")
) | {"to_bytes", "tojson", "safe_range"}
FOR_EACH = frozenset(  # one for each letter, or each value
    ("join", "indent", "expandtabs", "wordwrap", "translate", "strip", "lstrip", "rstrip", "trim")
)
MEASURED: tuple[type[Any], ...] = *TEXT, *HOLDS, range
COUNTED: tuple[type[Any], ...] = int, *MEASURED
ROUGH = frozenset(("pprint", "striptags", "urlize", "encode", "decode"))
PLAIN = re.compile("(utf.?(8|16|32)|ascii|latin.?1|strict|ignore|replace).*", re.IGNORECASE)  # not rough


def taken(name: str, given: Sequence[Any]) -> Sequence[Any]:
    """What is given to a call; what it would make a list of without being asked, made one already."""
    return [list(one) if isinstance(one, Iterator) else one for one in given] if name in FOR_EACH else given


def check_call(name: str, *given: Any) -> None:
    """Endless where a call of this name would make what is endless: by a size, a number of times, a long list.

    A number is a size in some calls and a value in all others: an id in the call of a tool may have any digits.
    """
    for one in given:
        if len(one) >= SMALL if type(one) is str else isinstance(one, COUNTED):
            break
    else:
        return
    numbers = [abs(one) for one in given if isinstance(one, int)]
    sizes = [len(one) for one in given if isinstance(one, MEASURED)]  # Jinja's context has none
    if name == "translate":
        sizes += [len(part) for one in given if isinstance(one, dict) for part in one.values() if isinstance(part, str)]
    check(max(numbers, default=0), MOST_LETTERS if name in SIZED else MOST_NUMBER)
    if name in FOR_EACH:
        longest = sorted([1, 1, *sizes, *numbers])[-2:]
        check(longest[0] * longest[1], MOST_TOGETHER)
    elif name == "replace":
        texts = [one for one in given if isinstance(one, TEXT)]
        if len(texts) == 3 and type(texts[0]) in TEXT and isinstance(texts[1], type(texts[0])):
            check(texts[0].count(texts[1]) * len(texts[2]), MOST_TOGETHER)  # type: ignore[arg-type]
        else:  # a number is written before it is replaced
            check(max(sizes, default=0) ** 2, MOST_TOGETHER)
    elif name == "tojson":  # what parts the values, and what stands in front of each
        check(weight(given[0]) * sum([*sizes_of(given[1:]), *numbers]), MOST_TOGETHER)
    elif name == "sum":  # of lists: each is copied as often as others follow
        check(sum(isinstance(one, list | tuple) for one in given[2:]) * max(map(weight, given)) ** 2, MOST_TOGETHER)
    elif name in ROUGH and not all(PLAIN.fullmatch(one) for one in given[1:] or ["?"] if isinstance(one, str)):
        check(max(map(weight, given)), MOST_ROUGH)


def check_format(text: str, *given: Any) -> None:
    """Endless for a format with a width of five digits and more, or one given beside it; or with many long values."""
    text = str(text)
    if WIDTH.search(text.replace("{{", "").replace("}}", "")):
        raise Endless
    check((text.count("%") + text.count("{")) * max(map(weight, given), default=0), 10 * MOST_LETTERS)


def check_operator(kind: str, left: Any, right: Any) -> None:
    """Endless where an operation would make what is endless."""
    step()
    check(max(abs(one) for one in (0, left, right) if isinstance(one, int)), MOST_NUMBER)
    if kind == "%" and isinstance(left, TEXT):
        check_format(left if isinstance(left, str) else left.decode("latin-1"), right)
    if kind == "**" and isinstance(left, int) and isinstance(right, int):
        check(left.bit_length() * abs(right), 10_000)
    if kind == "*":
        for one, times in ((left, right), (right, left)):
            if isinstance(one, Sized) and isinstance(times, int):
                check(len(one) * times, MOST_LETTERS)
    if kind == "+" and isinstance(left, Sized) and isinstance(right, Sized):
        check(len(left) + len(right), MOST_LETTERS)


def check(size: int, most: int) -> None:
    """Endless for a size above what may be."""
    if size > most:
        raise Endless


def weight(one: Any) -> int:
    """Letters and values of one, if it were written out."""
    return (LEFT.get() or Budget()).weight(one)


def sizes_of(given: Any) -> list[int]:
    """Letters of the texts that are given, also in pairs."""
    texts = [part for one in given for part in (one if isinstance(one, list | tuple) else [one])]
    return [len(text) for text in texts if isinstance(text, TEXT)]
