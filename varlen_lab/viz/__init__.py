"""Pictures: plain lengths and losses in, a matplotlib Figure out; nothing here saves or shows.

``poke``     draw_poke, who notices a changed token
``figures``  draw_masks, the picture of the idea         ``losses``  draw_losses, curves and their differences
``rows``     draw_rows, before and after packing         ``lengths`` draw_lengths, how long the documents are
``seen``     draw_seen, promised and measured masks      ``explorer`` explore_masks (``widget``) and LiveLosses
``floors``   draw_floors, the loss no honest run is below
``shifts``   draw_shifts, what leaks do to a loss
``rates``    draw_speeds and draw_rates, what is fast    ``explorer_page`` the explorer as HTML (``policy``: its rights)
``verdicts`` draw_verdicts, a square a model class
``cost``     draw_cost, the triangle that attention costs  ``effect`` draw_gaps and draw_effect, what a leak trains
``masks``    exact counts, outlines and words            ``strips``  what stands around the two squares of a mask figure
``steps``    explore_steps and draw_held_out, what packing does to steps
``style``    colours and type, and the Figure that carries its alt text
``explorer_words`` what the explorer says in the browser, a table a language
"""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.viz.cost import alt_text_cost as alt_text_cost
    from varlen_lab.viz.cost import draw_cost as draw_cost
    from varlen_lab.viz.effect import alt_text_effect as alt_text_effect
    from varlen_lab.viz.effect import alt_text_gaps as alt_text_gaps
    from varlen_lab.viz.effect import draw_effect as draw_effect
    from varlen_lab.viz.effect import draw_gaps as draw_gaps
    from varlen_lab.viz.explorer import LiveLosses as LiveLosses
    from varlen_lab.viz.explorer import explore_masks as explore_masks
    from varlen_lab.viz.figures import alt_text_masks as alt_text_masks
    from varlen_lab.viz.figures import draw_masks as draw_masks
    from varlen_lab.viz.floors import alt_text_floors as alt_text_floors
    from varlen_lab.viz.floors import draw_floors as draw_floors
    from varlen_lab.viz.lengths import alt_text_lengths as alt_text_lengths
    from varlen_lab.viz.lengths import draw_lengths as draw_lengths
    from varlen_lab.viz.losses import alt_text_losses as alt_text_losses
    from varlen_lab.viz.losses import draw_losses as draw_losses
    from varlen_lab.viz.masks import count_cells as count_cells
    from varlen_lab.viz.poke import draw_poke as draw_poke
    from varlen_lab.viz.rates import Rate as Rate
    from varlen_lab.viz.rates import alt_text_rates as alt_text_rates
    from varlen_lab.viz.rates import alt_text_speeds as alt_text_speeds
    from varlen_lab.viz.rates import draw_rates as draw_rates
    from varlen_lab.viz.rates import draw_speeds as draw_speeds
    from varlen_lab.viz.rows import alt_text_rows as alt_text_rows
    from varlen_lab.viz.rows import draw_rows as draw_rows
    from varlen_lab.viz.seen import alt_text_seen as alt_text_seen
    from varlen_lab.viz.seen import draw_seen as draw_seen
    from varlen_lab.viz.shifts import alt_text_shifts as alt_text_shifts
    from varlen_lab.viz.shifts import draw_shifts as draw_shifts
    from varlen_lab.viz.steps import alt_text_held_out as alt_text_held_out
    from varlen_lab.viz.steps import draw_held_out as draw_held_out
    from varlen_lab.viz.steps import explore_steps as explore_steps
    from varlen_lab.viz.verdicts import alt_text_verdicts as alt_text_verdicts
    from varlen_lab.viz.verdicts import draw_verdicts as draw_verdicts
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
