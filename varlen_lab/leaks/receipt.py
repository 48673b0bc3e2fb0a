"""What a leak check of a training run leaves behind: a verdict, and all that is needed to make the same check again.

    receipt = LeakCheck.check(model, batch)   # or, in a trainer, receipt.json
    receipt.ok                                # True, or see receipt.findings: name, cause, fix, where of each
    receipt["kernel"]                         # "varlen/sdpa": what attention really ran on

A receipt is plain JSON. Long lists in it are cut, with their length beside them; the digests are of the whole.
"""

from __future__ import annotations

import hashlib
import platform
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from varlen_lab.errors import InputError, LeakFound
from varlen_lab.files.strict import strict_json
from varlen_lab.files.writing import written_whole
from varlen_lab.leaks.report import Finding
from varlen_lab.leaks.running import host_of
from varlen_lab.machine.environment import version

FORMAT = 1
MOST_SEAMS = 257  # numbers of cu_seqlens that a receipt holds
MOST_BYTES = 1 << 28  # of a tensor that are digested: of a larger one the bytes of evenly spaced tokens
ALWAYS = ("torch", "transformers")
WHERE_IMPORTED = ("trl", "accelerate", "peft", "datasets", "liger_kernel", "deepspeed", "unsloth", "axolotl")


@dataclass(frozen=True, eq=False)
class Receipt:
    """What was checked and what was found. ``receipt["ok"]`` reads it as the JSON file has it."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    kernel: str  # attn_implementation/kernel, as far as that can be told
    model: str
    documents: int
    tokens: int
    bitwise: bool | None  # whether logits keep their bits when other documents change; None: not measured
    parity: dict[str, float | None] = field(default_factory=dict)  # packed against alone: logits, loss, gradients
    loss: dict[str, Any] = field(default_factory=dict)  # how the loss is divided
    seams: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    isolated: tuple[str, ...] = ()  # layers that run document by document
    device: str = ""
    dtype: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""

    checked: bool = True

    @property
    def ok(self) -> bool:
        """No finding, where there was something to check."""
        return self.checked and not self.findings

    @classmethod
    def of_nothing(cls, model: Any, why: str) -> Receipt:
        """The receipt of a check that could not be made, with the sentence that says so."""
        name = type(host_of(model)).__name__ if isinstance(model, torch.nn.Module) else "no model"
        facts = {"versions": versions_now(), "command": command_now()}
        return cls((), (why,), "not seen", name, 0, 0, None, checked=False, **facts)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "format": FORMAT,
            "ok": self.ok,
            "checked": self.checked,
            "findings": [
                {"name": one.name, "cause": one.cause, "fix": one.fix, "where": one.where} for one in self.findings
            ],
            "notes": list(self.notes),
            "model": self.model,
            "kernel": self.kernel,
            "documents": self.documents,
            "tokens": self.tokens,
            "bitwise": self.bitwise,
            "isolated": list(self.isolated),
            "parity": self.parity,
            "loss": self.loss,
            "seams": self.seams,
            "digests": self.digests,
            "device": self.device,
            "dtype": self.dtype,
            "seconds": round(self.seconds, 3),
            "versions": self.versions,
            "command": self.command,
        }

    def __getitem__(self, name: str) -> Any:
        return self.to_dict()[name]

    def __str__(self) -> str:
        head = (
            f"{'✓ ok' if self.ok else '✗ not ok'}: {self.documents} document{'s' * (self.documents != 1)} of "
            f"{self.tokens} tokens, {self.model}, attention {self.kernel}"
        )
        return "\n".join([head, *(f"✗ {one}" for one in self.findings), *(f"· {note}" for note in self.notes)])

    def write(self, path: Path) -> None:
        """Write the receipt as JSON, whole or not at all; InputError where the path cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path, "w") as file:
                file.write(strict_json(self.to_dict(), indent=1, ensure_ascii=False) + "\n")
        except OSError as problem:
            why = problem.strerror or type(problem).__name__
            raise InputError(
                f"the receipt cannot be written to {path} ({why}); name a file in a folder that can be written, as in "
                "LeakCheck(receipt='runs/receipt.json')."
            ) from None

    def problem(self, when: str = "") -> LeakFound:
        """The error for a receipt with findings, which carries it. ``when``: what became of the training run."""
        names = ", ".join(dict.fromkeys(one.name for one in self.findings))
        error = LeakFound(
            f"{self.model} on this batch does not train as on its documents one by one ({names}){when}; mend what "
            "stands below.\n" + "\n".join(f"✗ {one}" for one in self.findings)
        )
        error.receipt = self
        return error


def digest_of(tensor: torch.Tensor) -> str:
    """Sixteen hex digits of a tensor's numbers, shape and type.

    Of one larger than ``MOST_BYTES`` those of evenly spaced rows of its first dimension count.
    """
    shape, flat = tuple(tensor.shape), tensor.detach()
    if flat.ndim > 1 and flat.numel() * flat.element_size() > MOST_BYTES:
        flat = flat.flatten(0, -2)
        step = -(-flat.numel() * flat.element_size() // MOST_BYTES)
        flat = flat[::step]
    known = hashlib.blake2b(f"{shape} {tensor.dtype}".encode(), digest_size=8)
    known.update(flat.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return known.hexdigest()


def seams_in_words(cu_seqlens: torch.Tensor) -> dict[str, Any]:
    """``cu_seqlens`` of a receipt: all of them, or the first ones with their count."""
    numbers = cu_seqlens.tolist()
    cut = {"cut": f"the first {MOST_SEAMS} of {len(numbers)}"} if len(numbers) > MOST_SEAMS else {}
    return {"cu_seqlens": numbers[:MOST_SEAMS], "documents": len(numbers) - 1, **cut}


def versions_now() -> dict[str, str]:
    """Versions of what computes, and of the trainers that this process has imported."""
    import varlen_lab

    found = {"python": platform.python_version(), "varlen_lab": varlen_lab.__version__}
    named = [*ALWAYS, *(name for name in WHERE_IMPORTED if name in sys.modules)]
    return found | {name: known for name in named if (known := version(name.replace("_", "-")))}


def command_now() -> str:
    """The command of this process, as one can type it again."""
    return shlex.join([Path(sys.executable).name, *sys.argv]) if sys.argv else ""
