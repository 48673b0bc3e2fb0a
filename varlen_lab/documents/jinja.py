"""A named chat template as the Jinja text of a tokenizer: who opens a trained model asks it as it was trained.

``segments`` in ``templates`` and the text made here write the same of every dialogue, row by row: a test holds them
together. The text holds the strings of one row alone, and refuses what the row has no form for.
"""

from __future__ import annotations

import json
import re
from string import Template as Blanks
from typing import Any

from varlen_lab.documents.dialogues import WRITTEN_BY_TOKENIZER, Dialogue
from varlen_lab.documents.marks import bos_of
from varlen_lab.documents.templates import ASKING, begin_of, named_segments, of_last, template_named, with_marks

# Of an answer that others follow, its thought is left out, as publishers do. Training refuses it: what is asked of a
# model may hold its earlier answers whole, what it is taught may not lose a word.
FORGET = Blanks("""\
{%- if not loop.last and $thought_end in content -%}
{%- set content = content.split($thought_end)[-1].lstrip("\\n") -%}
{%- endif -%}
""")
# Jinja forgets what is set inside a loop at the end of each round, but for what is a part of a namespace.
TEXT = Blanks("""\
{%- if tools -%}{{- raise_exception("$name has no form for tools") -}}{%- endif -%}
{%- set seen = namespace(turn=0, asked=-1, ended=false) -%}
{%- for message in messages -%}
{%- if message["role"] not in $roles or (message["role"] == "system" and not loop.first)
 or (message["role"] == "tool" and messages[loop.index0 - 1]["role"] == "tool") -%}
{{- raise_exception("$name has no form for a message of role " ~ message["role"] ~ " here") -}}
{%- endif -%}
{%- for key in $keys if message[key] -%}{{- raise_exception("$name has no form for " ~ key) -}}{%- endfor -%}
{%- if message["content"] is not string -%}{{- raise_exception("$name has no form but for text") -}}{%- endif -%}
{%- if message["role"] in $asking and $holds_system -%}{%- set seen.asked = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- set content = messages[0]["content"] -%}
{%- set system = $system if messages[0]["role"] == "system" else $default -%}
{{- $start -}}
{%- for message in messages -%}
{%- set content = message["content"] -%}
{%- if message["role"] == "assistant" -%}
$forget{{- $answer -}}{%- set seen.ended = true -%}
{%- elif message["role"] != "system" -%}
{%- set seen.turn = seen.turn + 1 -%}
{{- $begin -}}
{%- if message["role"] == "tool" -%}{{- $system -}}{%- set content = "" -%}{%- endif -%}
{%- if loop.index0 == seen.asked -%}{%- set content = system ~ content -%}{%- endif -%}
{{- $question -}}{%- set seen.ended = false -%}
{%- endif -%}
{%- endfor -%}
""")


def chat_template(name: str, tokenizer: Any) -> str:
    """What ``tokenizer.chat_template`` must be for a model trained with a row of TEMPLATES and this tokenizer.

    The begin mark that training puts in front of a document is in it too. InputError for a name that is no row.
    """
    row = template_named(name)
    if not begin_of(row, tokenizer.bos_token or ""):
        row = with_marks(row, "", "{eos}")
    said, last = (
        jinja(one(row, "answer") + "{content}" + one(row, "end") + one(row, "sep")) for one in (getattr, of_last)
    )
    if row.thought_end:
        own = jinja(row.answer + "{content}" + of_last(row, "end") + of_last(row, "sep"))
        last = f"({own} if {json.dumps(row.thought_end)} in content else {last})"
    question = jinja(row.instruction, "{input}")
    if row.end_is_next:
        question = f"({jinja(row.instruction.removeprefix(row.end), '{input}')} if seen.ended else {question})"
    default = '""' if row.default_system is None else jinja(row.system.replace("{system}", row.default_system))
    prefix = jinja(("{bos}" if begun_by_training(name, tokenizer) else "") + row.prefix)
    roles = ["user", "assistant", *(["system"] if row.system else []), *(["tool"] if row.tool else [])]
    return TEXT.substitute(
        name=name,
        roles=json.dumps(roles),
        keys=json.dumps(list(WRITTEN_BY_TOKENIZER)),
        asking=json.dumps(ASKING),
        holds_system={"": "false", "first": "seen.asked < 0", "last": "true"}[row.system_in],
        system=jinja(row.system, "{system}"),
        default=default,
        start=prefix if row.system_in else f"{prefix} ~ system",
        forget=FORGET.substitute(thought_end=json.dumps(row.thought_end)) if row.thought_end else "",
        answer=said if said == last else f"{last} if loop.last else {said}",
        begin=f'{jinja(row.begin)} if seen.turn > 1 else ""' if row.begin else '""',
        question=question,
    )


def begun_by_training(name: str, tokenizer: Any) -> bool:
    """Whether training puts a begin mark in front of what the row writes."""
    asked = named_segments(Dialogue([{"role": "user", "content": "question"}]), tokenizer, name)
    bos = bos_of(tokenizer, name)
    text = "".join(text for text, _ in asked)
    return bos is not None and tokenizer(text, add_special_tokens=False)["input_ids"][:1] != [bos]


def jinja(text: str, place: str = "{content}") -> str:
    """A string of a row as an expression; ``place`` in it stands for the variable ``content``."""
    variables = {"{bos}": "bos_token", "{eos}": "eos_token", "{round}": "seen.turn", place: "content"}
    pieces = [piece for piece in re.split("(" + "|".join(map(re.escape, variables)) + ")", text) if piece]
    return " ~ ".join(variables.get(piece) or json.dumps(piece, ensure_ascii=False) for piece in pieces) or '""'
