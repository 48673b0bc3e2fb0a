"""The parameters of a notebook: what its cell says of them, and whether given values fit.

They are the plain ``name: type = literal`` lines of the one cell tagged ``parameters``. ``run`` and ``walkthrough``
check names and values before anything runs. papermill itself only warns about a name that it does not find, so a slip
would run the defaults in silence: the first cell below the parameters calls ``check_parameters``, which refuses it in
one sentence.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from varlen_lab.config.text import load_config
from varlen_lab.course.beginning import begin_lesson
from varlen_lab.course.explaining import explain_errors
from varlen_lab.errors import InputError, nearest
from varlen_lab.language.saying import LANGUAGES, speak, speaking

INJECTED = "# Parameters"  # the first line of the cell that papermill puts below the parameters


@dataclass(frozen=True)
class Parameter:
    """One line of the cell: ``default`` is ``...`` where it is not known without running it, ``type`` as written."""

    default: Any
    type: str

    def takes(self, value: Any) -> bool:
        """Whether ``value`` is of the type, or one that Python makes it of without loss: 1 for 1e-3, not True for 1."""
        return not self.type or any(is_of(value, one.strip()) for one in self.type.split("|"))


def is_of(value: Any, kind: str) -> bool:
    """Whether ``value`` is of the type that is written ``int``, ``float``, ``None``, ``list[int]``, …"""
    kind, _, inner = kind.removesuffix("]").partition("[")
    if inner:
        return is_of(value, kind) and all(is_of(one, inner) for one in value)
    return type(value).__name__ in {"None": ("NoneType",), "float": ("float", "int")}.get(kind, (kind,))


class UnfitParameter(InputError):
    """A parameter that the notebook does not have, or does not take; a notebook shows the sentence alone."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"error: {self}"]


def read_parameters(source: str, where: str) -> dict[str, Parameter]:
    """The parameters in the text of a cell; InputError, which names ``where``, for text that is no Python."""
    try:
        statements = ast.parse(source).body
    except SyntaxError as problem:
        raise InputError(
            f"{where}: the parameters cell is not plain Python (line {problem.lineno}); "
            "keep it to lines like quick: bool = False."
        ) from None
    found: dict[str, Parameter] = {}
    for node in statements:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            value = literal(node.value, otherwise=...)
            if isinstance(node, ast.AnnAssign):
                kind = ast.unparse(node.annotation)
            else:
                kind = "" if value is None or value is ... else type(value).__name__
            found |= {target.id: Parameter(value, kind) for target in targets if isinstance(target, ast.Name)}
    return found


def refuse_unfit(where: str, known: Mapping[str, Parameter], given: Mapping[str, Any]) -> None:
    """UnfitParameter for a name that is not ``known``, a value of another type, a device or language there is not."""
    for name, value in given.items():
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has no cell tagged parameters"
            raise UnfitParameter(f"{where} has no parameter {name!r}; {has}{nearest(name, known)}.")
        if value is not ... and not known[name].takes(value):
            as_in = "" if known[name].default is ... else f", as in {known[name].default!r}"
            raise UnfitParameter(f"{where}: {name} is {value!r}, it must be {known[name].type}{as_in}.")
    if "device" in given:
        refuse_missing_device(given["device"])
    if "language" in given and known["language"].default in tuple(LANGUAGES):  # else of something else
        refuse_unspoken(given["language"])


def refuse_unspoken(language: Any) -> None:
    """UnfitParameter for a language that there is not."""
    try:
        with speaking(language):
            pass
    except InputError as problem:
        raise UnfitParameter(str(problem)) from None


def refuse_missing_device(device: str) -> None:
    """UnfitParameter where ``device`` is no device, or none of this machine."""
    from varlen_lab.models.building import resolve_device  # imports torch

    try:
        resolve_device(load_config("tiny_llama_full_docstrings_e1").replace(device=device))
    except InputError as problem:
        raise UnfitParameter(str(problem)) from None


def check_parameters() -> None:
    """In a notebook, in the cell below its parameters: UnfitParameter where papermill was given what does not fit.

    Reads the two cells that ran just before this one. Run by hand, or outside a notebook, it says nothing. From then on
    the notebook says in a sentence what ``explaining`` knows a sentence for, and computes as ``beginning`` says.
    """
    import builtins

    shell = getattr(builtins, "get_ipython", lambda: None)()
    cells = list(shell.user_ns.get("In", [])) if shell else []
    if shell:
        begin_lesson()
        speak_as_told(shell.user_ns)
    if hasattr(shell, "set_custom_exc"):
        explain_errors(shell)
    if len(cells) < 3 or not cells[-2].lstrip().startswith(INJECTED):
        return
    try:
        known, given = (read_parameters(cell, "this notebook") for cell in cells[-3:-1])
    except InputError:  # magic lines: not the cell that papermill knows
        return
    refuse_unfit("this notebook", known, {name: one.default for name, one in given.items()})


def speak_as_told(names: Mapping[str, Any]) -> None:
    """Speak the ``language`` of a notebook's parameters; a line where figures cannot, for want of a font.

    UnfitParameter for a language that there is not.
    """
    language = names.get("language", "en")
    refuse_unspoken(language)
    speak(language)
    if language == "zh":
        from varlen_lab.viz.style import NO_FONT, chinese_font  # imports matplotlib

        if chinese_font() is None:
            print(NO_FONT)


def pairs_of(words: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """``["steps", "50", "seed=1"]`` as ``{"steps": 50, "seed": 1}``, and the words that name no parameter.

    A word ``name=value`` is a pair; any other takes the next word as its value.
    """
    rest, pairs = list(words), {}
    while rest:
        name, sign, value = rest[0].partition("=")
        if not sign and len(rest) == 1:
            break
        used = 1 if sign else 2
        if not name.isidentifier():
            raise InputError(f"-p {rest[0]}: {name!r} is not a name; write -p steps=50, or -p steps 50.")
        pairs[name] = value_of(value if sign else rest[1])
        rest = rest[used:]
    return pairs, rest


def value_of(word: str) -> Any:
    """A word of the command line as a Python value: ``20`` int, ``true`` bool, anything else text."""
    constants = {"true": True, "false": False, "none": None}
    return constants[word.lower()] if word.lower() in constants else literal(word, otherwise=word)


def literal(source: str | ast.expr, otherwise: Any) -> Any:
    """The value of a Python literal; ``otherwise`` when ``source`` is none."""
    try:
        return ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return otherwise
