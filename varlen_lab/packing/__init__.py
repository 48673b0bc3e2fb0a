"""Packing: documents into rows, and the seams that stay with them.

``boundaries``  Boundaries, the one carrier of seams        ``planner``  lengths -> packs
``rows``        packs -> a packed dataset                   ``collate``  rows -> batches, three ways
``report``      what packing does to a dataset, in numbers
"""

from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.collate import PackedCollator, PaddedCollator, VarlenCollator
from varlen_lab.packing.dataset import pack_dataset
from varlen_lab.packing.planner import Packs, pack_lengths
from varlen_lab.packing.report import PackReport

__all__ = [
    "Boundaries",
    "PackReport",
    "PackedCollator",
    "PaddedCollator",
    "Packs",
    "VarlenCollator",
    "pack_dataset",
    "pack_lengths",
]
