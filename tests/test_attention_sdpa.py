"""PyTorch's own attention, document by document: which cards take grouped heads, and what the others are handed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from expect import refused

from varlen_lab.attention import sdpa
from varlen_lab.attention.choosing import Job
from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.sdpa import takes_groups
from varlen_lab.packing.boundaries import Boundaries

T4, A100, H100 = (7, 5), (8, 0), (9, 0)


@pytest.mark.parametrize(
    ("device", "dtype", "width", "masked", "capability", "fast"),
    [
        ("cpu", "float64", 64, True, None, True),
        ("mps", "float32", 64, False, None, False),
        ("cuda", "bfloat16", 128, False, A100, True),
        ("cuda", "float16", 64, False, H100, True),
        ("cuda", "float16", 64, False, T4, False),  # no FlashAttention before 8.0
        ("cuda", "float32", 64, False, H100, False),  # nor in fp32
        ("cuda", "bfloat16", 64, True, H100, False),  # nor with a mask
        ("cuda", "bfloat16", 256, False, H100, False),  # 193 to 224 not in training on 8.6, 8.9 and 12.0
        ("cuda", "bfloat16", 64, False, None, False),
    ],
)
def test_groups_go_where_flash_attention_takes_them(
    device: str, dtype: str, width: int, masked: bool, capability: Any, fast: bool
) -> None:
    job = Job(device, dtype, width, capability=capability)
    assert takes_groups(job, True, masked) is fast
    if device == "cuda":
        assert not takes_groups(job, False, masked)  # values of another width


@pytest.mark.parametrize("given", ["usual", "in an exception", "not cuDNN", "cuDNN alone"])
def test_only_on_cuda_cudnn_is_left_out_and_comes_back(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"cudnn": given != "not cuDNN", **dict.fromkeys(("flash", "mem_efficient", "math"), given != "cuDNN alone")}
    for name in flags:
        monkeypatch.setattr(torch.backends.cuda, f"{name}_sdp_enabled", lambda name=name: flags[name])
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda on: flags.update(cudnn=on))
    before = dict(flags)
    for device in ("cpu", "mps", "cuda"):
        left_out = device == "cuda" and given != "cuDNN alone"
        with suppress(ZeroDivisionError), sdpa.without_plans(device):
            assert flags == before | ({"cudnn": False} if left_out else {})
            _ = 1 // (given != "in an exception")
        assert flags == before


@pytest.mark.parametrize("options", [{}, {"window": 3}, {"causal": False}], ids=["plain", "window", "bidirectional"])
@pytest.mark.parametrize("fast", [True, False])
def test_repeated_heads_say_the_same(options: dict[str, Any], fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and gradients; the kernel sees as many heads of keys as of queries exactly where groups are slow."""
    heads: list[tuple[int, bool]] = []
    real = sdpa.scaled_dot_product_attention

    def noting(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **words: Any) -> torch.Tensor:
        heads.append((k.shape[1], words["enable_gqa"]))
        return real(q, k, v, **words)

    monkeypatch.setattr(sdpa, "scaled_dot_product_attention", noting)
    monkeypatch.setattr(sdpa, "takes_groups", lambda *_: fast)
    row = Boundaries.from_lengths([4, 1, 9])
    found = []
    for backend in ("sdpa", "reference"):
        generator = torch.Generator().manual_seed(0)
        q, k, v = (
            torch.randn(14, count, 8, generator=generator, dtype=torch.float64).requires_grad_() for count in (6, 2, 2)
        )
        out = attend(q, k, v, row, backend=backend, **options)
        out.square().sum().backward()
        found.append([out, q.grad, k.grad, v.grad])
    torch.testing.assert_close(*found)
    assert set(heads) == {(2, True) if fast else (6, False)}


def test_capped_scores_are_sent_to_a_kernel_that_has_them() -> None:
    q = torch.zeros(2, 1, 8)
    with refused(r"'sdpa' cannot cap scores \(softcap\); use 'auto', or one that varlen-lab check-env lists"):
        attend(q, q, q, Boundaries.from_lengths([2]), backend="sdpa", softcap=5.0)
