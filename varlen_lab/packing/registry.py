"""The packing strategies, the rules for over-long documents and the loss weightings, each a record.

The settings of a config, ``pack_lengths``, ``token_weights``, the help of ``pack-report`` and the benchmarks read these
dicts when they need them. To add a strategy, add one ``Strategy`` here and write the function that it names:

    function(lengths, max_length, seed, lookahead) -> Placement

It gets the lengths of what is to be placed (int64, at least one; none over ``max_length`` where documents stay whole)
and returns which of them share a row (see ``varlen_lab.packing.whole.Placement``).

This file imports nothing, so that settings are read without numpy and torch: functions are named, not held.
"""

from __future__ import annotations

from dataclasses import dataclass

IGNORE = -100  # the label of a token that is not trained on: PyTorch's cross entropy skips it
# keywords of a model's call that tell it of documents, beside position_ids; with the first one alone they can be told
SEAM_KEYWORDS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
# columns of TRL, transformers and others that say of every token whether it is trained on, 1 or 0
LOSS_MASKS = ("assistant_masks", "completion_mask", "loss_mask")
# columns that say where the documents of a packed row begin and end, in words that are not ours (``seq_lengths``)
SEAM_COLUMNS = (
    "cu_seqlens",
    "cu_seq_lens",
    "cumulative_len",
    "segment_ids",
    "sequence_ids",
    "document_ids",
    "doc_ids",
    "seq_idx",
)


@dataclass(frozen=True)
class Strategy:
    """One way to decide which documents share a row."""

    name: str
    function: str  # "module:function", imported when it is used
    about: str  # one line for docs and help
    keeps_whole: bool = True  # False: it gets the lengths of documents as they are, and cuts them itself
    setting: bool = True  # False: not a ``pack_strategy`` of a config, only a baseline to compare with


@dataclass(frozen=True)
class Weighting:
    """One choice of what a trained token counts for in the loss: 1 / trained tokens of its ``unit``."""

    name: str
    unit: str  # "token", "document" or "row": what counts the same, however many trained tokens it has
    about: str  # one line for docs and help


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("best_fit", "varlen_lab.packing.whole:best_fit", "whole documents, the longest first"),
        Strategy("tightest", "varlen_lab.packing.tightest:tightest", "the same or fewer rows; slower"),
        Strategy("sequential", "varlen_lab.packing.sequential:sequential", "whole documents, nearly in their order"),
        Strategy("concat", "varlen_lab.packing.whole:concat", "cut wherever a row ends", keeps_whole=False),
        Strategy("unpacked", "varlen_lab.packing.whole:unpacked", "one document a row: the baseline", setting=False),
    )
}

# What happens to a document that is longer than a row. ``concat`` needs no rule: it cuts anyway.
OVERLONG: dict[str, str] = {
    "truncate": "its tail is cut off, and counted",
    "split": "it is cut into pieces, each a document of its own",
    "drop": "it is left out, and counted",
    "error": "nothing is packed, the error names it",
}

WEIGHTINGS: dict[str, Weighting] = {
    weighting.name: weighting
    for weighting in (
        Weighting("token", "token", "every trained token counts the same"),
        Weighting("sample", "document", "every document counts the same, long or short"),
        Weighting("pack", "row", "every row counts the same"),
        Weighting("longalign", "document", "LongAlign's scaling; over a whole step it is sample"),
    )
}
