"""A tokenizer's chat template comes to an end: its steps are counted, and nothing endless is made for it.

The template is a program of its publisher. transformers runs it in Jinja's sandbox, which keeps it from files and
names, not from loops inside loops. Counted are the rounds of loops, calls, and each thousand letters that are put
together; a number of steps is the same on every machine, a time is not. A list that holds another one twice is small
until it is written out: what is made is weighed by that.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any

MOST_STEPS = 1_000_000  # of a dialogue
MOST_LETTERS = 10_000_000  # of one text or list that is made at once
WIDTH = re.compile(r"%(\([^)]*\))?[-+ #\d.]*(\d{5}|\*)|\{[^{}]*:[^{}]*\d{5}")  # in a format: as many letters
SIZED = frozenset(  # calls in which a number is a size
    ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "truncate", "batch", "slice", "round")
) | {"to_bytes", "tojson", "safe_range"}
FOR_EACH = frozenset(("replace", "join", "indent", "expandtabs", "wordwrap", "translate"))  # one for each letter
HOLDS = list | tuple | dict  # what holds values in Jinja


@dataclass
class Budget:
    """The steps that are left to templates, and what each list and dict weighs: by its id, for it is kept beside."""

    steps: int
    weighed: dict[int, tuple[Any, int]] = field(default_factory=dict)

    def weight(self, made: Any) -> int:
        """Letters and values of what a template made, if it were written out."""
        waiting = [made] if isinstance(made, HOLDS) else []
        while waiting:
            one = waiting[-1]
            parts = [*one, *one.values()] if isinstance(one, dict) else one
            unknown = [part for part in parts if isinstance(part, HOLDS) and id(part) not in self.weighed]
            if unknown:
                waiting += unknown
            else:
                self.weighed[id(one)] = one, 1 + sum(map(self.known, parts))
                waiting.pop()
        return self.known(made)

    def known(self, part: Any) -> int:
        """``weight`` of what was weighed, or holds nothing."""
        return self.weighed[id(part)][1] if isinstance(part, HOLDS) else len(part) if isinstance(part, str) else 1


LEFT: ContextVar[Budget | None] = ContextVar("what is left to templates", default=None)


class Endless(Exception):
    """A template that does not come to an end."""

    def __init__(self) -> None:
        super().__init__(f"it does not come to an end within {MOST_STEPS:,} steps")


def step(made: Any = None) -> Any:
    """Count a step, and those that ``made`` has cost; what was made."""
    left = LEFT.get()
    if left is not None:
        weight = left.weight(made)
        left.steps -= 1 + weight // 1000
        if left.steps < 0 or weight > MOST_LETTERS:
            raise Endless
    return made


def counted(items: Iterable[Any]) -> Iterator[Any]:
    """The items of a loop, a step each."""
    for item in items:
        step()
        yield item


def together(parts: list[Any]) -> Any:
    """``a ~ b``."""
    texts = [str(part) for part in parts]
    if sum(map(len, texts)) > MOST_LETTERS:
        raise Endless
    return step("".join(texts))


def wide(text: str) -> bool:
    """Whether a format asks for a width of five digits and more, or for one that is given beside it."""
    return bool(WIDTH.search(text))


def small(name: str, *given: Any) -> None:
    """Endless where a call of this name would make what is endless: by a size, a number of times, a long list.

    A number is a size in some calls and a value in all others: an id in the call of a tool may have any digits.
    """
    numbers = [abs(one) for one in given if isinstance(one, int)]
    sizes = [
        len(one) for one in given if isinstance(one, str | bytes | list | tuple | dict)
    ]  # Jinja's context has none
    sizes += [len(part) for one in given if isinstance(one, dict) for part in one.values() if isinstance(part, str)]
    if name in SIZED and any(one > MOST_LETTERS for one in numbers):
        raise Endless
    if name in FOR_EACH:
        longest = sorted([*sizes, *numbers])[-2:]
        if len(longest) == 2 and longest[0] * longest[1] > 100 * MOST_LETTERS:
            raise Endless
    for one in given:
        if isinstance(one, list | tuple) and sum(len(part) for part in one if isinstance(part, str)) > MOST_LETTERS:
            raise Endless


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is asked for nothing endless."""
    name = function.__name__.removeprefix("do_")

    @wraps(function)
    def bounded(*given: Any, **words: Any) -> Any:
        value = () if given and isinstance(given[0], int) else given[:1]  # a number that is written is no size
        small(name, *value, *given[1:], *words.values())
        if name == "format" and wide(str(given[0])):
            raise Endless
        return step(function(*given, **words))

    return bounded


def operator(kind: str, left: Any, right: Any) -> None:
    """Endless where an operation would make what is endless."""
    step()
    if kind == "%" and isinstance(left, str) and wide(left):
        raise Endless
    if kind == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > 10_000:
        raise Endless
    if kind == "*":
        for one, times in ((left, right), (right, left)):
            if isinstance(one, Sized) and isinstance(times, int) and len(one) * times > MOST_LETTERS:
                raise Endless
    if kind == "+" and isinstance(left, Sized) and isinstance(right, Sized) and len(left) + len(right) > MOST_LETTERS:
        raise Endless


@lru_cache
def environment_of(kind: type) -> type:
    """Jinja's environment of this kind, in which steps are counted."""
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    class Counting(NodeTransformer):
        """The tree with loops, ``a ~ b`` and all that is made without a call through filters of ours."""

        def visit_For(self, node: Any, *given: Any) -> Any:
            self.generic_visit(node)
            node.iter = nodes.Filter(node.iter, "counted_steps", [], [], None, None, lineno=node.lineno)
            return node

        def visit_Concat(self, node: Any, *given: Any) -> Any:
            self.generic_visit(node)
            parts = nodes.List(node.nodes, lineno=node.lineno)
            return nodes.Filter(parts, "counted_letters", [], [], None, None, lineno=node.lineno)

        def visit_List(self, node: Any, *given: Any) -> Any:
            self.generic_visit(node)
            return nodes.Filter(node, "counted_made", [], [], None, None, lineno=node.lineno)

        visit_Dict = visit_List

        def visit_Tuple(self, node: Any, *given: Any) -> Any:
            return self.visit_List(node) if node.ctx == "load" else self.generic_visit(node)

        def visit_AssignBlock(self, node: Any, *given: Any) -> Any:
            self.generic_visit(node)
            node.filter = nodes.Filter(node.filter, "counted_made", [], [], None, None, lineno=node.lineno)
            return node

    class Bounded(kind):  # type: ignore[misc]
        intercepted_binops = frozenset({"*", "**", "%", "+"})

        def _parse(self, *given: Any) -> Any:
            return Counting().visit(super()._parse(*given))

        def call_binop(self, context: Any, kind: str, left: Any, right: Any) -> Any:
            operator(kind, left, right)
            return step(super().call_binop(context, kind, left, right))

        def call(self, context: Any, function: Any, /, *given: Any, **words: Any) -> Any:
            function_itself = getattr(function, "__wrapped__", function)
            owner, name = getattr(function_itself, "__self__", None), getattr(function_itself, "__name__", "")
            small(name, *([] if callable(owner) else [owner]), *given, *words.values())
            if isinstance(owner, str) and name.startswith("format") and wide(owner):
                raise Endless
            return step(super().call(context, function, *given, **words))

    return Bounded


@lru_cache
def compiled(text: str, own: Callable[[str], Any]) -> Any:
    """A template as transformers would compile it (``own``), in an environment that counts."""
    environment: Any = copy.copy(own("").environment)  # not of the text: Jinja computes constants when it compiles
    environment.__class__ = environment_of(environment.__class__)
    environment.cache = None
    environment.filters = {name: checked(one) for name, one in environment.filters.items()}
    environment.globals = {name: one for name, one in environment.globals.items() if name != "lipsum"}  # makes up text
    environment.filters |= {"counted_steps": counted, "counted_letters": together, "counted_made": step}
    return environment.from_string(text)


def install() -> None:
    """Have transformers ask us for a template while ``bounded`` is open, and itself otherwise."""
    from transformers.utils import chat_template_utils as theirs

    own = getattr(theirs, "_compile_jinja_template", None)
    if own is None or hasattr(own, "asks_varlen_lab"):
        return

    @wraps(own)
    def compile_template(text: str) -> Any:
        return own(text) if LEFT.get() is None else compiled(text, own)

    compile_template.asks_varlen_lab = True  # type: ignore[attr-defined]
    theirs._compile_jinja_template = compile_template


@contextmanager
def bounded(dialogues: int) -> Iterator[None]:
    """Inside, templates that write so many dialogues raise Endless after their steps."""
    install()
    token = LEFT.set(Budget(MOST_STEPS * max(1, dialogues)))
    try:
        yield
    finally:
        LEFT.reset(token)
