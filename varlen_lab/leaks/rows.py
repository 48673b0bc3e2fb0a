"""The row that an audit of a model runs on: a document just below and one just above every length its config names.

A leak that begins at a sliding window of 512 tokens cannot be seen in documents of 300. So the config is searched, by
the names of its fields, for lengths at which attention or positions begin to do something else, and the row has
documents that long. What does not fit is tried on a tiny copy of the same class with these lengths shrunk:

    found = thresholds(model.config)                       # {"sliding_window": 4096}
    exercising_lengths(found, budget=2048).left            # {"sliding_window": 4096}
    shrunk_thresholds(model.config, found)                 # {"sliding_window": 16}, for models.miniature
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from varlen_lab.errors import InputError
from varlen_lab.leaks.isolating import audit_isolated, tiny_copy
from varlen_lab.leaks.report import AuditReport, Finding
from varlen_lab.leaks.running import random_row

BUDGET = 2048  # tokens of the row in the true model
MOST_DOCUMENTS = 16  # each is run alone
USUAL = [70, 1, 300, 33, 2, 120, 64, 18]  # tokens of the documents of every row with room for them
SHORT = [5, 1, 33, 2, 18]  # and around the long ones of all others
SIZES = range(16, 120, 8)  # tokens: the thresholds of a tiny copy, each another

WINDOW = r"window(_size|_len|_length)?|local_attention"
REPEATED = r"chunk_(size|length|len)|block_size|floor(_scale)?|compress_rates\.\w+"  # it matters at each multiple
CHOSEN = r"(index|moba|sparse|block)\w*top_?k\w*|top_?k_?blocks?"  # how many keys, or blocks of keys, a query may see
POSITIONS = r"original_max_position_embeddings|max_distance"
NAMES = re.compile(rf"({WINDOW}|{REPEATED}|{CHOSEN}|{POSITIONS})$")
MOST_POSITIONS = "max_position_embeddings"


class Row(NamedTuple):
    """Tokens of each document of a row; of the thresholds (field -> tokens) those it exercises, and the others."""

    lengths: list[int]
    exercised: dict[str, int]
    left: dict[str, int]


def thresholds(config: Any) -> dict[str, int]:
    """Lengths at which a model with this config begins to do something else: dotted field -> tokens.

    Of a config with several parts that of the text is read. What no document can reach, because positions end before,
    is no threshold. Where they end is none either, unless frequencies follow the longest document from there on
    (dynamic NTK); for a table of positions see ``position_table``.
    """
    text, most = config.get_text_config(decoder=True), position_limit(config)
    found = {path: value * unit(text, path) for path, value in named_lengths(text)}
    if most is None and (positions := getattr(text, MOST_POSITIONS, None)):
        found[MOST_POSITIONS] = positions
    # Phi-3 says one thing in two places, Gemma 3 once for every type of layer
    once = {(path.split(".")[-1], value): path for path, value in reversed(found.items())}
    return {path: value for (_, value), path in reversed(once.items()) if most is None or value < most}


def named_lengths(text: Any) -> Iterator[tuple[str, int]]:
    """(dotted field, tokens) of every number above 1 in a config whose field has the name of a threshold."""
    for path, value in leaves(text.to_dict()):
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 1
        if number and NAMES.search(path) and not re.match("audio|vision|image", path):
            yield path, int(value)


def leaves(fields: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in nested dictionaries."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def unit(text: Any, path: str) -> int:
    """Tokens of what the field at ``path`` counts: one, or a block, or what is compressed into one key."""
    if path.endswith("blocks"):
        return int(getattr(text, "index_block_size", None) or getattr(text, "block_size", None) or 1)
    rates = getattr(text, "compress_rates", None) if re.search(CHOSEN, path) else None
    return min(rates.values()) if rates else 1


def position_limit(config: Any) -> int | None:
    """Tokens that a document may have; None where the config does not say, or means a length to grow from."""
    text = config.get_text_config(decoder=True)
    kinds = {value for path, value in leaves(text.to_dict()) if path.endswith("rope_type")}
    return None if "dynamic" in kinds else getattr(text, MOST_POSITIONS, None)


def position_table(model: Any) -> dict[str, int]:
    """``{"max_position_embeddings": tokens}`` where positions come from a table with so many rows, else nothing."""
    most, words = position_limit(model.config), model.get_input_embeddings()
    if most is None:
        return {}
    # OPT and its kin have a few rows more than positions, RoBERTa gives none to what lies before its padding's row
    tables = [one for one in model.modules() if isinstance(one, torch.nn.Embedding) and one is not words]
    fitting = [one for one in tables if most <= one.num_embeddings <= most + 4]
    padded = [one.num_embeddings - one.padding_idx - 1 for one in fitting if one.padding_idx is not None]
    # GPT-J keeps sines and cosines in a buffer
    found = fitting or any(x.ndim == 2 and most <= len(x) <= most + 4 for x in model.buffers())
    return {MOST_POSITIONS: min([most, *padded])} if found else {}


def exercising_lengths(found: Mapping[str, int], budget: int | None = BUDGET, limit: int | None = None) -> Row:
    """Documents for as many thresholds as fit into a row of ``budget`` tokens (None: all), the smallest first.

    One of exactly the threshold and one just above; where something happens at every multiple, one beyond the second;
    where it costs little, one of a token less; and around them short ones. ``limit``: tokens that a document may have.
    """
    documents: list[int] = []
    exercised: dict[str, int] = {}

    def add(*lengths: int) -> bool:
        new = [one for one in lengths if one not in documents and 0 < one <= (limit or one)]
        tokens, count = sum(documents) + sum(new) + sum(SHORT), len(documents) + len(new) + len(SHORT)
        if budget is not None and (tokens > budget or count > MOST_DOCUMENTS):
            return False
        documents.extend(new)
        return True

    for name, value in sorted(found.items(), key=lambda one: one[1]):
        # two more tokens than a window: with one, a window one too wide is as good as none
        above = value + 1 + bool(re.search(rf"({WINDOW})$", name))
        if add(value, min(above, limit or above)):
            exercised[name] = value
    for name, value in exercised.items():
        if re.search(rf"({REPEATED})$", name):
            add(2 * value + 1)
        if value <= USUAL[2]:
            add(value - 1)
    tokens, count = sum(documents) + sum(USUAL), len(documents) + len(USUAL)
    around = USUAL if tokens <= BUDGET and count <= MOST_DOCUMENTS else SHORT
    around = [min(one, limit or one) for one in around]
    lengths = [*around[:2], *sorted(documents), *around[2:]]
    return Row(lengths, exercised, {name: value for name, value in found.items() if name not in exercised})


def row_of(model: Any, budget: int | None = BUDGET) -> Row:
    """The row for a model: its config's thresholds, its table of positions, no document longer than it can take."""
    table = position_table(model)
    limit = table.get(MOST_POSITIONS, position_limit(model.config))
    return exercising_lengths(thresholds(model.config) | table, budget, limit)


def audit_model(model: Any, *, long: bool = False, isolate: bool = True) -> AuditReport:
    """Audit a model on documents around every threshold its config names, in the mode it is in.

    ``isolate``: layers that leak are first run document by document, as a training run does, where that makes it exact.
    What does not fit into a row of 2,048 tokens is tried on a tiny copy, unless ``long`` asks for a row of any length.
    The notes say where each threshold was exercised, and which was not; findings of the copy say that they are its.
    """
    row = row_of(model, None if long else BUDGET)
    report = audit_isolated(model, random_row(model, row.lengths), isolate=isolate)
    how = "not measured, for the model refused the row" if np.isnan(report.leaks).all() else "exercised"
    notes = [f"{how}: {named(row.exercised)}"] if row.exercised else []
    findings: list[Finding] = []
    if row.left:
        try:
            findings, tried = audit_copy(model, row, isolate)
            notes += tried
        except InputError as problem:
            notes.append(f"not exercised: {named(row.left)}, too long for a row of {BUDGET:,} tokens ({problem})")
    known = {finding.kind for finding in report.findings}
    findings = [finding for finding in findings if finding.kind not in known]
    return replace(report, findings=(*report.findings, *findings), notes=(*report.notes, *notes))


def audit_copy(model: Any, row: Row, isolate: bool) -> tuple[list[Finding], list[str]]:
    """What a tiny copy of a model, with its thresholds shrunk, shows of those that ``row`` left: findings and notes."""
    fields = shrunk_thresholds(model.config, row.exercised | row.left)
    copy = tiny_copy(model, str(model.config._attn_implementation), **fields)
    small = row_of(copy)
    report = audit_isolated(copy.train(model.training), random_row(copy, small.lengths), isolate=isolate)
    there = {name: small.exercised[name] for name in row.left if name in small.exercised}
    meant = {name: tokens for name, tokens in row.left.items() if name in there}
    missed = {name: tokens for name, tokens in row.left.items() if name not in there}
    notes = [f"not exercised: {named(missed)}"] if missed else []
    if there:
        notes.append(
            f"exercised on a tiny copy of the model, with {named(there)} in place of {named(meant)}; "
            "--long takes the model itself"
        )
    return [replace(one, where=f"{one.where}, in a tiny copy with {named(there)}") for one in report.findings], notes


def shrunk_thresholds(config: Any, found: Mapping[str, int]) -> dict[str, Any]:
    """Fields of a tiny copy's config, with which every threshold in ``found`` is another few tokens: field -> value."""
    text = config.get_text_config(decoder=True)
    order = sorted({(path.split(".")[-1], value) for path, value in found.items()}, key=lambda one: one[1])
    sizes = dict(zip(order, SIZES, strict=False))
    changes: dict[str, Any] = {}
    positions = [(MOST_POSITIONS, found[MOST_POSITIONS])] if MOST_POSITIONS in found else []
    for path, value in [*named_lengths(text), *positions]:
        *parts, name = path.split(".")
        size = sizes.get((name, value * unit(text, path)))
        if size is not None and not parts:
            changes[name] = 2 if name.endswith("blocks") else min(value, size)
        elif size is not None and parts == ["rope_parameters"]:  # one dictionary for each type of layer stays as it is
            changes["rope_parameters"] = {name: size}
    return changes


def named(found: Mapping[str, int]) -> str:
    """``sliding_window (16) and index_topk (24)``."""
    words = [f"{name.split('.')[-1]} ({tokens:,})" for name, tokens in found.items()]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
