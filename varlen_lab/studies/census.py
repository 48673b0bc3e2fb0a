"""Every causal language model class of the installed transformers, tiny, in each style of packed batch.

``census()``   the outcomes of all classes, or of some, from several processes. No class is left out by name.
``as_json``    what ``docs/census.json`` keeps of them: verdicts, causes, layers, differences to one digit, versions
``changes``    which verdicts two of these have different, in two lines each

    varlen-lab census [CLASS ...] [--batch STYLE] [--attn NAME] [--json]
"""

from __future__ import annotations

import io
import math
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context
from typing import Any

import torch

from varlen_lab import __version__
from varlen_lab.errors import InputError, unknown_choice
from varlen_lab.files.strict import strict_json
from varlen_lab.machine.processes import broken, refuse_unguarded
from varlen_lab.studies.one_class import LEAKS, LENGTHS, LIMIT, Outcome, verdicts_of
from varlen_lab.studies.registry import STYLES

FORMAT = 1  # of the JSON
CLASSES_A_PROCESS = 6  # a process takes as long to start as it measures these


def census(
    names: Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    attention: str | None = None,
    isolate: bool = True,
    processes: int | None = None,
) -> Iterator[list[Outcome]]:
    """For each causal language model class (or each of ``names``), in their order, an outcome a style.

    ``styles``: names of ``STYLES``, by default all. ``attention``: any ``attn_implementation`` in place of each style's
    own. ``isolate``: as for ``verdicts_of``. ``processes``: by default a core each; 1 works in this one. InputError for
    a name that is no causal language model of transformers, and for a style that there is not.
    """
    known = causal_lm_types()
    for name in names or ():
        if name not in known:
            raise unknown_class(name, known)
    for style in styles or ():
        if style not in STYLES:
            raise unknown_choice("style of batches", style, STYLES)
    names, styles = list(dict.fromkeys(names or known)), list(dict.fromkeys(styles or STYLES))
    measure = partial(verdicts_of, styles=styles, attention=attention, isolate=isolate)
    processes = processes or min(os.cpu_count() or 1, -(-len(names) // CLASSES_A_PROCESS))
    return map(measure, names) if processes == 1 else in_processes(measure, names, processes)


def in_processes(measure: Any, names: Sequence[str], processes: int) -> Iterator[list[Outcome]]:
    """What ``measure`` gives for each name, in order; InputError when a process was ended from outside.

    Ctrl-C, or closing the iterator, ends the processes at once.
    """
    refuse_unguarded("processes", processes)
    others = active_children()
    with ProcessPoolExecutor(processes, get_context("spawn"), prepare) as pool:
        with deaf():
            found = [pool.submit(measure, name) for name in names]
        try:
            for each in found:
                yield each.result()
        except BrokenProcessPool:
            raise broken("processes", processes) from None
        except BaseException:  # nobody waits for what is left, which is not cancelled: an ended pool minds that
            for process in active_children():
                if process not in others:
                    process.terminate()
            raise


@contextmanager
def deaf() -> Iterator[None]:
    """Processes that start meanwhile do not hear Ctrl-C, not even while they import: it is for the first process.

    In a thread that may not set signals nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a new process takes over
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def prepare() -> None:
    """One thread, for every core has a process of its own; Ctrl-C and words on stderr are for the first process."""
    torch.set_num_threads(1)
    sys.stderr = io.StringIO()  # such as which backend "auto" takes
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def unknown_class(name: str, known: Sequence[str]) -> InputError:
    """The error to raise for a name that is no ``model_type``; of a class it says which are."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    types = [each for each in known if CLASSES.get(each) == name]
    if not types:
        return unknown_choice("model_type", name, known)
    return InputError(f"{name} is the name in Python, and the census takes a model_type; say {' or '.join(types)}.")


def causal_lm_types() -> list[str]:
    """The ``model_type`` of every causal language model class of the installed transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


# ------------------------------------------------------------------------------------------------------- what is kept


def as_json(outcomes: Sequence[Sequence[Outcome]]) -> dict[str, Any]:
    """The outcomes of classes as a JSON document holds them: ``{class: {style: {"verdict": ...}}}`` and versions."""
    return {
        "format": FORMAT,
        "versions": versions(),
        "documents": LENGTHS,
        "limit": LIMIT,
        "classes": {each[0].name: {outcome.style: record(outcome) for outcome in each} for each in outcomes},
    }


def versions() -> dict[str, str]:
    """What the verdicts depend on."""
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "varlen_lab": __version__,
    }


def record(outcome: Outcome) -> dict[str, Any]:
    """One outcome for JSON, without what differs from machine to machine: the difference has one digit."""
    kept: dict[str, Any] = {"verdict": outcome.verdict}
    if outcome.difference is not None:
        kept["difference"] = float(f"{outcome.difference:.0e}") if math.isfinite(outcome.difference) else None
    if outcome.attention:
        kept["attention"] = outcome.attention
    if outcome.isolated:
        kept["isolated"] = list(outcome.isolated)
    if outcome.kinds:
        pairs = zip(outcome.kinds, outcome.layers, strict=True)
        kept["causes"] = [{"cause": kind, "layer": layer} for kind, layer in pairs]
    if outcome.words and outcome.verdict != LEAKS:  # those of a leak hold its size
        kept["words"] = outcome.words
    return kept


def written(kept: Mapping[str, Any]) -> str:
    """The text of a JSON document with a line for each class and style, so that a change is a line."""
    classes = [
        f"  {strict_json(name)}: {{\n"
        + ",\n".join(f"   {strict_json(style)}: {strict_json(one, ensure_ascii=False)}" for style, one in each.items())
        + "\n  }"
        for name, each in kept["classes"].items()
    ]
    head = [f" {strict_json(name)}: {strict_json(value)},\n" for name, value in kept.items() if name != "classes"]
    return "{\n" + "".join(head) + ' "classes": {\n' + ",\n".join(classes) + "\n }\n}\n"


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Two lines, old and new, for each verdict of ``now`` that is another one in ``before``; digits do not count.

    Both are documents of ``as_json``. A class or style that ``before`` does not have is new, and said to be.
    """
    lines = []
    for name, styles in now["classes"].items():
        for style, new in styles.items():
            old = before["classes"].get(name, {}).get(style)
            if old is None or old["verdict"] != new["verdict"]:
                lines.append(f"- {name}, {style}: {'not there' if old is None else told(old)}")
                lines.append(f"+ {name}, {style}: {told(new)}")
    return lines


def told(kept: Mapping[str, Any]) -> str:
    """One verdict and its reason in a line."""
    causes = ", ".join(f"{each['cause']} ({each['layer']})" for each in kept.get("causes", ()))
    reason = causes or kept.get("words", "")
    return f"{kept['verdict']}: {reason}" if reason else str(kept["verdict"])


if __name__ == "__main__":
    print("error: this file measures and prints nothing; say varlen-lab census.", file=sys.stderr)
    sys.exit(2)
