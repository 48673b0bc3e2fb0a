"""Lessons 02 and 03: a reader of config names, and a reader of config files that never runs them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from varlen_lab.config.names import name_parts
from varlen_lab.course.verdicts import Verdict, Wrong, call, in_case, judging, named, not_yet, right, shown
from varlen_lab.language.saying import phrase, say

UGLY = (  # name, and what a known mistake is told
    ("internlm_7b_full_oasst1_e3", "model, method, dataset and the number of epochs, in this order."),
    (
        "llama2_7b_qlora_alpaca_e3",
        "'lora' stands inside 'qlora': look for _qlora_, _lora_ or _full_ with both their underscores.",
    ),
    ("qwen1_5_0_5b_chat_full_alpaca_e3", "the model is all that stands before the method, underscores and all."),
    ("internlm_7b_full_alpaca_enzh_oasst1_e3", "a dataset may have underscores; it ends where _e and a number begin."),
    ("llama3_70b_instruct_qlora_alpaca_e3_2k_gpu8", "what follows the epochs, such as _2k_gpu8, is none of the four."),
    ("starcoder_qlora_stack_exchange_example", "_exchange and _example are no epochs: a number follows the e."),
)

TRAP = "VARLEN_LAB_PUZZLE_RAN"  # an environment variable that exists once a stranger's code has run
CODE = f"__import__('os').environ.setdefault('{TRAP}', 'yes')"
PLAIN: tuple[tuple[str, dict[str, Any], str], ...] = (  # text, its settings, and what a known mistake is told
    ("lr = 2e-5", {"lr": 2e-5}, "the value is a number, not its text: ast.literal_eval makes it one."),
    ("lr = 2e-5  # falls\n\nmax_epochs = 3\n", {"lr": 2e-5, "max_epochs": 3}, "comments and empty lines are nothing."),
    ("use_varlen_attn = True\nseed = -1", {"use_varlen_attn": True, "seed": -1}, "True and -1 are plain values, too."),
    (
        "questions = [\n  'a = b?',  # a comment\n  '上海?',\n]",
        {"questions": ["a = b?", "上海?"]},
        "a value may run over lines and hold an = sign: let ast.parse cut the text, not split.",
    ),
    ("model_config = {'model_type': 'llama'}", {"model_config": {"model_type": "llama"}}, "a dict is a plain value."),
    ("", {}, "a file with nothing in it holds no settings."),
)
REFUSED = (  # text, and what to say when it is not refused
    ("import os", "'import os' is passed over in silence: refuse every line that is no name = value."),
    (CODE, "a call that is not assigned to anything is passed over in silence: refuse it."),
    ("lr = float('1')", "a call is no plain value: refuse it."),
    ("name = f'{1 + 1}'", "an f-string is code: refuse it."),
    ("a.lr = 1", "a.lr is no plain name: look at the type of the target, an ast.Name."),
    ("lr = 1e-4\nlr = 1", "lr stands there twice and one of the two is lost in silence: refuse it."),
    ("lr = seed = 1", "lr = seed = 1 is no name = value line, it has two names, two targets: refuse it."),
)


@judging
def check_read_name(read_name: Callable[[str], tuple[str, str, str, int | None]]) -> Verdict:
    """A function that reads a config name: (model, method, dataset, epochs), epochs None where it says none."""
    for name, words in UGLY:
        compare(read_name, name, words)
    for name in name_parts():
        compare(read_name, name, "this one is read wrongly.")
    return right("all {count} names are read, the ugly ones too.", count=len(name_parts()))


def compare(read_name: Any, name: str, words: str) -> None:
    """Wrong with ``words`` where one name is read wrongly."""
    model, method, dataset, rest = name_parts()[name]
    epochs = re.match(r"\d+", rest)
    wanted = (model, method, dataset, int(epochs[0]) if epochs else None)
    try:
        given = call(read_name, name=name)
    except Wrong as wrong:
        raise hinted(wrong, words) from None
    parts = given if isinstance(given, (str, dict, set)) or not hasattr(given, "__iter__") else tuple(given)
    if not isinstance(parts, tuple) or len(parts) != len(wanted):
        words = "four things are wanted: model, method, dataset, epochs (for {name})."
        raise Wrong(not_yet(words, wanted, parts, name=name))
    if parts == wanted:
        return
    if parts[:3] == wanted[:3] and str(parts[3] or None) == str(wanted[3]):
        words = "epochs is a number, or None where the name has none: not a text, not 0."
    raise Wrong(not_yet(in_case(words, name), wanted, parts))


def hinted(wrong: Wrong, words: str) -> Wrong:
    """What ended a check, with a hint."""
    return Wrong(not_yet("{words} A hint: {hint}", words=wrong.verdict.words, hint=phrase(words)))


@judging
def check_read_settings(read_settings: Callable[[str], dict[str, Any]]) -> Verdict:
    """A function that reads ``name = value`` lines: a dict of plain values, ValueError for all that is code."""
    for text, wanted, words in PLAIN:
        try:
            given = call(read_settings, text=text)
        except Wrong as wrong:
            raise hinted(wrong, words) from None
        if not isinstance(given, dict):
            return not_yet("a dict is wanted, this is {answer}.", answer=shown(given))
        if given != wanted:
            return not_yet(in_case(words, shown(text)), wanted, given)
    if ran(read_settings, f"lr = {CODE}"):
        return not_yet("your reader ran the stranger's code! ast.parse and ast.literal_eval never do.")
    for text, words in REFUSED:
        refused(read_settings, text, words)
    words = "{read} files of settings are read, {refused} that hold code or a slip are refused."
    return right(words, read=len(PLAIN), refused=len(REFUSED) + 1)


def ran(read_settings: Any, text: str) -> bool:
    """Whether the code in ``text`` was run, which leaves a variable in the environment."""
    os.environ.pop(TRAP, None)
    refused(read_settings, text, "a value that is code is taken as it stands: refuse it.", ran_is_another=True)
    return os.environ.pop(TRAP, None) is not None


def refused(read_settings: Any, text: str, words: str, ran_is_another: bool = False) -> None:
    """Wrong where ``text`` is read, or stops with anything but the ValueError of a refusal."""
    try:
        given = read_settings(text)
    except (ValueError, SyntaxError):
        return
    except Exception as problem:
        words = "{text} stops your reader with {problem}; raise ValueError, in words."
        raise Wrong(not_yet(words, text=shown(text), problem=named(problem))) from None
    if not (ran_is_another and TRAP in os.environ):
        raise Wrong(not_yet(words, say("ValueError for {text}", text=shown(text)), given))
