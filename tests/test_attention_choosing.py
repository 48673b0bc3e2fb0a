"""Which kernel ``auto`` takes on machines one has not got, and what keeps the others away."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from machines import A100, B200, H100, M2, T4

from varlen_lab.attention import choosing
from varlen_lab.attention.choosing import Job, choose, import_problem, why_not
from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.reference import Options
from varlen_lab.attention.registry import BACKENDS, Backend
from varlen_lab.errors import InputError
from varlen_lab.machine.gpu import GpuFacts, automatic_device, automatic_dtype, why_unusable
from varlen_lab.models.building import TORCH_DTYPES
from varlen_lab.packing.boundaries import Boundaries

# ------------------------------------------------------------------------------------- machines one has not got


@pytest.fixture
def only_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a torch with CUDA brings, and no package beside it."""
    brought = ("torch.", "triton")
    monkeypatch.setattr(choosing, "import_problem", lambda module: None if module.startswith(brought) else "absent")


@pytest.mark.parametrize(
    ("facts", "device", "dtype", "backend"),
    [
        (T4, "cuda", "fp16", "sdpa"),
        (A100, "cuda", "bf16", "torch_varlen"),
        (H100, "cuda", "bf16", "torch_varlen"),
        (M2, "mps", "fp32", "sdpa"),
    ],
    ids=["T4", "A100", "H100", "M2"],
)
def test_each_card_gets_what_it_can_run(
    only_torch: None, facts: GpuFacts, device: str, dtype: str, backend: str
) -> None:
    assert automatic_dtype(device, facts) == dtype
    assert choose(device, TORCH_DTYPES[dtype], facts=facts) == backend
    assert automatic_device(facts) == ("cpu" if device == "mps" else device)  # Apple's GPU only when it is named
    assert device == "mps" or why_unusable(facts) is None


@pytest.mark.parametrize(
    ("facts", "softcapped"), [(T4, "reference"), (A100, "flex"), (H100, "flex")], ids=["T4", "A100", "H100"]
)
def test_capped_scores_without_flash_attn(only_torch: None, facts: GpuFacts, softcapped: str) -> None:
    dtype = TORCH_DTYPES[automatic_dtype("cuda", facts)]
    assert choose("cuda", dtype, softcap=50.0, facts=facts) == softcapped
    assert choose("cuda", dtype, alibi=True, facts=facts) == "sdpa"
    assert choose("cuda", dtype, 512, facts=facts) == "sdpa"


def test_flash_attn_3_only_on_hopper_and_2_on_what_it_has_code_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "import_problem", lambda module: None)
    monkeypatch.setattr(choosing, "resolve_name", lambda function: lambda *asked: None)
    taken = {facts.name: choose("cuda", torch.float16, facts=facts) for facts in (T4, A100, H100, B200)}
    assert taken == {
        "Tesla T4": "sdpa", "NVIDIA A100": "flash_attn", "NVIDIA H100": "flash_attn_3", "NVIDIA B200": "flash_attn"
    }  # fmt: skip


@pytest.mark.parametrize("facts", [T4, A100, H100], ids=["T4", "A100", "H100"])
def test_auto_takes_nothing_that_the_card_cannot_run(facts: GpuFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed: in every dtype and width, with caps, slopes and windows."""
    monkeypatch.setattr(choosing, "import_problem", lambda module: None)
    monkeypatch.setattr(choosing, "resolve_name", lambda function: lambda *asked: None)
    for dtype in ("float16", "bfloat16", "float32"):
        for width in (16, 80, 256, 512):
            for softcap, alibi in ((False, False), (True, False), (False, True)):
                job = Job("cuda", dtype, width, softcap, alibi, capability=facts.capability)
                backend = BACKENDS[choosing.first_able(job)]
                assert backend.capability <= (facts.capability or ()) and dtype in (backend.dtypes or (dtype,))
                assert width <= (backend.widest_head or width) and softcap <= backend.softcap and alibi <= backend.alibi


# ------------------------------------------------------------------------------------------------------ reasons


@pytest.mark.parametrize(
    ("name", "job", "words"),
    [
        ("torch_varlen", Job("cpu", "bfloat16"), "runs on cuda, not on cpu"),
        ("torch_varlen", Job("cuda", "float16", capability=(7, 5)), "needs compute capability 8.0, this card has 7.5"),
        ("flash_attn_3", Job("cuda", "float16", capability=(10, 0)), "compute capability 9.x, this card has 10.0"),
        ("torch_varlen", Job("cuda", "float32"), "runs in float16 or bfloat16, not in float32"),
        ("torch_varlen", Job("cuda", "float16", 320), "takes head dims up to 256, not 320"),
        ("torch_varlen", Job("cuda", "float16", softcap=True, alibi=True), "cap scores .* or bias scores"),
        ("flex", Job("cuda", "float32", deterministic=True), r"cannot give equal bits again \(deterministic\)"),
        ("flash_attn_3", Job("cuda", "float16", 256, deterministic=True), "repeatable for head dims up to 192"),
    ],
)  # fmt: skip
def test_what_keeps_a_backend_away_is_said(name: str, job: Job, words: str) -> None:
    why = why_not(BACKENDS[name], job)
    assert why is not None and re.search(words, why), why


def test_a_kernel_that_is_broken_is_not_one_that_is_missing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_kernel.py").write_text("raise OSError('undefined symbol: _ZN3c10\\nmore')")
    (tmp_path / "needs_more.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_problem("no_such_kernel.sub") == "no_such_kernel is not installed"
    broken = import_problem("broken_kernel")
    assert broken is not None and "does not import" in broken and "undefined symbol" in broken and "\n" not in broken
    assert "does not import" in str(import_problem("needs_more"))
    assert import_problem("torch.nn") is None


def test_values_that_are_wider_than_keys_count() -> None:
    """A kernel for heads up to 256 is not asked for values of 320, whatever the width of the keys."""
    q, v = torch.zeros(2, 1, 64, dtype=torch.float16), torch.zeros(2, 1, 320, dtype=torch.float16)
    job = choosing.job_of_call(q, v, Options(1.0))._replace(device="cuda", capability=(9, 0))
    assert choosing.first_able(job) == "sdpa"


def test_nothing_that_can_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("reference", "sdpa"):
        monkeypatch.setitem(BACKENDS, name, Backend(**{**vars(BACKENDS[name]), "devices": ("cuda",)}))
    with pytest.raises(InputError, match="no attention backend computes float32 on cpu; name one"):
        choose("cpu", torch.float32)


def test_the_kernel_a_t4_takes_is_as_close_as_fp16_allows() -> None:
    """Per-document sdpa in half precision, on this CPU: each document as if it were alone, no bit from another one."""
    row = Boundaries.from_lengths([1, 2, 40, 17])
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(row.total, heads, 16, generator=generator).half() for heads in (4, 2, 2))
    backend = choose("cuda", torch.float16, facts=T4)
    out = attend(q, k, v, row, backend=backend)
    truth = attend(q.double(), k.double(), v.double(), row, backend="reference")
    assert (out.double() - truth).norm() / truth.norm() < 1e-3
    q[:3], k[:3], v[:3] = 0, 0, float("nan")
    assert torch.equal(attend(q, k, v, row, backend=backend)[3:], out[3:])
