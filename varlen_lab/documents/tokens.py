"""Dialogues become token ids and labels: the documents that packing packs.

Labels are the token where it is trained on (an answer and the mark that ends it) and -100 everywhere else;
the first label of every document is -100, for nothing stands before it that could predict it. A question and
its answer:

    text       <s>   <|user|>  2+2?  </s>  <|assistant|>  4   </s>
    labels    -100    -100     -100  -100      -100       4   </s>

Each segment is tokenised by itself, so a prompt gets the very ids it will get when the model is asked later. Named
templates cut a dialogue into segments in ``templates``. The template inside a tokenizer is a program of its publisher:
here it is run twice for every answer, up to it and including it, and the difference is what the model has to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from varlen_lab.documents.dialogues import Dialogue
from varlen_lab.documents.marks import end_ids as end_ids
from varlen_lab.documents.refusals import Refused, another_template, one_by_one
from varlen_lab.documents.registry import OF_TOKENIZER
from varlen_lab.documents.templates import Segments, segments
from varlen_lab.errors import InputError, first_line
from varlen_lab.packing.registry import IGNORE

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from datasets import Dataset

DIALOGUES_AT_ONCE = 1000  # dialogues tokenised in one call: enough to keep the tokenizer's threads busy


def encode(
    dialogues: Sequence[Dialogue],
    tokenizer: Any,
    *,
    prompt_template: str = OF_TOKENIZER,
    skipped: list[str] | None = None,
    progress: bool = False,
) -> Dataset:
    """One document per dialogue: equally long int32 list columns ``input_ids`` and ``labels``.

    ``prompt_template``: a row of TEMPLATES, or ``tokenizer`` for the tokenizer's own. A named template that does not
    write it gets the tokenizer's ``bos`` in front of the document; a tokenizer's own template writes what it wants.
    Documents without a trained token are dropped; ``dataset.info.description`` says how many.
    ``skipped``: a dialogue that the tokenizer's template refuses is left out, and the sentence that says why and where
    is added to this list. Without a list it raises InputError.
    Raises InputError for an unknown template, for no dialogue, and when every label is masked.
    """
    import datasets
    import pyarrow as pa
    from rich.console import Console
    from rich.progress import track

    tables = []
    refused = len(skipped or ())
    starts = range(0, len(dialogues), DIALOGUES_AT_ONCE)
    bar = Console(stderr=True)
    hidden = not (progress and bar.is_terminal)  # it would leave an empty line in a log
    for start in track(starts, "Tokenising", console=bar, transient=True, disable=hidden):
        pieces = pieces_of(dialogues[start : start + DIALOGUES_AT_ONCE], tokenizer, prompt_template, skipped)
        tables.append(documents_of(pieces, tokenizer, bos_of(tokenizer, prompt_template)))
    kept = sum(len(table) for table in tables)
    refused = len(skipped or ()) - refused
    if skipped and refused == len(dialogues):
        raise InputError(
            f"the template of the tokenizer refused all {refused} dialogues, the first: {skipped[-refused]}; "
            f"{another_template()}."
        )
    if not kept:
        raise InputError(
            f"none of the {len(dialogues)} dialogues has a token to train on under prompt_template "
            f"{prompt_template!r}: every label is masked; give them answers the tokenizer can write."
        )
    dropped = len(dialogues) - refused - kept
    info = datasets.DatasetInfo(description=f"{kept} documents; {dropped} without a token to train on were dropped")
    table = pa.concat_tables(tables)
    return datasets.Dataset(table, info=info, fingerprint=content_digest(table))


def content_digest(table: pa.Table) -> str:
    """Sixteen hex digits of the numbers in a table of lists: what ``datasets`` keeps results of ``map`` under.

    Its own digest pickles the whole table, which takes three times the memory of the documents.
    """
    digest = hashlib.blake2b(digest_size=8)
    for column in table.columns:
        for chunk in column.chunks:
            digest.update(chunk.flatten().to_numpy())
            digest.update(chunk.value_lengths().to_numpy())
    return digest.hexdigest()


def prompt_ids(question: str, tokenizer: Any, prompt_template: str = OF_TOKENIZER, *, system: str = "") -> torch.Tensor:
    """What a model reads before it answers ``question``: int64 ids of shape (1, T), as in training."""
    import torch

    dialogue = Dialogue([{"role": "system", "content": system}] if system else [])
    dialogue.append({"role": "user", "content": question})
    if prompt_template == OF_TOKENIZER:
        text = next(one_by_one([dialogue], lambda one: rendered(tokenizer, one, add_generation_prompt=True)))
    else:
        text = "".join(text for text, _ in named_segments(dialogue, tokenizer, prompt_template))
    bos = bos_of(tokenizer, prompt_template)
    ids = token_ids([text], tokenizer)[0]
    return torch.tensor([([] if bos is None or ids[:1] == [bos] else [bos]) + ids])


def bos_of(tokenizer: Any, prompt_template: str) -> int | None:
    """The id put in front of a document; None where the template itself decides, or the tokenizer has none."""
    return None if prompt_template == OF_TOKENIZER else tokenizer.bos_token_id


def token_ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """The ids of each text, all in one call and nothing added to them."""
    if not texts:
        return []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    as_asked = (None, None, getattr(tokenizer, "split_special_tokens", False))
    if backend is not None and (backend.truncation, backend.padding, backend.encode_special_tokens) == as_asked:
        # the same ids as below, without the offsets and word numbers that nobody asks for
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    # verbose=False: no warning of documents longer than the model takes, packing deals with them
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def pieces_of(
    dialogues: Sequence[Dialogue], tokenizer: Any, prompt_template: str, skipped: list[str] | None = None
) -> list[Segments]:
    """The segments of each dialogue, none of them empty, untrained neighbours joined; ``skipped`` as in ``encode``."""
    if prompt_template == OF_TOKENIZER:
        return list(map(merge_untrained, written_by_tokenizer(dialogues, tokenizer, skipped)))
    return [merge_untrained(named_segments(dialogue, tokenizer, prompt_template)) for dialogue in dialogues]


def named_segments(dialogue: Dialogue, tokenizer: Any, prompt_template: str) -> Segments:
    """The segments of a dialogue under a row of TEMPLATES, with the tokenizer's marks."""
    return segments(dialogue, prompt_template, eos=tokenizer.eos_token or "", bos=tokenizer.bos_token or "")


def written_by_tokenizer(dialogues: Sequence[Dialogue], tokenizer: Any, skipped: list[str] | None) -> list[Segments]:
    """``tokenizer_segments`` of those dialogues that the template does not refuse."""
    try:
        return tokenizer_segments(dialogues, tokenizer)
    except Refused:  # one of them, and nobody says which
        return list(one_by_one(dialogues, lambda one: tokenizer_segments(one, tokenizer), skipped))


def merge_untrained(pieces: Segments) -> Segments:
    """The same text with empty pieces gone and untrained neighbours joined."""
    result: Segments = []
    for text, trained in pieces:
        if text and result and not trained and not result[-1][1]:
            result[-1] = (result[-1][0] + text, False)
        elif text:
            result.append((text, trained))
    return result


def documents_of(pieces: list[Segments], tokenizer: Any, bos: int | None) -> pa.Table:
    """``input_ids`` and ``labels`` of the documents with these segments, the untrainable ones left out."""
    import pyarrow as pa

    all_segments = list(chain.from_iterable(pieces))  # the segments of all documents
    ids = token_ids([text for text, _ in all_segments], tokenizer)
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    input_ids = np.fromiter(chain.from_iterable(ids), np.int32, lengths.sum())
    trained = np.repeat(np.array([is_trained for _, is_trained in all_segments], bool), lengths)
    labels = np.where(trained, input_ids, np.int32(IGNORE))
    ends = np.cumsum([0, *map(len, pieces)])  # the first segment of each document, and the number of all
    offsets = np.cumsum([0, *lengths])[ends]  # the first token of each document, and the number of all
    if bos is not None:
        bare = np.append(input_ids, IGNORE)[offsets[:-1]] != bos  # the documents whose template wrote none
        starts = offsets[:-1][bare]
        input_ids, labels = np.insert(input_ids, starts, bos), np.insert(labels, starts, IGNORE)
        offsets[1:] += np.cumsum(bare)  # each is moved on by the bos of every document before it
    not_empty = offsets[1:] > offsets[:-1]
    labels[offsets[:-1][not_empty]] = IGNORE

    counted = np.concatenate([[0], np.cumsum(labels != IGNORE)])
    keep = counted[offsets[1:]] > counted[offsets[:-1]]
    edges = pa.array(offsets.astype(np.int32))
    columns = {"input_ids": input_ids, "labels": labels}
    table = pa.table({name: pa.ListArray.from_arrays(edges, pa.array(values)) for name, values in columns.items()})
    return table if keep.all() else table.filter(pa.array(keep))  # a filter copies, into twice the room


def tokenizer_segments(dialogues: Sequence[Dialogue], tokenizer: Any) -> list[Segments]:
    """The pieces of every dialogue under the tokenizer's own chat template; one list per dialogue.

    All dialogues are rendered in two calls, for a call has its price. Raises InputError when the tokenizer has no
    template, Refused where it cannot write one of the dialogues or rewrites it (see ``segments_by_difference``).
    """
    turns = [[turn for turn, one in enumerate(dialogue) if one["role"] == "assistant"] for dialogue in dialogues]
    prompts = [Dialogue(dialogue[:turn]) for dialogue, answers in zip(dialogues, turns) for turn in answers]
    answered = [Dialogue(dialogue[: turn + 1]) for dialogue, answers in zip(dialogues, turns) for turn in answers]
    before = iter(rendered(tokenizer, prompts, add_generation_prompt=True))
    after = iter(rendered(tokenizer, answered, add_generation_prompt=False))
    results: list[Segments] = []
    for dialogue, answers in zip(dialogues, turns):
        if answers:
            results.append(segments_by_difference(islice(before, len(answers)), islice(after, len(answers))))
        else:  # text that no template adds to; the tokenizer's own would have put its first token in front
            results.append([(tokenizer.bos_token or "", False), *segments(dialogue, "plain")])
    return results


def rendered(tokenizer: Any, dialogues: Sequence[Dialogue], add_generation_prompt: bool) -> list[str]:
    """Each dialogue as the text of the tokenizer's own chat template; Refused if that raises."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template of its own; {another_template()}."
        )
    if not dialogues:
        return []
    try:
        return tokenizer.apply_chat_template(dialogues, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:  # a template is a program, it may raise anything
        reason = f"the chat template of the tokenizer refuses this dialogue ({first_line(error)})"
        raise Refused(reason, f"{another_template()}, change the data, or skip it with skip_bad = True") from None


def segments_by_difference(before: Iterable[str], after: Iterable[str]) -> Segments:
    """Pieces of one dialogue from its texts up to each answer and including it: A ⊂ AB ⊂ ABC ⊂ ABCD.

    Raises Refused when a text does not begin with the one before it: some templates drop old reasoning.
    White space behind the end mark (``<|im_end|>\\n``) is the template's line break, not the model's word.
    """
    pieces: Segments = []
    done = ""
    for prompt, text in zip(before, after, strict=True):
        if not prompt.startswith(done) or not text.startswith(prompt):
            raise Refused(
                "the chat template of the tokenizer rewrites earlier turns when a dialogue grows, so what is trained "
                "on cannot be told",
                f"{another_template()}, cut the data into dialogues of one answer, or skip it with skip_bad = True",
            )
        answer = text[len(prompt) :]
        trained = answer.rstrip()
        pieces += [(prompt[len(done) :], False), (trained, True), (answer[len(trained) :], False)]
        done = text
    return pieces
