"""The capstone: what is wrong with ``stranger.py``, and which of its faults a reader found.

``stranger.py`` beside this file is wrong on purpose, and says nothing of it: it is what the reader is shown. Its faults
are named here, by pieces of its lines, so that no number goes stale.
"""

from __future__ import annotations

import inspect
import unicodedata
from collections.abc import Mapping
from html import escape
from types import ModuleType
from typing import Any, NamedTuple

from varlen_lab.course.puzzles import stranger
from varlen_lab.course.verdicts import Verdict, Wrong, judging, not_yet, right, shown
from varlen_lab.language.saying import phrase, say


class Planted(NamedTuple):
    """A fault of the script: the audit's name for it, pieces of the lines where it is, Chinese names, a hint."""

    name: str
    lines: tuple[str, ...]
    chinese: tuple[str, ...]
    hint: str


FAULTS = (
    Planted(
        "border label",
        ("labels = ids.clone()",),
        ("边界标签", "标签", "接缝标签", "接缝"),
        "in collate(): who is asked to predict the first token of a document?",
    ),
    Planted(
        "attention_mask",
        ("mask = torch.ones_like(ids)", '"attention_mask": mask'),
        ("注意力掩码", "掩码", "全1掩码"),
        "in collate(): one thing it returns says nothing, and switches something off",
    ),
    Planted(
        "use_cache",
        ("losses = [model(**batch).loss",),
        ("缓存", "kv缓存", "没关缓存", "没有关缓存"),
        "in train(): what is left unsaid when the model is called?",
    ),
    Planted(
        "mean of means",
        ("return sum(losses) / len(losses)", "loss = step_loss(losses, counts)"),
        ("均值的均值", "平均的平均", "平均值的平均", "均值再取均值", "平均再平均"),
        "in a step of two rows with 10 and 200 trained tokens: what does one token of each weigh?",
    ),
    Planted(
        "recurrent layer",
        ("hidden.pow(2).mean(1", "return self.inner(hidden /", "layers[1].mlp = Norm"),
        ("循环层", "归一化", "归一化层", "norm层"),
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
CACHE = ("cache", "缓存")  # words that tell the fault of the cache from that of the mask, on the line of both


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
    """The fault that a finding means: by the number of its line, or by the audit's name for it, in Chinese too."""
    if isinstance(key, str):
        word = key.strip().lower().replace("-", " ")
        close = word.replace(" ", "")
        return next((one for one in FAULTS if one.name in (word, word.replace(" ", "_")) or close in one.chinese), None)
    number = int(key)
    here = [one for one in FAULTS if any(script.line_of(piece) == number for piece in one.lines)]
    if here and here[0].name == "attention_mask" and any(word in str(said).lower() for word in CACHE):
        return next(one for one in FAULTS if one.name == "use_cache")  # what collate() returns could turn it off
    return here[0] if here else None


def why_sound(key: Any, script: Script) -> str:
    """Why what a finding accuses is right."""
    if isinstance(key, str):
        found = {"key": key, "names": ", ".join(repr(one.name) for one in FAULTS[:2])}
        return say("{key!r} is a name that the audit does not give here (its names are such as {names})", **found)
    number = int(key)
    if not 1 <= number <= len(script.lines):
        return say("the script has no line {number}, its last is {last}", number=number, last=len(script.lines))
    line = script.lines[number - 1]
    why = next((why for piece, why in SOUND.items() if piece in line), OTHERWISE)
    return say("line {number} is right: {why}", number=number, why=phrase(why))


def unlined(key: Any) -> Any:
    """22 for ``"line 22"``, ``"第 22 行"`` and ``"22"``, other keys as they are."""
    if not isinstance(key, str):
        return key
    word = unicodedata.normalize("NFKC", key).strip().lower().removeprefix("line")
    word = word.removeprefix("第").removeprefix("行").removesuffix("行").strip()
    return int(word) if word.isdecimal() else key


@judging
def check_findings(findings: Mapping[Any, Any]) -> Verdict:
    """``findings``: line number, or the audit's name of a fault -> what is wrong, in any words."""
    if not isinstance(findings, Mapping):
        words = "a dict of line numbers is wanted, {{22: 'why'}}; this is {answer}."
        raise Wrong(not_yet(words, answer=shown(findings)))
    bad = [key for key in findings if isinstance(key, bool) or not isinstance(key, (int, str))]
    if bad:
        words = "a finding is named by the number of its line, this key is {key}."
        raise Wrong(not_yet(words, key=shown(bad[0])))
    script = stranger_script()
    findings = {unlined(key): said for key, said in findings.items()}
    meant = {key: fault_named(key, said, script) for key, said in findings.items()}
    found = {one.name for one in meant.values() if one is not None}
    missed = [one for one in FAULTS if one.name not in found]
    alarms = [why_sound(key, script) for key, one in meant.items() if one is None]
    counts = {"found": len(found), "count": len(FAULTS), "names": ", ".join(sorted(found))}
    if not missed and not alarms:
        return right("{found} of {count} faults found, and no line accused that is right.", **counts)
    first = (
        say("{found} of {count} faults found ({names})", **counts)
        if found
        else say("0 of {count} faults found", **counts)
    )
    said = [first, *(say("A false alarm: {why}", why=why) for why in alarms)]
    said += [say("Look {hint}", hint=phrase(missed[0].hint))] if missed else []
    stop = say(". ")
    return not_yet(stop.join(said) + ("" if said[-1].endswith(("?", "？")) else stop.strip()))


# -------------------------------------------------------------------------------------------------- a mended script
