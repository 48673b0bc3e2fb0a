"""The check of a function that says whether two sets of weights are one model, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from varlen_lab.course.verdicts import Verdict, Wrong, call, judging, not_yet, right
from varlen_lab.language.saying import phrase

EMBEDDING, HEAD, LAYER = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight"


def cases() -> list[tuple[dict[str, Any], dict[str, Any], bool, str]]:
    """What was trained, what was written, whether it is the same, and the sentence for who says otherwise."""
    import torch

    draw = torch.Generator().manual_seed(0)
    table, layer, other = (torch.randn(4, 3, generator=draw) for _ in range(3))
    trained = {EMBEDDING: table, LAYER: layer, HEAD: table}
    without = {name: value.clone() for name, value in trained.items() if name != HEAD}
    whole = {name: value.clone() for name, value in trained.items()}
    moved = layer.clone()
    moved[0, 0] += 1e-6
    return [
        (trained, whole, True, "these are copies of each other."),
        (
            trained,
            whole | {LAYER: other},
            False,
            "names and shapes agree here, the numbers do not; compare the values.",
        ),
        (
            trained,
            without,
            True,
            "the output layer is missing because it is the embedding, tied: it is stored once, and that is the same "
            "model.",
        ),
        (
            trained | {HEAD: other},
            without,
            False,
            "the output layer is missing and it was *not* the embedding: a model that is opened from this answers "
            "otherwise. Compare it with the embedding before you excuse it.",
        ),
        (
            trained,
            {name: value for name, value in whole.items() if name != LAYER},
            False,
            "a layer is missing, and nobody may excuse that; compare the sets of names in both directions.",
        ),
        (
            trained,
            whole | {"model.layers.0.mlp.up_proj.lora_A.weight": other},
            False,
            "a matrix was written that was never part of the model (an adapter that was not merged); compare the sets "
            "of names in both directions.",
        ),
        (trained, whole | {LAYER: moved}, False, "one number moved by a millionth; 'close' is not 'to the bit'."),
        (trained, dict(reversed(whole.items())), True, "the order of the names means nothing; find weights by name."),
    ]


@judging
def check_same_model(same: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Verdict:
    """A function (trained, written), dicts of tensors by name, that says True where they are one model."""
    for trained, written, wanted, mistake in cases():
        said = call(same, trained=dict(trained), written=dict(written))
        if not isinstance(said, bool):
            raise Wrong(not_yet("say True or False.", wanted, said))
        if said != wanted:
            names, words = ", ".join(written), "{words} (written: {names})"
            raise Wrong(not_yet(words, wanted, said, words=phrase(mistake), names=names))
    return right("every name in both, every number to the bit, and a tied output layer is no loss.")
