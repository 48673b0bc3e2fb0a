"""A tokenizer's chat template comes to an end: its steps are counted, and nothing endless is made for it.

The template is a program of its publisher. transformers runs it in Jinja's sandbox, which keeps it from files and
names, not from loops inside loops. Counted are the rounds of loops, calls, and each thousand letters that are put
together: a number of steps is the same on every machine. What costs more than its steps say (a text is looked through
for a word) is ended by a time, which a template that means no harm never meets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache, wraps
from typing import Any

from varlen_lab.documents.budget import LEFT, MOST_LETTERS, limited, step, used, written
from varlen_lab.documents.sizes import check, check_call, check_format, check_operator, taken

# tests that ask for a kind, however large what they are asked about
AT_ONCE = frozenset(("defined", "undefined", "none", "string", "mapping", "number", "integer", "float", "boolean"))
AT_ONCE |= {"true", "false", "sequence", "iterable", "callable", "sameas", "odd", "even"}


def counted(items: Iterable[Any]) -> Iterator[Any]:
    """The items of a loop, a step each."""
    for item in items:
        step()
        yield item


def together(parts: list[Any]) -> Any:
    """``a ~ b``."""
    texts = [str(part) for part in parts]
    check(sum(map(len, texts)), MOST_LETTERS)
    return step("".join(texts))


def named(words: dict[str, Any]) -> list[Any]:
    """What a template gives to a call by name; Jinja itself hands its variables on, under names of its own."""
    return [one for name, one in words.items() if not name.startswith("_")]


def checked(name: str, function: Callable[..., Any], steps: int) -> Callable[..., Any]:
    """A filter or a test that is asked for nothing endless."""

    @wraps(function)
    def bounded(*given: Any, **words: Any) -> Any:
        given = tuple(taken(name, given))
        number = bool(given) and isinstance(given[0], int)  # one that is written is no size
        check_call(name, *((str(given[0]),) if number else given[:1]), *given[1:], *named(words))
        if name == "format":
            check_format(*given, *named(words))
        return step(function(*given, **words), steps)

    return bounded


@lru_cache
def environment_of(kind: type) -> type:
    """Jinja's environment of this kind, in which steps are counted."""
    from jinja2 import nodes
    from jinja2.runtime import LoopContext
    from jinja2.visitor import NodeTransformer

    def written_out(node: Any) -> bool:
        """Whether it stands in the template, a value or a list of values."""
        return isinstance(node, nodes.Const) or (
            isinstance(node, nodes.List | nodes.Tuple) and all(isinstance(one, nodes.Const) for one in node.items)
        )

    class Counting(NodeTransformer):
        """The tree with loops, ``a ~ b`` and all that is made without a call through filters of ours."""

        def through(self, name: str, node: Any) -> Any:
            return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)

        def visit_For(self, node: Any, *given: Any) -> Any:
            self.generic_visit(node)
            node.iter = self.through("counted_steps", node.iter)
            return node

        def visit_Concat(self, node: Any, *given: Any) -> Any:
            self.generic_visit(node)
            return self.through("counted_letters", nodes.List(node.nodes, lineno=node.lineno))

        def visit_Output(self, node: Any, *given: Any) -> Any:
            self.generic_visit(node)
            plain = nodes.TemplateData, nodes.Const
            node.nodes = [one if isinstance(one, plain) else self.through("counted_written", one) for one in node.nodes]
            return node

        def visit_Compare(self, node: Any, *given: Any) -> Any:
            short = len(node.ops) == 1 and written_out(node.ops[0].expr)  # beside what stands in the template
            self.generic_visit(node)
            return node if short else self.through("counted_used", node)

        def visit_Getitem(self, node: Any, *given: Any) -> Any:
            self.generic_visit(node)
            return self.through("counted_used", node) if isinstance(node.arg, nodes.Slice) else node

        def visit_List(self, node: Any, *given: Any) -> Any:
            return node if written_out(node) else self.through("counted_made", self.generic_visit(node))

        visit_Dict = visit_List

        def visit_Tuple(self, node: Any, *given: Any) -> Any:
            return self.visit_List(node) if node.ctx == "load" else self.generic_visit(node)

        def visit_AssignBlock(self, node: Any, *given: Any) -> Any:
            self.generic_visit(node)
            node.filter = nodes.Filter(node.filter, "counted_made", [], [], None, None, lineno=node.lineno)
            return node

    class Limited(kind.template_class):  # type: ignore[misc,name-defined]
        def render(self, *given: Any, **words: Any) -> str:
            with limited():
                return super().render(*given, **words)

    class Bounded(kind):  # type: ignore[misc]
        intercepted_binops = frozenset({"*", "**", "%", "+", "-", "/", "//"})
        template_class = Limited

        def _parse(self, *given: Any) -> Any:
            return Counting().visit(super()._parse(*given))

        def call_binop(self, context: Any, kind: str, left: Any, right: Any) -> Any:
            if kind == "+" and type(left) is type(right) is str and len(left) + len(right) <= MOST_LETTERS:
                return step(left + right)  # what templates do most
            check_operator(kind, left, right)
            return step(super().call_binop(context, kind, left, right))

        def call(self, context: Any, function: Any, /, *given: Any, **words: Any) -> Any:
            if isinstance(function, LoopContext):  # the loop once more, over other items
                given = tuple(map(counted, given))
            function_itself = getattr(function, "__wrapped__", function)
            owner, name = getattr(function_itself, "__self__", None), getattr(function_itself, "__name__", "")
            given = tuple(taken(name, given))
            check_call(name, *([] if callable(owner) else [owner]), *given, *named(words))
            if isinstance(owner, str) and name.startswith("format"):
                check_format(owner, *given, *named(words))
            return step(super().call(context, function, *given, **words))

    return Bounded


@lru_cache
def namespace_of(kind: type) -> type:
    """Jinja's namespace, which counts when it is written: it may hold another one twice, and can be changed."""

    class Namespace(kind):  # type: ignore[misc]
        def __repr__(self) -> str:
            return step(step() or super().__repr__())

    return Namespace


@lru_cache
def compiled(text: str, own: Callable[[str], Any]) -> Any:
    """A template as transformers would compile it (``own``), in an environment that counts."""
    environment: Any = copy.copy(own("").environment)  # not of the text: Jinja computes constants when it compiles
    environment.__class__ = environment_of(environment.__class__)
    environment.cache = None
    environment.filters = {name: checked(name, one, 1) for name, one in environment.filters.items()}
    environment.tests |= {name: checked(name, one, 0) for name, one in environment.tests.items() if name not in AT_ONCE}
    environment.globals = {name: one for name, one in environment.globals.items() if name != "lipsum"}  # makes up text
    environment.globals["namespace"] = namespace_of(environment.globals["namespace"])
    environment.filters |= {"counted_steps": counted, "counted_letters": together, "counted_made": step}
    environment.filters |= {"counted_used": used, "counted_written": written}
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


def bounded() -> AbstractContextManager[None]:
    """Inside, each dialogue that a template writes raises Endless when its budget is spent."""
    install()
    return limited()
