"""Pictures: plain lengths and losses in, a matplotlib Figure out; nothing here saves or shows.

``figures``  draw_masks, the picture of the idea         ``losses``  draw_losses, three curves and their gaps
``rows``     draw_rows, before and after packing         ``masks``   exact counts and outlines, no drawing
``lengths``  draw_lengths, how long the documents are    ``seen``    draw_seen, promised and measured masks
``explorer`` explore_masks, the figure with sliders (``widget``, ``explorer.js``)
``style``    the one palette and type                    ``picture`` a Figure that carries its alt text
``packed_row``, ``strips``  the data and the surroundings of the mask figure
"""

from varlen_lab.viz.explorer import explore_masks
from varlen_lab.viz.figures import alt_text_masks, draw_masks
from varlen_lab.viz.lengths import alt_text_lengths, draw_lengths
from varlen_lab.viz.live import LiveLosses
from varlen_lab.viz.losses import alt_text_losses, draw_losses
from varlen_lab.viz.masks import count_cells
from varlen_lab.viz.rows import alt_text_rows, draw_rows
from varlen_lab.viz.seen import alt_text_seen, draw_seen

__all__ = [
    "LiveLosses",
    "alt_text_lengths",
    "alt_text_losses",
    "alt_text_masks",
    "alt_text_rows",
    "alt_text_seen",
    "count_cells",
    "draw_lengths",
    "draw_losses",
    "draw_masks",
    "draw_rows",
    "draw_seen",
    "explore_masks",
]
