"""Dialogues become token ids and labels: the documents that packing packs.

Labels are the token where it is trained on (an answer and the mark that ends it) and -100 everywhere else;
the first label of every document is -100, for nothing stands before it that could predict it. A question and
its answer:

    text       <s>   <|user|>  2+2?  </s>  <|assistant|>  4   </s>
    labels    -100    -100     -100  -100      -100       4   </s>

A document is tokenised whole, and its labels are found by the offsets of its tokens. Two laws hold for every answer:
the ids up to it are those of its prompt when the model is asked later, and all ids are those of the whole text. Where
they contradict each other the first one wins; ``cuts`` says where that is. A token that an answer shares with what
stands behind it belongs to the answer.

Named templates cut a dialogue into segments in ``templates``. The template inside a tokenizer is a program of its
publisher: here it is run twice for every answer, up to it and including it, and the difference is what the model has
to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from varlen_lab.documents.bounded import bounded
from varlen_lab.documents.cuts import Runs, cut_document, reader, slow_reader, tokens_before
from varlen_lab.documents.days import with_its_day
from varlen_lab.documents.dialogues import VERBATIM, BadRecord, Dialogue, Message
from varlen_lab.documents.marks import Facts, begin_id, control_note, facts_of, parted, template_notes
from varlen_lab.documents.refusals import Refused, another_template, check_written, one_by_one
from varlen_lab.documents.registry import OF_TOKENIZER
from varlen_lab.documents.skipped import Skipped
from varlen_lab.documents.templates import Segments, named_segments
from varlen_lab.errors import InputError, first_line
from varlen_lab.files.writing import content_digest
from varlen_lab.machine.console import track
from varlen_lab.packing.registry import IGNORE

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

DIALOGUES_AT_ONCE = 1000  # dialogues written in one call
LETTERS_AT_ONCE = 1_000_000  # and tokenised in one: enough to keep the tokenizer's threads busy, 200 bytes a letter


def encode(
    dialogues: Sequence[Dialogue],
    tokenizer: Any,
    *,
    prompt_template: str = OF_TOKENIZER,
    special_tokens_in_text: str = "keep",
    skipped: list[str] | None = None,
    progress: bool = False,
) -> Dataset:
    """One document per dialogue: equally long int32 list columns ``input_ids`` and ``labels``.

    ``prompt_template``: a row of TEMPLATES, or ``tokenizer`` for the tokenizer's own. A named template gets the begin
    mark in front of the document, once, if the tokenizer puts one there; its own template writes what it wants.
    ``special_tokens_in_text``: ``escape`` reads control tokens that a person typed as plain text, ``keep`` as the
    tokenizer does. Documents without a trained token are dropped. The first line of ``dataset.info.description`` says
    how many, each other line is a note on the template (``template_notes``) or on control tokens in the text.
    ``skipped``: a dialogue that the template refuses is left out, and the sentence that says why and where is added to
    this list (see ``Skipped``). Without a list it raises InputError.
    Raises InputError for an unknown template, for no dialogue, and when every label is masked.
    """
    import datasets
    import pyarrow as pa

    facts = facts_of(tokenizer, prompt_template, special_tokens_in_text)
    tables = []
    typed: list[set[str]] = []
    refused = Skipped()
    leave_out = None if skipped is None else refused
    starts = range(0, len(dialogues), DIALOGUES_AT_ONCE)
    for start in track(starts, "Tokenising", len(starts)) if progress else starts:
        batch = with_control_tokens(dialogues[start : start + DIALOGUES_AT_ONCE], facts, typed)
        tables.append(documents_of(pieces_of(batch, tokenizer, prompt_template, leave_out), facts))
    kept = sum(len(table) for table in tables)
    if skipped is not None:
        skipped += refused
    if refused and refused.total == len(dialogues):
        raise InputError(
            f"the template refused all {refused.total} dialogues, the first: {refused[0]}; set "
            "prompt_template to another one, or change the data."
        )
    if not kept:
        raise InputError(
            f"none of the {len(dialogues)} dialogues has a token to train on under prompt_template "
            f"{prompt_template!r}: every label is masked; give them answers the tokenizer can write."
        )
    dropped = len(dialogues) - refused.total - kept
    notes = [*template_notes(tokenizer, prompt_template), *control_note(typed, facts.escape)]
    said = "\n".join([f"{kept} documents; {dropped} without a token to train on were dropped", *notes])
    table = pa.concat_tables(tables)
    return datasets.Dataset(table, info=datasets.DatasetInfo(description=said), fingerprint=content_digest(table))


def with_begin(ids: list[int], begin: int | None) -> list[int]:
    """The ids with the begin mark in front, if there is one to be, and never twice."""
    return ids if begin is None or ids[:1] == [begin] else [begin, *ids]


# ------------------------------------------------------------------------------------------- words and marks


def with_control_tokens(dialogues: Sequence[Dialogue], facts: Facts, typed: list[set[str]]) -> Sequence[Dialogue]:
    """The dialogues, the control tokens in their words parted if they are escaped; those found go to ``typed``."""
    if facts.control is None:
        return dialogues
    find, result = facts.control.findall, list(dialogues)
    for number, dialogue in enumerate(dialogues):
        found = {token for one in dialogue if one["role"] not in VERBATIM for token in find(one["content"] or "")}
        if found:
            if not getattr(dialogue, "place", "").startswith("builtin:"):  # nobody's words, and nobody's to correct
                typed.append(found)
            result[number] = parted(dialogue, facts.control) if facts.escape else dialogue
    return result


def pieces_of(
    dialogues: Sequence[Dialogue], tokenizer: Any, prompt_template: str, skipped: list[str] | None = None
) -> list[Segments]:
    """The segments of each dialogue, none of them empty, untrained neighbours joined; ``skipped`` as in ``encode``."""
    if prompt_template == OF_TOKENIZER:
        return list(map(merge_untrained, written_by_tokenizer(dialogues, tokenizer, skipped)))
    by_name = partial(written_by_name, tokenizer=tokenizer, prompt_template=prompt_template)
    return list(map(merge_untrained, one_by_one(dialogues, by_name, skipped)))


def written_by_name(dialogues: Sequence[Dialogue], tokenizer: Any, prompt_template: str) -> list[Segments]:
    """The segments of the dialogues under a named template; Refused where it has no form for what one holds."""
    try:
        return [named_segments(dialogue, tokenizer, prompt_template) for dialogue in dialogues]
    except BadRecord as reason:
        remedy = "set prompt_template to 'tokenizer' or another one, change the data, or skip it with skip_bad = True"
        raise Refused(str(reason), remedy) from None


def merge_untrained(pieces: Segments) -> Segments:
    """The same text with empty pieces gone and untrained neighbours joined."""
    result: Segments = []
    for text, trained in pieces:
        if text and result and not trained and not result[-1][1]:
            result[-1] = (result[-1][0] + text, False)
        elif text:
            result.append((text, trained))
    return result


# ------------------------------------------------------------------------------------------- ids and labels


def documents_of(pieces: list[Segments], facts: Facts) -> pa.Table:
    """``input_ids`` and ``labels`` of the documents with these segments, the untrainable ones left out."""
    import pyarrow as pa

    parts = [tokens_and_trained(part, facts) for part in parts_of(pieces)]
    lengths, input_ids, trained = (np.concatenate(one) for one in zip(*parts))
    offsets = np.cumsum([0, *lengths])  # the first token of each document, and the number of all
    labels = np.where(trained, input_ids, np.int32(IGNORE))
    not_empty = offsets[1:] > offsets[:-1]
    labels[offsets[:-1][not_empty]] = IGNORE

    counted = np.concatenate([[0], np.cumsum(labels != IGNORE)])
    keep = counted[offsets[1:]] > counted[offsets[:-1]]
    table = table_of(offsets, input_ids, labels)
    return table if keep.all() else table.filter(pa.array(keep))  # a filter copies, into twice the room


def parts_of(pieces: list[Segments]) -> Iterator[list[Segments]]:
    """The documents in parts of about LETTERS_AT_ONCE, or of one document; one part at least."""
    begin = letters = 0
    for number, one in enumerate(pieces):
        own = sum(len(text) for text, _ in one)
        if letters and letters + own > LETTERS_AT_ONCE:
            yield pieces[begin:number]
            begin, letters = number, 0
        letters += own
    yield pieces[begin:]


def tokens_and_trained(pieces: list[Segments], facts: Facts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How long each document is, all their ids end to end (int32), and which of these are trained on (bool)."""
    read = ids_and_runs(pieces, facts)
    ids = [with_begin(one, facts.begin) for one, _ in read]
    runs = list(chain.from_iterable([(len(whole) - len(one), False), *runs] for whole, (one, runs) in zip(ids, read)))
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    input_ids = np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum()))
    return lengths, input_ids, np.repeat(np.array([flag for _, flag in runs], bool), [count for count, _ in runs])


def table_of(offsets: np.ndarray, input_ids: np.ndarray, labels: np.ndarray) -> pa.Table:
    """The documents whose tokens lie end to end, each from one of the ``offsets`` to the next, as two int32 columns."""
    import pyarrow as pa

    edges = pa.array(offsets.astype(np.int32))
    columns = {"input_ids": input_ids.astype(np.int32, copy=False), "labels": labels.astype(np.int32, copy=False)}
    return pa.table({name: pa.ListArray.from_arrays(edges, pa.array(values)) for name, values in columns.items()})


def ids_and_runs(pieces: list[Segments], facts: Facts) -> list[tuple[list[int], Runs]]:
    """The ids of each document, its text tokenised whole, and which of them are trained on.

    A prompt is compared with the same text alone, from the last token on that stands for itself in any text (a mark of
    the template, as a rule): what is before such a token is read without regard to what is behind it.
    """
    if facts.backend is None:
        read = slow_reader(facts.tokenizer)
        return [cut_document(one, read) for one in pieces]
    texts = ["".join(text for text, _ in one) for one in pieces]
    try:
        encodings = facts.backend.encode_batch(texts, add_special_tokens=False)
    except Exception as problem:  # tokenizers has no class of its own for a text that a vocabulary cannot write
        raise InputError(
            f"the tokenizer cannot write this data ({first_line(problem)}); its vocabulary is not whole, take another."
        ) from None
    found = [runs_of(encoding, one, facts.own) for encoding, one in zip(encodings, pieces)]
    prompts = sorted({text for *_, checks in found for text, _ in checks})
    alone = dict(zip(prompts, facts.backend.encode_batch_fast(prompts, add_special_tokens=False)))
    read = reader(facts.backend)
    return [
        (ids, runs) if all(alone[text].ids == expected for text, expected in checks) else cut_document(one, read)
        for one, (ids, runs, checks) in zip(pieces, found)
    ]


def runs_of(
    encoding: Any, pieces: Segments, own: frozenset[int]
) -> tuple[list[int], Runs, list[tuple[str, list[int]]]]:
    """A document's ids, which are trained on, and what must hold: how a prompt ends, and the ids of that alone.

    ``own``: the ids of tokens that are looked for in a text before all others.
    """
    ids, text = encoding.ids, "".join(text for text, _ in pieces)
    runs: Runs = []
    checks = []
    end = done = 0
    for number, (piece, trained) in enumerate(pieces, start=1):
        end += len(piece)
        tokens, straddles = tokens_before(encoding, end, len(text))
        runs.append((tokens - done, trained))
        done = tokens
        if not trained and number < len(pieces):  # what comes next is trained on, so this ends a prompt
            first = next((at for at in range(tokens - 1, -1, -1) if ids[at] in own), -1)
            begin = encoding.token_to_chars(first)[0] if first >= 0 else 0
            if straddles or first < tokens - 1:
                checks.append((text[begin:end], ids[max(first, 0) : tokens]))
    return ids, runs, checks


# ------------------------------------------------------------------------------------- the tokenizer's template


def written_by_tokenizer(dialogues: Sequence[Dialogue], tokenizer: Any, skipped: list[str] | None) -> list[Segments]:
    """``tokenizer_segments`` of those dialogues that the template does not refuse."""
    together = not any(getattr(dialogue, "tools", None) for dialogue in dialogues)  # each has tools of its own
    try:
        if together:
            return tokenizer_segments(dialogues, tokenizer)
    except Refused:  # one of them, and nobody says which
        pass
    return list(one_by_one(dialogues, lambda one: tokenizer_segments(one, tokenizer), skipped))


def tokenizer_segments(dialogues: Sequence[Dialogue], tokenizer: Any) -> list[Segments]:
    """The pieces of every dialogue under the tokenizer's own chat template; one list per dialogue.

    All dialogues are rendered in two calls, for a call has its price. Raises InputError when the tokenizer has no
    template, Refused where it cannot write one of the dialogues or rewrites it (see ``segments_by_difference``).
    """
    turns = [[turn for turn, one in enumerate(dialogue) if one["role"] == "assistant"] for dialogue in dialogues]
    tools = getattr(dialogues[0], "tools", None) if len(dialogues) == 1 else None
    prompts = [Dialogue(dialogue[:turn]) for dialogue, answers in zip(dialogues, turns) for turn in answers]
    answered = [Dialogue(dialogue[: turn + 1]) for dialogue, answers in zip(dialogues, turns) for turn in answers]
    before = iter(rendered(tokenizer, prompts, add_generation_prompt=True, tools=tools))
    after = iter(rendered(tokenizer, answered, add_generation_prompt=False, tools=tools))
    results: list[Segments] = []
    for dialogue, answers in zip(dialogues, turns):
        if answers:
            said = [dialogue[turn] for turn in answers]
            texts = list(islice(after, len(answers)))
            results.append(segments_by_difference(islice(before, len(answers)), texts, said))
            if tools or any(one["role"] == "system" or len(one) > 2 for one in dialogue):
                written = Dialogue(dialogue[: answers[-1] + 1], tools=tools)
                check_written(written, texts[-1], lambda one: rendered(tokenizer, [one], False, one.tools)[0])
        else:  # text that no template adds to; the tokenizer's own would have put its begin mark in front
            begin = tokenizer.bos_token if begin_id(tokenizer) is not None else ""
            results.append([(begin, False), *written_by_name([dialogue], tokenizer, "plain")[0]])
    return results


def rendered(
    tokenizer: Any, dialogues: Sequence[Dialogue], add_generation_prompt: bool, tools: list[Any] | None = None
) -> list[str]:
    """Each dialogue as the text of the tokenizer's own chat template; Refused if that raises."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template of its own; {another_template()}."
        )
    if not dialogues:
        return []
    try:
        with bounded():
            return tokenizer.apply_chat_template(
                list(dialogues),
                tools=tools,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **with_its_day(tokenizer),
            )
    except Exception as error:  # a template is a program, it may raise anything
        reason = f"the chat template of the tokenizer refuses this dialogue ({first_line(error)})"
        raise Refused(reason, f"{another_template()}, change the data, or skip it with skip_bad = True") from None


def segments_by_difference(before: Iterable[str], after: Iterable[str], said: Iterable[Message]) -> Segments:
    """Pieces of one dialogue from its texts up to each answer and including it: A ⊂ AB ⊂ ABC ⊂ ABCD.

    ``said``: the answers as they are in the data. Raises Refused when a text does not begin with the one before it:
    some templates drop old reasoning. White space behind the end mark (``<|im_end|>\\n``) is the template's line break,
    not the model's word.
    """
    pieces: Segments = []
    done = ""
    for prompt, text, message in zip(before, after, said, strict=True):
        if not prompt.startswith(done) or not text.startswith(prompt):
            raise Refused(
                "the chat template of the tokenizer rewrites earlier turns when a dialogue grows, so what is trained "
                "on cannot be told",
                f"{another_template()}, cut the data into dialogues of one answer, or skip it with skip_bad = True",
            )
        answer = text[len(prompt) :]
        end = len(answer.rstrip())
        content = (message["content"] or "").strip()
        if not message.get("end_mark", True) and content in answer:  # the template writes the mark all the same
            end = answer.rindex(content) + len(content)
        pieces += [(prompt[len(done) :], False), (answer[:end], message.get("trained", True)), (answer[end:], False)]
        done = text
    return pieces
