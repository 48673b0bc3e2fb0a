"""From a config to checkpoints, and from a checkpoint to a Hugging Face folder."""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.training.checkpoint import read_checkpoint as read_checkpoint
    from varlen_lab.training.conversion import Conversion as Conversion
    from varlen_lab.training.conversion import convert as convert
    from varlen_lab.training.conversion import merge as merge
    from varlen_lab.training.data import load_rows as load_rows
    from varlen_lab.training.data import load_tokenizer as load_tokenizer
    from varlen_lab.training.history import History as History
    from varlen_lab.training.outlook import Outlook as Outlook
    from varlen_lab.training.plan import plan_steps as plan_steps
    from varlen_lab.training.plan import share as share
    from varlen_lab.training.step import Batch as Batch
    from varlen_lab.training.step import batched as batched
    from varlen_lab.training.step import collator as collator
    from varlen_lab.training.step import token_loss_sum as token_loss_sum
    from varlen_lab.training.trainer import train as train
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
