"""Packing: documents into rows, and the boundaries that stay with them.

``boundaries``  Boundaries, the one carrier of seams        ``registry``    strategies, over-long rules, weightings
``checks``      of lengths and counts that a person passes in
``strategies``  pack_lengths and pack_dataset, the plan and its report
``whole``       what is placed; best_fit, concat            ``tightest``  ``sequential``
``rows``        a plan becomes Arrow rows, kept on disk     ``readers``     rows for loops: a stream, a memory map
``columns``     what stands beside input_ids: loss masks    ``packed``      a dataset whose rows keep their seams
``through``     seams on the way through other people's trainers
``collators``   rows -> batches, in three ways              ``cost``        what packing does to a training run
``trained``     tokens that are trained on once a plan has cut ``steps``     how many steps, and which learning rate
"""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.packing.boundaries import Boundaries as Boundaries
    from varlen_lab.packing.collators import PackedCollator as PackedCollator
    from varlen_lab.packing.collators import PaddedCollator as PaddedCollator
    from varlen_lab.packing.collators import VarlenCollator as VarlenCollator
    from varlen_lab.packing.collators import token_weights as token_weights
    from varlen_lab.packing.cost import Cost as Cost
    from varlen_lab.packing.readers import PackedStream as PackedStream
    from varlen_lab.packing.readers import RowReader as RowReader
    from varlen_lab.packing.rows import document_lengths as document_lengths
    from varlen_lab.packing.sequential import SequentialPacker as SequentialPacker
    from varlen_lab.packing.steps import StepCount as StepCount
    from varlen_lab.packing.steps import count_steps as count_steps
    from varlen_lab.packing.strategies import PackReport as PackReport
    from varlen_lab.packing.strategies import Packs as Packs
    from varlen_lab.packing.strategies import pack_dataset as pack_dataset
    from varlen_lab.packing.strategies import pack_lengths as pack_lengths
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
