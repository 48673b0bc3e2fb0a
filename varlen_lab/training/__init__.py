"""From a config to checkpoints, and from a checkpoint to a Hugging Face folder."""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "checkpoint": ["History", "read_checkpoint"],
        "conversion": ["Conversion", "convert", "merge"],
        "data": ["load_rows", "load_tokenizer"],
        "plan": ["Outlook", "plan_steps", "share"],
        "step": ["Batch", "batched", "collator", "token_loss_sum"],
        "trainer": ["train"],
    },
)
