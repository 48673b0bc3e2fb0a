"""What draws the numbers of a run as curves, each a record: the values of ``visualizer``. Facts, no code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Visualizer:
    """One package that draws curves. ``function``, a "module:function", opens it: see ``training/curves.py``."""

    name: str
    function: str
    needs: str  # "module:name" of the package; where it is missing, so is the package
    install: str  # the command that brings it


CURVES = "varlen_lab.training.curves:"
VISUALIZERS: dict[str, Visualizer] = {
    visualizer.name: visualizer
    for visualizer in (
        Visualizer(
            "tensorboard",
            CURVES + "open_tensorboard",
            "torch.utils.tensorboard:SummaryWriter",
            "pip install tensorboard",
        ),
        Visualizer("trackio", CURVES + "open_trackio", "trackio:init", "pip install trackio"),
        Visualizer("wandb", CURVES + "open_wandb", "wandb:init", "pip install wandb"),
    )
}
