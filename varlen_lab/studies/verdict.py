"""What a comparison found, in numbers and in words: nothing here runs a model.

The loss of an untrained model hides a leak: a convolution of width 3 across the seams moves it by less than rounding.
So gradients and logits of the first step are told beside the losses. And two exact runs drift apart as well, for floats
are summed in another order: a later drift is called rounding only where a control, the unpacked run once more with its
documents in other groups, drifts as far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from varlen_lab.attention.timing import Choice
from varlen_lab.errors import plural
from varlen_lab.files.strict import strict_json
from varlen_lab.language.saying import counted, say, speaking
from varlen_lab.training.history import History

ROUNDING = 1e-5  # differences up to here are rounding of a float32 run
HALF_ROUNDING = 2e-3  # the same in bf16 and fp16, as a share of the loss: they keep 8 and 11 bits
AS_MUCH, AS_LATE = 10, 2  # how much larger, and how much sooner, a drift may be than that of two exact runs


@dataclass(frozen=True)
class FirstStep:
    """The largest differences between packed documents and each alone, as shares of the largest logit and gradient."""

    logits: float
    gradients: float
    documents: int
    tokens: int
    scaled: bool  # the weights were scaled for it
    number: int = 1  # of the step, the first with a seam
    precise: bool = False  # half precision cannot tell: it was measured in float32

    def sentence(self) -> str:
        """Such as ``gradients and logits of the first step equal documents alone: 3e-07``."""
        how = say(", with weights scaled so that every layer matters") if self.scaled else ""
        how += say(", on a copy in float32, for half precision cannot tell") if self.precise else ""
        first = self.number == 1
        return say(
            "gradients and logits of {step} equal documents alone: {most:.0e} over {documents} of {tokens}{how}",
            step=say("the first step") if first else say("step {number}, the first with a seam,", number=self.number),
            most=max(self.logits, self.gradients),
            documents=counted(self.documents, "document"),
            tokens=counted(self.tokens, "token"),
            how=how,
        )


@dataclass(frozen=True)
class Comparison:
    """The histories of the modes, by name; ``losses[mode]`` is a list with one mean loss per step."""

    histories: dict[str, History]
    cosines: dict[str, float] = field(default_factory=dict)  # of the first step's gradient with the first mode's
    start: str | None = None  # the checkpoint all modes began with; None: from the config's own weights
    first_step: FirstStep | None = None  # of varlen, against documents alone
    control: list[float] | None = None  # unpacked in other groups, minus unpacked: where varlen drifted away

    @property
    def losses(self) -> dict[str, list[float]]:
        """Mean loss per trained token of each step, for each mode."""
        return {mode: history.losses for mode, history in self.histories.items()}

    def difference(self, mode: str, base: str = "unpacked") -> list[float]:
        """Paired differences ``mode - base``, step by step; 0 for a step without a trained token."""
        return differences(self.histories[mode], self.histories[base])

    def rounding_from(self) -> int | None:
        """The first step where varlen differs by more than ``tolerance``; ``keeps_apart`` says whether by rounding.

        Training is chaotic: two exact runs drift apart after enough steps, because floats are summed in another order.
        """
        return first_beyond(self.difference("varlen"), self.tolerance())

    @property
    def keeps_apart(self) -> bool:
        """False when varlen does not equal unpacked: from the first step on, or by more than rounding later."""
        if not {"unpacked", "varlen"} <= set(self.histories) or (start := self.rounding_from()) is None:
            return True
        if start == 1 or self.control is None:
            return start > 1
        return is_rounding(self.difference("varlen"), self.control, self.tolerance())

    @property
    def untrained_steps(self) -> int:
        """Steps without a trained token: the same documents in all modes, and nothing to compare."""
        return next(iter(self.histories.values())).untrained_steps

    def tolerance(self) -> list[float]:
        """What rounding may do to the loss of each step, in the precision of the run."""
        if self.histories["unpacked"].meta["dtype"] == "fp32":
            return [ROUNDING] * len(self.losses["unpacked"])
        return [HALF_ROUNDING * (0.0 if math.isnan(loss) else abs(loss)) for loss in self.losses["unpacked"]]

    @property
    def kernel(self) -> Choice | None:
        """The receipt of varlen's kernel; None when that mode was not run."""
        found = self.histories["varlen"].meta.get("kernel_choice") if "varlen" in self.histories else None
        return Choice(**found) if found else None

    @property
    def caption(self) -> str:
        """What the numbers were measured on, in one line."""
        meta = next(iter(self.histories.values())).meta
        kernel = self.histories["varlen"].meta["backend"] if "varlen" in self.histories else meta["backend"]
        return say(
            "{config} · varlen backend {kernel} · {device} · {dtype} · seed {seed}",
            kernel=kernel,
            **{name: meta[name] for name in ("config", "device", "dtype", "seed")},
        )

    def in_brief(self) -> list[str]:
        """For a line of a report, what matters most first: the verdict, of what, how far apart, measured on what."""
        history = next(iter(self.histories.values()))
        meta, proven = history.meta, {"unpacked", "varlen"} <= set(self.histories)
        proof = self.first_step
        return [
            f"compare {'proves nothing' if not proven else 'ok' if self.keeps_apart else 'not ok'}: {meta['config']}",
            f"loss {max(map(abs, self.difference('varlen'))):.0e}" if proven else "",
            meta["dtype"],
            meta["device"].split()[0],
            plural(len(history.records), "step"),
            plural(round(history.total("tokens")), "token"),
            f"gradients {proof.gradients:.0e}" if proof else "",
            f"seed {meta['seed']}",
            *(f"{name} {meta[name]}" for name in ("torch", "transformers") if name in meta),
        ]

    def table(self) -> list[dict[str, Any]]:
        """One row a mode: losses, real tokens a second, padding share, backend, distance to unpacked."""
        base = "unpacked" if "unpacked" in self.histories else next(iter(self.histories))
        return [
            {
                "mode": mode,
                "first loss": history.trained_losses[0],
                "last loss": history.trained_losses[-1],
                f"max |Δ| to {base}": max(map(abs, self.difference(mode, base))),
                "gradient cosine": self.cosines.get(mode, float("nan")),
                "real tokens/s": history.tokens_per_second,
                "CPU seconds": history.total("cpu_seconds"),
                "peak MiB": round(history.meta.get("peak_memory", 0) / 2**20),
                "padding": history.padding_share,
                "backend": history.meta["backend"],
            }
            for mode, history in self.histories.items()
        ]

    def to_json(self) -> str:
        """Everything, for a file: its sentences are English, whatever is spoken."""
        runs = {mode: {"meta": h.meta, "records": h.records} for mode, h in self.histories.items()}
        with speaking("en"):
            verdict = self.verdict()
        proof = {"verdict": verdict, "keeps_apart": self.keeps_apart, "control": self.control}
        step = None if self.first_step is None else asdict(self.first_step)
        return strict_json({"runs": runs, "table": self.table(), "first_step": step, **proof}, indent=1)

    def packed_verdict(self) -> str:
        """What leaving the seams out did, and what it started from; empty when it was not run."""
        if not {"packed", "varlen"} <= set(self.histories):
            return ""
        records = self.histories["varlen"].records
        gaps = [
            gap
            for gap, record in zip(self.difference("packed", "varlen"), records, strict=True)
            if not record.get("untrained")
        ]
        above, head = sum(gap > 0 for gap in gaps), gaps[:6]
        if self.start is None:
            return say(
                "packed without seams is another training: above varlen in {above} of {steps}. "
                "From scratch this count depends on the seed; --from CHECKPOINT shows what a trained model loses",
                above=above,
                steps=counted(len(gaps), "step"),
            )
        return say(
            "packed without seams, going on from {start}: above varlen in {above} of the first {steps}, "
            "by {mean:.3f} on average; later the model gets used to it",
            start=self.start,
            above=sum(gap > 0 for gap in head),
            steps=counted(len(head), "step"),
            mean=sum(head) / len(head),
        )

    def verdict(self) -> str:
        """What the differences say, in a sentence."""
        if not {"unpacked", "varlen"} <= set(self.histories):
            return say("unpacked and varlen were not both run, there is nothing to prove")
        start, steps = self.rounding_from(), len(self.losses["varlen"])
        worst = max(map(abs, self.difference("varlen")))
        if start is None:
            alone = self.histories["unpacked"].meta.get("one_at_a_time")
            how = say(" (one document at a time, for in a padded batch they hear one another)") if alone else ""
            every = say("the one step") if steps == 1 else say("all {steps} steps", steps=steps)
            equal = "varlen equals unpacked{how} in {every}: the largest difference is {worst:.1e}"
            return say(equal, how=how, every=every, worst=worst)
        if start == 1:
            gap = self.difference("varlen")[0]
            return say("varlen differs from unpacked at the first step, by {gap:.1e}: it leaks", gap=gap)
        within = say(
            "varlen equals unpacked within {limit:.0e} up to step {last} of {steps}",
            limit=max(self.tolerance()),
            last=start - 1,
            steps=steps,
        )
        told = {"within": within, "start": start, "worst": worst}
        if self.control is None:
            return say("{within}; from step {start} on they drift apart (largest difference {worst:.1e})", **told)
        told["other"] = say(
            "two unpacked runs that sum in another order by {most:.1e}", most=max(map(abs, self.control))
        )
        words = (
            "{within}; from step {start} on rounding takes over: they differ by up to {worst:.1e}, {other}"
            if self.keeps_apart
            else "{within}; from step {start} on they differ by up to {worst:.1e}, {other} only: it is no rounding"
        )
        return say(words, **told)


def differences(history: History, base: History) -> list[float]:
    """The losses of a history minus those of ``base``, step by step; 0 for a step without a trained token."""
    pairs = zip(history.records, base.records, strict=True)
    return [0.0 if one.get("untrained") else one["loss"] - two["loss"] for one, two in pairs]


def is_rounding(drift: Sequence[float], control: Sequence[float], limits: Sequence[float]) -> bool:
    """Whether two exact runs, step by step apart by ``control``, explain how far two others are apart.

    They do when they leave the ``limits`` within ``AS_LATE`` times as many steps, or get ``AS_MUCH`` as far: once
    it is past rounding, a drift soon ends anywhere, so either alone would now and then be chance.
    """
    first, own = first_beyond(drift, limits), first_beyond(control, limits)
    soon = first is not None and own is not None and own <= AS_LATE * first
    return soon or max(map(abs, drift)) <= AS_MUCH * max(map(abs, control))


def first_beyond(drift: Sequence[float], limits: Sequence[float]) -> int | None:
    """The number of the first step, from 1, whose drift exceeds its limit."""
    pairs = zip(drift, limits, strict=True)
    return next((step for step, (gap, limit) in enumerate(pairs, start=1) if abs(gap) > limit), None)
