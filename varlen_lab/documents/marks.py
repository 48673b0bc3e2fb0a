"""What a template and a tokenizer say together, before any data: which mark stands in front of a document, which ends
an answer, what is to be noted, and how control tokens that a person typed are read.

A template is a row of TEMPLATES or the program inside the tokenizer. Both are asked in the same way here: they write a
short dialogue, and what stands around its words are the marks.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from typing import Any, NamedTuple

from varlen_lab.documents.bounded import bounded
from varlen_lab.documents.days import with_its_day
from varlen_lab.documents.dialogues import VERBATIM, Dialogue, Message
from varlen_lab.documents.registry import OF_TOKENIZER
from varlen_lab.documents.templates import named_segments, template_named
from varlen_lab.errors import InputError

PROBE = ("question", "answer", "another", "reply")  # what is said in the dialogue that is written to see the marks
A_MARK = re.compile(r"(?<!<)<[^<>\s]{1,40}>(?!>)")  # <|user|>, </s>; not Llama 2's <<SYS>>, which is text
MOST_NAMED = 5  # control tokens named; the others are counted
BREAK = "\ufdd0\ufdd1"  # two characters that Unicode keeps for no text: what parts a control token in a person's words


class Facts(NamedTuple):
    """What is asked of a tokenizer once, for all documents of a template."""

    tokenizer: Any
    backend: Any  # see ``backend_of``
    begin: int | None  # see ``bos_of``
    own: frozenset[int]  # ids of the tokens that are looked for in a text before all others
    control: re.Pattern[str] | None  # what finds control tokens in what a person wrote
    escape: bool  # are they read as plain text?


def facts_of(tokenizer: Any, prompt_template: str, special_tokens_in_text: str) -> Facts:
    """The facts; InputError for what cannot be done with this tokenizer."""
    return Facts(
        tokenizer,
        backend_of(tokenizer, special_tokens_in_text),
        bos_of(tokenizer, prompt_template),
        frozenset(tokenizer.added_tokens_decoder),
        control_tokens(tokenizer),
        special_tokens_in_text == "escape",
    )


# ------------------------------------------------------------------------------------------- begin and end


def begin_id(tokenizer: Any) -> int | None:
    """The id of the begin mark, where the tokenizer itself puts one in front of a text; None where it does not.

    It does so when it is asked for a text with special tokens, or its own chat template writes it in front and nowhere
    else. SmolLM2 names ``<|im_start|>`` as its begin mark, which is the mark of a turn and never put in front.
    """
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("", verbose=False)["input_ids"][:1] == [bos]:
        return bos
    written = "".join(text for text, _ in written_by(tokenizer, OF_TOKENIZER, PROBE[:2]))
    return bos if written.startswith(tokenizer.bos_token) and written.count(tokenizer.bos_token) == 1 else None


def bos_of(tokenizer: Any, prompt_template: str) -> int | None:
    """The id to put in front of a document that does not begin with it; None where the template itself decides."""
    return None if prompt_template == OF_TOKENIZER else begin_id(tokenizer)


def end_ids(tokenizer: Any, prompt_template: str = OF_TOKENIZER) -> tuple[int, ...]:
    """The ids at which an answer is over: the template's end mark, where it is one token, and the tokenizer's eos.

    Of a mark of several tokens the first that is a token of its own (``\\n<|EOT|>``) counts; one that the tokenizer
    reads as plain text ends nothing. Empty where there is neither. Raises InputError for an unknown template.
    """
    of_their_own = set(tokenizer.added_tokens_decoder)
    found: list[int] = []
    for mark in end_marks(tokenizer, prompt_template):
        ids = tokenizer(mark, add_special_tokens=False)["input_ids"]
        found += ids if len(ids) == 1 else [one for one in ids if one in of_their_own][:1]
    if tokenizer.eos_token_id is not None:
        found.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(found))


def end_marks(tokenizer: Any, prompt_template: str) -> list[str]:
    """The texts a template writes behind an answer, without white space; a row may end the last one otherwise."""
    behind = [
        text.rpartition(said)[2].strip()
        for text, trained in written_by(tokenizer, prompt_template, PROBE)
        for said in PROBE[1::2]
        if trained and said in text
    ]
    return list(dict.fromkeys(mark for mark in behind if mark))


def end_mark(tokenizer: Any, prompt_template: str) -> str:
    """The last of them, behind the last answer; ``""`` where there is none."""
    return next(reversed(end_marks(tokenizer, prompt_template)), "")


def written_by(tokenizer: Any, prompt_template: str, said: tuple[str, ...]) -> list[tuple[str, bool]]:
    """A short dialogue as segments of a template. Of a tokenizer's own only the last answer is told as one.

    Empty if that template cannot write it.
    """
    asked: list[Message] = [
        {"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(said)
    ]
    if prompt_template != OF_TOKENIZER:
        return named_segments(Dialogue(asked), tokenizer, prompt_template)
    if not getattr(tokenizer, "chat_template", None):
        return []
    try:
        with bounded():
            text = tokenizer.apply_chat_template(asked, tokenize=False, **with_its_day(tokenizer))
        before, answer, behind = text.rpartition(said[-1])
    except Exception:  # a template is a program, it may raise anything; that is said when a dialogue meets it
        return []
    return [(before, False), (answer + behind, True)]


# ------------------------------------------------------------------------------------------------- notes


def template_notes(tokenizer: Any, prompt_template: str = OF_TOKENIZER) -> list[str]:
    """What is to be known before training: marks that this tokenizer reads as several tokens, and no end mark."""
    notes = []
    text = "".join(text for text, _ in written_by(tokenizer, prompt_template, PROBE))
    if not text:
        return []
    named = "" if prompt_template == OF_TOKENIZER else template_named(prompt_template).marks
    marks = dict.fromkeys([*named.split(), *A_MARK.findall(text)])
    several = [mark for mark in marks if len(tokenizer(mark, add_special_tokens=False)["input_ids"]) > 1]
    of_template = f"prompt_template {prompt_template!r}"
    if several:
        notes.append(
            f"{', '.join(several)} of {of_template} are no tokens of this tokenizer, each is read as several: right "
            "for a model that has yet to learn them, wrong for one that was trained on them as tokens"
        )
    if not end_marks(tokenizer, prompt_template):
        notes.append(f"{of_template} writes no end mark behind an answer here: the model does not learn where to stop")
    return notes


# ------------------------------------------------------------------------------------- control tokens in text


def control_note(typed: list[set[str]], escape: bool) -> list[str]:
    """A note on the control tokens found in dialogues, a set for each that has some; none if there are none."""
    if not typed:
        return []
    counts = Counter(token for found in typed for token in found).most_common()
    listed = ", ".join(f"{token} in {count:,}" for token, count in counts[:MOST_NAMED])
    more = f" and {len(counts) - MOST_NAMED} more" if len(counts) > MOST_NAMED else ""
    which = "dialogue has" if len(typed) == 1 else "dialogues have"
    how = "plain text" if escape else "control tokens; special_tokens_in_text = 'escape' reads them as plain text"
    return [f"{len(typed):,} {which} control tokens in what was said ({listed}{more}), read as {how}"]


def control_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """What finds in a text what the tokenizer reads as its special tokens; None if it does so with none."""
    if getattr(tokenizer, "split_special_tokens", False):
        return None
    found = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special and len(str(token)) > 1]
    found.sort(key=len, reverse=True)  # the longest of those that begin alike
    return re.compile("|".join(map(re.escape, found))) if found else None


def backend_of(tokenizer: Any, special_tokens_in_text: str) -> Any:
    """A copy of the tokenizer that tells true offsets, cuts and pads nothing; None for one written in Python.

    ``escape``: it reads the words of ``parted`` as if BREAK were not there, after it has looked for special tokens.
    """
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        if special_tokens_in_text == "escape":
            raise InputError(
                f"special_tokens_in_text is 'escape', and {type(tokenizer).__name__} is written in Python; use a "
                "tokenizer that has a tokenizer.json, or 'keep'."
            )
        return None
    backend = copy.deepcopy(backend)
    if special_tokens_in_text == "escape":
        facts = json.loads(backend.to_str())
        for token in facts["added_tokens"]:
            token["normalized"] &= not token["special"]  # looked for before the text is normalised
        backend = Tokenizer.from_str(json.dumps(facts))
        steps: tuple[str, Any, Any] = ("normalizer", normalizers.Sequence, normalizers.Replace(BREAK, ""))
        if facts["model"]["type"] == "Unigram":  # it finds control tokens in any text, as pieces of its vocabulary
            steps = ("pre_tokenizer", pre_tokenizers.Sequence, pre_tokenizers.Split(BREAK, "removed"))
        step, sequence, part = steps
        before = getattr(backend, step)
        setattr(backend, step, sequence([part, before]) if before else part)
    backend.no_truncation()
    backend.no_padding()
    backend.post_processor = None  # it may trim spaces off the offsets
    backend.encode_special_tokens = getattr(tokenizer, "split_special_tokens", False)
    return backend


def parted(dialogue: Dialogue, control: re.Pattern[str]) -> Dialogue:
    """The dialogue with BREAK inside each control token that a person typed; in VERBATIM text they are meant."""
    result = Dialogue(dialogue, getattr(dialogue, "place", ""), getattr(dialogue, "tools", None))
    for number, message in enumerate(result):
        if message["role"] not in VERBATIM:
            changed = control.sub(lambda found: found[0][0] + BREAK + found[0][1:], message["content"])
            result[number] = {**message, "content": changed}
    return result
