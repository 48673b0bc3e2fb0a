"""The correctness section of the GPU benchmark, on a CPU: a sound kernel passes it, each planted fault does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from machines import rehearsing

from benchmarks.gpu import correctness
from benchmarks.gpu.bench import row_of
from varlen_lab.attention import sdpa
from varlen_lab.attention.choosing import AttentionShape
from varlen_lab.packing.boundaries import Boundaries


def checked(tmp_path: Path) -> dict[str, Any]:
    here = rehearsing(tmp_path)
    return correctness.checked(here, row_of(here.scale.ugly, "cpu"), "sdpa", AttentionShape(4, 2, 16, 16))


def test_a_sound_kernel_passes(tmp_path: Path) -> None:
    found = checked(tmp_path)
    assert found["exact"] and found["isolated"] and found["leak"] == 0.0 and "status" not in found


def merged(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries, options: Any) -> torch.Tensor:
    lengths = row.lengths.tolist()
    return SOUND(q, k, v, Boundaries.from_lengths([*lengths[:3], lengths[3] + lengths[4], *lengths[5:]]), options)


def bidirectional(*args: Any) -> torch.Tensor:
    return SOUND(*args[:-1], args[-1]._replace(causal=False))


def wrong_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any) -> torch.Tensor:
    """Fewer key heads taken in turn, and not each for its group of query heads."""
    times = q.shape[1] // k.shape[1]
    return SOUND(q, k.repeat(1, times, 1), v.repeat(1, times, 1), *args)


def rough(*args: Any) -> torch.Tensor:
    return SOUND(*args).bfloat16().float() * 1.02


def holes(q: torch.Tensor, *args: Any) -> torch.Tensor:
    """A kernel that leaves its last token unwritten."""
    out = SOUND(q, *args)
    return torch.cat([out[:-1], torch.full_like(out[-1:], float("nan"))])


SOUND = sdpa.attend_sdpa


@pytest.mark.parametrize("fault", [merged, bidirectional, wrong_heads, rough, holes], ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(fault: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdpa, "attend_sdpa", fault)
    found = checked(tmp_path)
    assert not found["exact"] and found["status"] == "wrong" and found["why"]
    assert (not found["isolated"] and found["leak"] > 0) == (fault is merged)
    json.dumps(found)
