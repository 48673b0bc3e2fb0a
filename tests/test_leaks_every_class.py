"""The audit's verdict is what an independent measurement says, over all classes and transformers' own attentions.

Independent: tokens of one document are replaced, and the logits of every other document must not move; and every
document alone must have the logits it has in the row.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from packed import packed_row
from turns import by_turns

from varlen_lab.errors import InputError
from varlen_lab.leaks.checking import audit
from varlen_lab.models.miniature import miniature
from varlen_lab.models.sizes import SPECIAL, VOCABULARY
from varlen_lab.studies.census import causal_lm_types

LENGTHS = [5, 1, 35, 18]  # a one-token document, and some longer than a miniature's windows and chunks
ROUNDING = 1e-5  # of the largest logit
UNSURE = (3e-6, 1e-4)  # between these a difference may be rounding that a class amplifies
LAYERS = {"recurrent layer", "attention of its own", "depends on the row", "rope scaling"}
CALLS = {"attention ignores the seams", "keywords dropped", "keyword ignored", "wrong attention", "chunk", "window"}
EXPECTED = {
    "positions": LAYERS | CALLS | {"position_ids not restarted", "refused"},
    "cache": LAYERS | CALLS | {"position_ids not restarted", "refused", "use_cache"},
    "recommended": LAYERS | CALLS | {"position_ids not restarted", "refused"},
}
ATTENTIONS = ("eager", "sdpa")


def batches() -> dict[str, dict[str, Any]]:
    """The same row as people pass it: positions alone; with a cache; and all that transformers' page recommends."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(SPECIAL, VOCABULARY, (sum(LENGTHS),), generator=draw).tolist()
    row = packed_row(LENGTHS, ids)
    positions = {name: row[name] for name in ("input_ids", "position_ids")}
    seams = {name: value for name, value in row.items() if name.startswith(("cu_seq", "max_length"))}
    numbers = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))[None].int()
    return {
        "positions": positions | {"use_cache": False},
        "cache": positions | {"use_cache": True},
        "recommended": positions | seams | {"seq_idx": numbers, "use_cache": False},
    }


def independent(model: Any, batch: dict[str, Any]) -> float:
    """The largest change of a document's logits by its neighbours' tokens or by its neighbours' presence, of scale."""
    ids, ends = batch["input_ids"], torch.tensor(LENGTHS).cumsum(0).tolist()
    spans = list(zip([0, *ends], ends, strict=False))

    def logits(**inputs: Any) -> torch.Tensor:
        fresh = copy.deepcopy(model)  # some models remember the longest row they met
        with torch.no_grad():
            return fresh(**inputs).logits[0]

    packed = logits(**batch)
    worst = 0.0
    for start, end in spans:
        alone = logits(input_ids=ids[:, start:end], use_cache=False)
        worst = max(worst, float((packed[start:end] - alone).abs().max()))
        others = ids.clone()
        others[:, start:end] = (others[:, start:end] - SPECIAL + 17) % (VOCABULARY - SPECIAL) + SPECIAL
        change = (logits(**batch | {"input_ids": others}) - packed).abs().amax(-1)
        change[start:end] = 0
        worst = max(worst, float(change.max()))
    return worst / float(packed.abs().max())


def built(name: str, attention: str) -> Any:
    """The miniature, or None where transformers has none with this attention."""
    try:
        return miniature(name, attention).eval()
    except InputError:
        return None


@pytest.mark.parametrize("name", by_turns(causal_lm_types(), always=4))
def test_the_audit_says_what_an_independent_measurement_says(name: str) -> None:
    for attention in ATTENTIONS:
        model = built(name, attention)
        clean = True
        for how, batch in batches().items() if model is not None else ():
            where = (name, attention, how)
            try:
                measured = independent(model, batch)
            except Exception:  # a class refuses what it cannot do, each in its own way
                measured = math.inf
            try:
                report = audit(model, batch, boundaries=LENGTHS)
            except InputError as refusal:  # no verdict: never of a model that is right
                assert measured > ROUNDING, (where, refusal)
                continue
            kinds = {finding.kind for finding in report.findings}
            if measured <= UNSURE[0] or measured > UNSURE[1]:
                assert report.ok == (measured <= UNSURE[0]), (where, measured, report)
            # where a part of the model could not be examined, the report says which
            admitted = len(kinds) > 1 or not report.leaks.any() or any("not examined" in note for note in report.notes)
            assert kinds <= EXPECTED[how] | ({"unexplained"} if admitted else set()), (where, report)
            if how == "positions":
                clean = report.ok
            elif how == "cache" and clean and not report.ok:  # nothing else has changed
                assert kinds & {"use_cache", "refused"}, (where, report)
            elif how == "recommended" and clean:  # these keywords break nothing, or are refused
                assert kinds <= {"refused"}, (where, report)


@pytest.mark.parametrize("kind", ["llama", "mamba2"])
def test_the_independent_measurement_finds_a_leak_and_no_other(kind: str) -> None:
    model, batch = miniature(kind, "eager").eval(), batches()["positions"]
    leaking = independent(model, batch | {"position_ids": torch.arange(sum(LENGTHS))[None]})
    assert leaking > 0.01
    assert (independent(model, batch) <= ROUNDING) == (kind == "llama")
