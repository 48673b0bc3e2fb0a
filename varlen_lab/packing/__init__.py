"""Packing: documents into rows, and the boundaries that stay with them.

``boundaries``  Boundaries, the one carrier of seams        ``registry``    strategies, over-long rules, weightings
``strategies``  pack_lengths and pack_dataset, the plan and its report
``whole``       what is placed; best_fit, concat            ``tightest``  ``sequential``
``rows``        a plan becomes Arrow rows, kept on disk     ``readers``     rows for loops: a stream, a memory map
``collators``   rows -> batches, in three ways              ``cost``        what packing does to a training run
"""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "boundaries": ["Boundaries"],
        "collators": ["PackedCollator", "PaddedCollator", "VarlenCollator", "token_weights"],
        "cost": ["Cost"],
        "readers": ["PackedStream", "RowReader"],
        "rows": ["document_lengths"],
        "sequential": ["SequentialPacker"],
        "strategies": ["PackReport", "Packs", "pack_dataset", "pack_lengths"],
    },
)
