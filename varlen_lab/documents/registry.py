"""What this room knows by name: chat templates, shapes of a record, endings of data files. Facts, no code.

A new template, shape or file format is one row here. Functions are named as ``"module:function"`` and imported when a
record or a file needs them, so that settings can offer the names without loading what reads the data.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

# ------------------------------------------------------------------------------------------------- chat templates

OF_TOKENIZER = "tokenizer"  # the prompt_template that is no row below: the template inside the tokenizer itself


@dataclass(frozen=True)
class Template:
    """The strings around what is said. A dialogue with ⟦what is trained on⟧ in brackets, S its system message:

        prefix system(S) instruction(Q1) ⟦answer A1 end⟧ sep begin instruction(Q2) ⟦last_answer A2 last_end⟧ last_sep

    ``{system}``, ``{input}`` and ``{round}`` (a question's number) are filled in; ``{bos}`` and ``{eos}``, in any of
    them, are the tokenizer's own begin and end mark, "" where it has none.
    """

    about: str  # whose format it is, and which revision
    source: str = "xtuner 0.1.23"  # where that stands
    prefix: str = ""  # in front of everything
    system: str = ""  # a system message; "": the format has none
    system_in: str = ""  # where it stands: "" in front of the first question; "first" or "last": inside that question
    default_system: str | None = None  # the system message of a dialogue that has none; None: it stays without
    begin: str = ""  # in front of every question but the first
    instruction: str = "{input}"  # a question, up to where the model speaks
    answer: str = ""  # in front of an answer
    end: str = "{eos}"  # behind it
    end_is_next: bool = False  # ``end`` is how the next question begins, and is written once
    sep: str = ""  # behind an answer and its end
    last_answer: str | None = None  # of the last message, where it is an answer; None: as the others
    last_end: str | None = None
    last_sep: str | None = None
    thought_end: str = ""  # behind a thought; last_answer, an empty thought, is left out where an answer has its own
    marks: str = ""  # words that are one token each in its tokenizer, beside those in < >
    tool: bool = False  # what a tool gave back is a system message and an empty question, as XTuner writes ReAct


def template_rows(table: dict[str, dict[str, Any]], prefix: str = "") -> dict[str, Template]:
    """The templates of one table of templates.toml by name, ``like`` resolved, ``prefix`` in front of the names."""
    rows: dict[str, dict[str, Any]] = {}
    for name, row in table.items():
        rows[name] = rows.get(row.get("like", ""), {}) | {key: value for key, value in row.items() if key != "like"}
    return {prefix + name: Template(**row) for name, row in rows.items()}


TEMPLATES_FILE = tomllib.loads(Path(__file__).with_name("templates.toml").read_text(encoding="utf-8"))
XTUNER = "xtuner:"  # what the names of XTuner's own strings begin with

TEMPLATES: dict[str, Template] = {
    **template_rows(TEMPLATES_FILE["publishers"]),
    **template_rows(TEMPLATES_FILE["xtuner"], XTUNER),
}

# -------------------------------------------------------------------------------------------- shapes of a record

SYSTEM = ("system", "system_prompt")  # fields that hold the system message of a whole record
TOOLS = "tools"  # the field with the schemas of its tools


@dataclass(frozen=True)
class Shape:
    """How a kind of record is known and read: one that holds all of ``fields`` goes to ``function(record, shape)``.

    ``function`` gives the turns as (role, content) pairs, not yet checked, and raises BadRecord for what it cannot
    read. The other fields are names that it looks for in a record. What else a record holds, ``fields.py`` reads,
    refuses or counts.
    """

    fields: tuple[str, ...]
    function: str
    about: str
    role: str = "role"  # in a list of messages: the key of who speaks
    content: str = "content"  # and of what is said
    optional: str = ""  # a column that continues the question, where it is filled
    history: str = ""  # a column with earlier turns, [[question, answer], ...]; their answers are trained on
    number: str = ""  # a column with the number of turns
    beside: tuple[str, ...] = (*SYSTEM, TOOLS)  # what may stand beside the turns

    @cached_property
    def known(self) -> frozenset[str]:
        """The names of all that ``function`` reads."""
        return frozenset({*self.fields, self.optional, self.history, self.number} - {""})

    @cached_property
    def may_have(self) -> tuple[str, ...]:
        """The names of what a record may leave out."""
        return tuple(name for name in (self.optional, self.history, *self.beside) if name)


MESSAGES = "varlen_lab.documents.reading:from_messages"  # the first of the fields is a list of messages
COLUMNS = "varlen_lab.documents.shapes:from_columns"  # the last of the fields is the answer
PROMPT = "varlen_lab.documents.shapes:from_prompt"  # the same, or both are lists of messages
HISTORY = "history"

# The first that fits is taken. What a record of each looks like is said where it is read.
SHAPES: dict[str, Shape] = {
    "messages": Shape(("messages",), MESSAGES, about="role and content, as in transformers"),
    "sharegpt": Shape(("conversations",), MESSAGES, about="ShareGPT", role="from", content="value"),
    "xtuner": Shape(("conversation",), "varlen_lab.documents.shapes:from_xtuner", about="XTuner's own"),
    "moss": Shape(
        ("meta_instruction", "chat"),
        "varlen_lab.documents.agents:from_moss",
        about="moss-003-sft-data",
        number="num_turns",
        beside=(),
    ),
    "alpaca_zh": Shape(("instruction_zh", "output_zh"), COLUMNS, about="alpaca-gpt4-chinese", optional="input_zh"),
    "alpaca": Shape(
        ("instruction", "output"),
        "varlen_lab.documents.shapes:from_alpaca",
        about="Alpaca, LLaMA-Factory",
        optional="input",
        history=HISTORY,
    ),
    "guanaco": Shape(("text",), "varlen_lab.documents.shapes:from_guanaco", about="Guanaco"),
    "sql": Shape(("context", "question", "answer"), COLUMNS, about="sql-create-context"),
    "orca": Shape(("question", "response"), COLUMNS, about="OpenOrca, Stack Exchange"),
    "law": Shape(("question", "answer"), COLUMNS, about="law"),
    "completion": Shape(("prompt", "completion"), PROMPT, about="CodeAlpaca, TRL", history=HISTORY),
    "response": Shape(
        ("prompt", "response"), PROMPT, about="tiny-codes, LLaMA-Factory", optional="query", history=HISTORY
    ),
    "swift": Shape(("query", "response"), PROMPT, about="ms-swift", history=HISTORY),
    "colors": Shape(("description", "color"), "varlen_lab.documents.shapes:from_colors", about="colors"),
    "title": Shape(("abstract", "title"), COLUMNS, about="arXiv"),
    "firefly": Shape(("input", "target"), COLUMNS, about="Firefly"),
    "dolly": Shape(("instruction", "response"), COLUMNS, about="Dolly", optional="context"),
    "crime": Shape(("input", "output"), COLUMNS, about="CrimeKgAssitant", history=HISTORY),
}

# dataset_map_fn -> the shapes it looks for: "auto" tells a record by its fields, the others cannot be told by them
MAP_FNS: dict[str, dict[str, Shape]] = {
    "auto": SHAPES,
    "pretrain": {
        "text": Shape(("text",), "varlen_lab.documents.shapes:from_text", about="text, trained on whole", beside=())
    },
    "msagent_react": {
        "msagent": Shape(
            ("conversations",), "varlen_lab.documents.agents:from_msagent", about="MSAgent-Bench", beside=()
        )
    },
}

# ------------------------------------------------------------------------------------------------------ data files

# ending -> function(path) that gives (place, record) pairs
READERS: dict[str, str] = {
    ".jsonl": "varlen_lab.documents.reading:jsonl_records",
    ".json": "varlen_lab.documents.formats:json_records",
    ".csv": "varlen_lab.documents.formats:csv_records",
    ".tsv": "varlen_lab.documents.formats:tsv_records",
    ".parquet": "varlen_lab.documents.tables:parquet_records",
    ".arrow": "varlen_lab.documents.tables:arrow_records",
}
# the ending behind that of a text file -> function(path) that opens its bytes
COMPRESSED: dict[str, str] = {".gz": "gzip:open", ".zst": "varlen_lab.documents.formats:open_zstd"}
READERS |= {text + packed: READERS[text] for text in (".jsonl", ".json", ".csv", ".tsv") for packed in COMPRESSED}
# whose functions take a ``Position`` too and begin behind it; the others are read from their beginning
SEEKABLE = {".jsonl", ".parquet", ".arrow", *(f".jsonl{packed}" for packed in COMPRESSED)}
INSTEAD: dict[str, str] = {  # endings of what is not read -> what to do with it
    **dict.fromkeys((".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"), "unpack it and name a file in it"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save it as .csv"),
    **dict.fromkeys((".bz2", ".xz"), "unpack it, or compress it with gzip"),
    ".txt": 'put each text into a line of .jsonl, {"text": "..."}, and set dataset_map_fn = \'pretrain\'',
}
