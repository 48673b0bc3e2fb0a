"""Known traps, found by looking at a model and a batch, before anything runs.

All of them are silent in transformers: the run goes on, and attention crosses the seams. transformers' own ``sdpa`` and
``eager`` find packed documents only if ``position_ids`` restart, there is no ``attention_mask``, and no cache is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from varlen_lab.attention.huggingface import AUTO
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.errors import InputError, plural
from varlen_lab.leaks.prompts import masked_out, prompts_trained
from varlen_lab.leaks.report import Finding
from varlen_lab.leaks.running import NATIVE, attention_name, host_of
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.registry import IGNORE, LOSS_MASKS

TEXT_AND_PLANES = 4  # planes of position_ids: of the text, and of time, height and width
REMEDY = "build the batch with varlen_lab.packing.VarlenCollator and load the model with attn_implementation='varlen'"


def documents_of(batch: Mapping[str, Any], boundaries: Any) -> tuple[Boundaries, list[str]]:
    """The documents of a batch, row after row, and what had to be guessed."""
    if "input_ids" not in batch:
        has = ", ".join(batch) or "nothing"
        raise InputError(f"the batch has {has} but no input_ids; pass what goes into model(**batch).")
    ids = batch["input_ids"]
    for name in {"input_ids", "labels", "position_ids", "cu_seq_lens_q", "cu_seq_lens_k", *LOSS_MASKS} & batch.keys():
        if not isinstance(batch[name], torch.Tensor):
            raise InputError(f"{name} of the batch is a {type(batch[name]).__name__}, pass it as a tensor.")
    if ids.ndim != 2:
        raise InputError(f"input_ids has the shape {tuple(ids.shape)}, it must be (rows, tokens); input_ids[None] is.")
    notes: list[str] = []
    if boundaries is None and "cu_seq_lens_q" in batch:
        boundaries, notes = told_by_seams(batch)
    elif boundaries is None and "position_ids" in batch:
        starts = starts_in(batch)
        if not starts or starts[0]:
            raise InputError("position_ids do not start at 0, the documents cannot be told; pass boundaries.")
        boundaries = Boundaries(torch.tensor([*starts, ids.numel()], dtype=torch.int32, device=ids.device))
        notes.append(
            "documents were read from position_ids == 0, which cannot tell two one-token documents from padding"
        )
    elif boundaries is None:
        raise InputError("the batch has neither cu_seq_lens_q nor position_ids; pass boundaries, e.g. [70, 300, 180].")
    elif not isinstance(boundaries, Boundaries):
        boundaries = Boundaries.from_lengths(boundaries, ids.device)
    if boundaries.total != ids.numel():
        raise InputError(
            f"the boundaries cover {boundaries.total} tokens and input_ids has {ids.numel()}, they must agree; "
            "pass the lengths of all documents, row after row."
        )
    return boundaries, notes


def starts_in(batch: Mapping[str, Any]) -> list[int]:
    """The tokens of a batch, row after row, whose positions are 0; of positions in several planes, in all of them."""
    zeros = batch["position_ids"] == 0
    zeros = zeros.all(0) if zeros.ndim == 3 else zeros
    if zeros.shape != batch["input_ids"].shape and zeros.shape[:1] == (1,) == zeros.shape[:-1]:
        zeros = zeros.expand(len(batch["input_ids"]), -1)  # one row of positions for all
    starts: list[int] = zeros.reshape(-1).nonzero().flatten().tolist()
    return starts


def told_by_seams(batch: Mapping[str, Any]) -> tuple[Boundaries, list[str]]:
    """The documents of a batch that has ``cu_seq_lens_q``, and a note where its positions tell of others.

    Seams may be what is wrong: positions that restart inside of a row, elsewhere than at seams, are right then. A tail
    of zeros is padding.
    """
    seams = Boundaries(batch["cu_seq_lens_q"].to(torch.int32))
    ids, positions = batch["input_ids"], batch.get("position_ids")
    if positions is None or positions.shape[-1] != ids.shape[1] or seams.total != ids.numel():
        return seams, []
    starts, ends = starts_in(batch), {start for start, _ in seams.spans}
    zeros = set(starts)
    last = next((end for end in range(ids.numel(), 0, -1) if end - 1 not in zeros), 0)  # of what is no tail of zeros
    if last < ids.numel() - 1:
        starts = [start for start in starts if start < last or start in ends]
    if not starts or starts[0] or ends == set(starts) or all(start % ids.shape[1] == 0 for start in starts):
        return seams, []
    others = Boundaries(torch.tensor([*starts, ids.numel()], dtype=torch.int32, device=ids.device))
    what = f"cu_seq_lens_q tells of {plural(len(seams), 'document')} and position_ids of {len(others)}, at other places"
    return others, [f"{what}: those of position_ids were measured; pass boundaries where they are not the documents"]


def preflight(model: Any, batch: Mapping[str, Any], *, boundaries: Any = None) -> list[Finding]:
    """Every known trap that this model with this batch steps into, without running it."""
    documents, _ = documents_of(batch, boundaries)
    implementation = attention_name(model)
    if len(documents.spans) == len(batch["input_ids"]):
        return []  # one document in each row: there is no seam to cross
    if planes := list(planes_not_read(batch, implementation)):
        return planes
    if implementation in NATIVE:
        return list(native_traps(model, batch, documents, implementation))
    if "flash" in implementation:
        return list(flash_traps(model, batch, implementation))
    if implementation.startswith(AUTO) and "cu_seq_lens_q" not in batch:  # all our names begin so
        return [Finding("cu_seq_lens missing", "batch", "our attention was not told the seams", REMEDY)]
    return []


def planes_not_read(batch: Mapping[str, Any], implementation: str) -> Iterator[Finding]:
    """Positions of time, height and width without a plane of the text, in which documents could be found."""
    positions, seams = batch.get("position_ids"), implementation.startswith(AUTO) or "flash" in implementation
    if (
        positions is None
        or positions.ndim != 3
        or len(positions) == TEXT_AND_PLANES
        or (seams and "cu_seq_lens_q" in batch)
    ):
        return
    beside = f", and {implementation} does not read cu_seq_lens_q" if "cu_seq_lens_q" in batch else ""
    yield Finding(
        "3-D positions",
        "batch['position_ids']",
        f"position_ids have {len(positions)} planes and none of the text, so no document is found in them{beside}",
        f"pass four planes, the first with positions that restart in every document, or {REMEDY}",
    )


def native_traps(model: Any, batch: Mapping[str, Any], documents: Boundaries, implementation: str) -> Iterator[Finding]:
    """What keeps ``sdpa`` and ``eager`` from finding the documents."""
    config, positions = getattr(host_of(model), "config", None), batch.get("position_ids")
    inner = [start for start, _ in documents.spans if start % batch["input_ids"].shape[1]]
    flat = positions.reshape(-1) if positions is not None else None
    # a seam that positions run through is invisible to sdpa and eager, whatever else the batch says
    through = [seam for seam in inner if flat is None or int(flat[seam]) - int(flat[seam - 1]) == 1]
    if through and "cu_seq_lens_q" in batch:
        yield Finding(
            "cu_seq_lens ignored",
            "batch['cu_seq_lens_q']",
            f"{implementation} does not read cu_seq_lens, and position_ids do not restart at "
            f"{plural(len(through), 'seam')}",
            "load the model with attn_implementation='varlen', or pass position_ids that restart at every seam",
        )
    elif through:
        yield Finding(
            "position_ids not restarted",
            "batch['position_ids']",
            f"positions run through {len(through)} of {plural(len(inner), 'seam')} (the first at token {through[0]})",
            "let position_ids start again at 0 in every document; VarlenCollator does",
        )
    mask = batch.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        kind = "an all-ones" if bool((mask != 0).all()) else "a 2-D"
        yield Finding(
            "attention_mask",
            "batch['attention_mask']",
            f"{kind} attention_mask switches off {implementation}'s search for documents",
            "leave attention_mask out of a packed batch",
        )
    if batch.get("use_cache", getattr(config, "use_cache", False)):
        said = "is True" if "use_cache" in batch else "was not passed and the config's default is True"
        yield Finding(
            "use_cache",
            "batch['use_cache']",
            f"use_cache {said}: with a cache {implementation} does not look for documents, in train() neither",
            "pass use_cache=False, or set model.config.use_cache = False",
        )


def flash_traps(model: Any, batch: Mapping[str, Any], implementation: str) -> Iterator[Finding]:
    """What FlashAttention does not say."""
    host, rows = host_of(model), len(batch["input_ids"])
    if rows > 1 and "cu_seq_lens_q" not in batch:
        yield Finding(
            "several rows",
            "batch['input_ids']",
            f"{implementation} looks for documents in a single row only, the batch has {rows}",
            "flatten the rows into one; VarlenCollator does",
        )
    if host.device.type != "cuda":
        yield Finding("kernel missing", "model", f"{implementation} needs a GPU", "use attn_implementation='varlen'")
    if host.dtype not in (torch.float16, torch.bfloat16):
        yield Finding(
            "dtype", "model", f"{implementation} runs in fp16 or bf16, the model is {host.dtype}", "cast the model"
        )
    width = getattr(host.config, "head_dim", None) or 0
    widest = BACKENDS["flash_attn"].widest_head
    if widest is not None and width > widest:
        yield Finding(
            "head dim", "config.head_dim", f"{width} is wider than {widest}", "use attn_implementation='varlen'"
        )


def trained_first_labels(batch: Mapping[str, Any], documents: Boundaries) -> Iterator[Finding]:
    """Labels at the start of a document that its neighbour is asked to predict."""
    if "labels" not in batch:
        return
    labels, width = batch["labels"].reshape(-1), batch["input_ids"].shape[1]
    wrong = [start for start, _ in documents.spans if start % width and int(labels[start]) != IGNORE]
    if wrong:
        yield Finding(
            "border label",
            "batch['labels']",
            f"the first label of {plural(len(wrong), 'document')} is trained on (the first at token {wrong[0]}), "
            "so the last token of one document has to predict the first of the next",
            "set the first label of every document to -100; VarlenCollator does",
        )


def labels_against_masks(batch: Mapping[str, Any], documents: Boundaries) -> Iterator[Finding]:
    """Labels of tokens that a loss mask of the batch leaves out. The first of a document is another matter."""
    ids = batch["input_ids"]
    for name in LOSS_MASKS:
        if name in batch and batch[name].shape != ids.shape:
            raise InputError(
                f"{name} has the shape {tuple(batch[name].shape)} and input_ids {tuple(ids.shape)}, they must be "
                f"alike; pack {name} with its tokens, or leave it out of the batch."
            )
    out, names = masked_out(batch, ids.shape)
    if out is not None:
        out.view(-1)[documents.cu_seqlens[:-1].long()] = False
        found = prompts_trained(batch.get("labels", ids), out, names)
        yield from [found] if found else []


def wrong_labels(batch: Mapping[str, Any], documents: Boundaries) -> list[Finding]:
    """What is wrong with the labels of a batch: no measurement is needed for it."""
    return [*trained_first_labels(batch, documents), *labels_against_masks(batch, documents)]
