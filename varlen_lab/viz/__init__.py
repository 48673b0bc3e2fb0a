"""Pictures: plain lengths and losses in, a matplotlib Figure out; nothing here saves or shows.

``figures``  draw_masks, the picture of the idea         ``losses``  draw_losses, curves and their differences
``rows``     draw_rows, before and after packing         ``lengths`` draw_lengths, how long the documents are
``seen``     draw_seen, promised and measured masks      ``explorer`` explore_masks (``widget``) and LiveLosses
``masks``    exact counts, outlines and words            ``strips``  what stands around the two squares of a mask figure
``style``    colours and type, and the Figure that carries its alt text
"""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "explorer": ["LiveLosses", "explore_masks"],
        "figures": ["alt_text_masks", "draw_masks"],
        "lengths": ["alt_text_lengths", "draw_lengths"],
        "losses": ["alt_text_losses", "draw_losses"],
        "masks": ["count_cells"],
        "rows": ["alt_text_rows", "draw_rows"],
        "seen": ["alt_text_seen", "draw_seen"],
    },
)
