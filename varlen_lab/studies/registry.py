"""The styles of packed batches that the census runs every class on, each a record.

``varlen-lab census --batch``, its tables and docs/census.md read this dict. To add a style, add a ``Style`` here.
"""

from __future__ import annotations

from dataclasses import dataclass

OURS = "ours"  # the style that is never silently wrong


@dataclass(frozen=True)
class Style:
    """One way to tell a model of packed documents."""

    name: str
    about: str  # one line for docs and help
    attention: str = "sdpa"  # the attn_implementation that people run with it
    ours: bool = False  # the batch of VarlenCollator; else that of transformers' DataCollatorWithFlattening
    options: tuple[str, ...] = ()  # of that collator, switched on
    cache: bool = False  # the model is not told use_cache=False


STYLES: dict[str, Style] = {
    style.name: style
    for style in (
        Style("positions", "position_ids that restart and nothing else, use_cache=False"),
        Style(
            "flash",
            "position_ids, cu_seq_lens_q/k, max_length_q/k and seq_idx, use_cache=False",
            options=("return_flash_attn_kwargs", "return_seq_idx"),
        ),
        Style(OURS, "our collator, attention and isolation, use_cache=False", "varlen", ours=True),
        Style("cache", "position_ids that restart and nothing else, the cache left on", cache=True),
    )
}
