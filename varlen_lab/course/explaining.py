"""Errors in a lesson's kernel, said in a sentence: what a reader did, and what to do now.

``check_parameters`` asks for it, so it holds from the first cells on. What the library refuses (``InputError``) is its
one sentence, and a name that a cell does not find is mostly a cell that was skipped. All other errors keep their
traceback.
"""

from __future__ import annotations

import re
import traceback
from types import TracebackType
from typing import Any

from varlen_lab.errors import InputError, closest
from varlen_lab.language.saying import say


def explain_errors(shell: Any) -> None:
    """From now on the IPython ``shell`` shows a sentence for both; papermill still sees the cell fail."""
    shell.set_custom_exc((NameError, InputError), show_sentence)


def show_sentence(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
    tb_offset: int | None = None,
) -> list[str] | None:
    """What IPython calls in place of its traceback; returns what it showed."""
    if isinstance(error, NameError) and trace and "ipykernel" not in traceback.extract_tb(trace)[-1].filename:
        return shell.showtraceback((kind, error, trace), tb_offset=tb_offset)  # raised inside a library
    lines = [say("error: {sentence}", sentence=sentence(error, shell.user_ns))]
    shell._showtraceback(kind, error, lines)
    return lines


def sentence(error: BaseException, names: dict[str, Any]) -> str:
    """One sentence for ``error``, raised in a kernel that has these ``names``."""
    if not isinstance(error, NameError):
        return str(error)
    found = re.search(r"name '(\w+)'", str(error))
    if found is None:
        return str(error)
    close = closest(found[1], [name for name in names if not name.startswith("_")])
    hint = say("; did you mean {name!r}?", name=close) if close else ""
    words = (
        "{name} is not there yet; run the cells above first (in JupyterLab: Run, Run All Above Selected Cell){hint}."
    )
    return say(words, name=found[1], hint=hint)
