"""Packing: documents into rows, and the seams that stay with them.

``boundaries``  Boundaries, the one carrier of seams        ``segments``    what is placed; the lower bound
``planner``     lengths -> packs, by one of the strategies  ``best_fit``  ``tightest``  ``sequential``
``dataset``     pack_dataset: documents -> packed rows      ``columns``  ``rows``  ``cache``  ``stream``
``reader``      rows straight from memory                   ``collate``     rows -> batches, three ways
``report``      what packing does to a dataset, in numbers; ``cost``: to a training run
"""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "boundaries": ["Boundaries"],
        "collators": ["PackedCollator", "PaddedCollator", "VarlenCollator", "token_weights"],
        "cost": ["Cost"],
        "dataset": ["pack_dataset"],
        "rows": ["RowReader", "document_lengths"],
        "sequential": ["PackedStream", "SequentialPacker"],
        "strategies": ["PackReport", "Packs", "pack_lengths"],
    },
)
