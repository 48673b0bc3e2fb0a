"""Packing: documents into rows, and the seams that stay with them.

``boundaries``  Boundaries, the one carrier of seams        ``segments``    what is placed; the lower bound
``planner``     lengths -> packs, by one of the strategies  ``best_fit``  ``tightest``  ``sequential``
``dataset``     pack_dataset: documents -> packed rows      ``columns``  ``rows``  ``cache``  ``stream``
``reader``      rows straight from memory                   ``collate``     rows -> batches, three ways
``report``      what packing does to a dataset, in numbers; ``cost``: to a training run
"""

from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.collators import PackedCollator, PaddedCollator, VarlenCollator
from varlen_lab.packing.dataset import pack_dataset
from varlen_lab.packing.reader import RowReader
from varlen_lab.packing.report import PackReport
from varlen_lab.packing.sequential import SequentialPacker
from varlen_lab.packing.strategies import Packs, pack_lengths
from varlen_lab.packing.stream import PackedStream

__all__ = [
    "Boundaries",
    "PackReport",
    "PackedCollator",
    "PaddedCollator",
    "PackedStream",
    "Packs",
    "RowReader",
    "SequentialPacker",
    "VarlenCollator",
    "pack_dataset",
    "pack_lengths",
]
