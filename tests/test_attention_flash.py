"""The flash-attn packages as a CPU can test them: what each is handed, and what it says when it is not there.

A stand-in has the argument list of the real function, refuses what the real kernel refuses, and computes the rest by
the reference.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from expect import refused
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from varlen_lab.attention import choosing, flash, torch_varlen
from varlen_lab.attention.choosing import import_problem
from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.huggingface import varlen_attention
from varlen_lab.attention.reference import Options, attend_reference
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.packing.boundaries import Boundaries

LENGTHS = [1, 7, 30, 2]
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "gqa": {"heads": (6, 2)},
    "window": {"window": 5},
    "bidirectional": {"causal": False},
    "bidirectional window": {"causal": False, "window": 4},
    "head dim 20": {"widths": (20, 20)},
    "head dim 33": {"widths": (33, 33)},
    "head dim 64": {"widths": (64, 64)},
    "mla": {"widths": (24, 16)},
    "mla, odd": {"widths": (20, 13), "heads": (4, 2)},
    "scale": {"scale": 0.3},
}
CAPPED: dict[str, dict[str, Any]] = {"softcap": {"softcap": 2.0}}
BIASED: dict[str, dict[str, Any]] = {"alibi": {"alibi": True}}


def kernel_rules(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: torch.Tensor, longest: int) -> None:
    """What every one of them refuses in C++ or by an assertion."""
    width = q.shape[-1]
    assert k.shape[-1] == v.shape[-1] == width, "one head dim"
    assert width % 8 == 0, "head_size should be a multiple of 8"
    assert width <= 256, "head dimension at most 256"
    assert cu.dtype == torch.int32 and longest == int(cu.diff().max())


def computed(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: torch.Tensor, scale: float, window: Any, **more: Any
) -> torch.Tensor:
    """The reference for a kernel's (left, right) window; None: no limit."""
    left, right = window
    assert right in (0, left), "a causal or a symmetric window"
    options = Options(scale, right == 0, None if left is None else left + 1, **more)
    return attend_reference(q, k, v, Boundaries(cu), options)


# --------------------------------------------------------------------------------- the functions of the packages


def fa2(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
        causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
        return_attn_probs=False, block_table=None):  # fmt: skip
    """flash-attn 2.8: pads head dims in Python, so odd ones are its own affair."""
    SEEN.append(deterministic)
    left, right = (None if side < 0 else side for side in window_size)
    kernel_rules(q, k, v, cu_seqlens_q, max_seqlen_q)
    return computed(q, k, v, cu_seqlens_q, softmax_scale, (left, 0 if causal else right),
                    softcap=softcap or None, alibi_slopes=alibi_slopes)  # fmt: skip


def fa3(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None,
        softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
        window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False,
        sm_margin=0, return_attn_probs=False):  # fmt: skip
    """hopper/flash_attn_interface.py of August 2026."""
    return fa2(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, 0.0, softmax_scale, causal,
               window_size, softcap, None, deterministic)  # fmt: skip


def fa4(q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None,
        min_seqlen_k=None, seqused_q=None, seqused_k=None, gather_kv_indices=None, page_table=None,
        softmax_scale=None, causal=False, window_size=(None, None), learnable_sink=None, softcap=0.0, num_splits=1,
        pack_gqa=None, deterministic=False, score_mod=None, return_lse=False):  # fmt: skip
    """flash-attn-4 4.0.0b36: None is no limit, -1 is not, and the log-sum-exp always comes along."""
    assert all(side is None or side >= 0 for side in window_size), "a window of -1 hides everything"
    SEEN.append(deterministic)
    kernel_rules(q, k, v, cu_seqlens_q, max_seqlen_q)
    left, right = window_size
    window = (left, 0 if causal else right)
    return computed(q, k, v, cu_seqlens_q, softmax_scale, window, softcap=softcap or None), None


SEEN: list[bool] = []  # the ``deterministic`` of every call
PACKAGES = {
    "flash_attn": ("flash_attn.flash_attn_interface", fa2),
    "flash_attn_3": ("flash_attn_interface", fa3),
    "flash_attn_4": ("flash_attn.cute", fa4),
}
EVERY = [*PACKAGES, "flash_attn_hub", "torch_varlen"]


def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None,
                window_size=(-1, -1), enable_gqa=False, seqused_k=None, block_table=None, num_splits=None):  # fmt: skip
    """torch 2.13's: groups only when they are announced, causal only by the window (-1, 0), a tuple."""
    assert cu_seq_q is cu_seq_k, "torch >= 2.15 takes cuDNN only then"
    assert enable_gqa == (query.shape[1] != key.shape[1])
    kernel_rules(query, key, value, cu_seq_q, max_q)
    assert isinstance(window_size, tuple)
    left, right = (None if side < 0 else side for side in window_size)
    return computed(query, key, value, cu_seq_q, scale, (left, right))


def varlen_attn_211(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None,
                    window_size=(-1, -1)):  # fmt: skip
    """torch 2.11's: no word for groups."""
    gqa = query.shape[1] != key.shape[1]
    return varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size,
                       enable_gqa=gqa)  # fmt: skip


def on_hopper(*call: Any) -> choosing.Job:
    return choosing.job_of_call(*call)._replace(device="cuda", dtype="bfloat16", capability=(9, 0))


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All packages installed, and CPU tensors of any dtype taken for those of a GPU."""
    for name, function in PACKAGES.values():
        module: Any = ModuleType(name)
        module.flash_attn_varlen_func = function
        monkeypatch.setitem(sys.modules, name, module)
    kernels: Any = ModuleType("kernels")
    kernels.get_kernel = lambda repo, *, version: sys.modules["flash_attn.flash_attn_interface"]
    monkeypatch.setitem(sys.modules, "kernels", kernels)
    for module in (flash, torch_varlen):
        monkeypatch.setattr(module, "job_of_call", on_hopper)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    monkeypatch.setattr(torch_varlen, "ANNOUNCES_GROUPS", True)
    SEEN.clear()
    import_problem.cache_clear()
    flash.downloaded.cache_clear()
    yield
    import_problem.cache_clear()
    flash.downloaded.cache_clear()


def run(backend: str, case: dict[str, Any]) -> list[torch.Tensor]:
    """Output and the three gradients under one case."""
    case = dict(case)
    (heads, groups), (width, value_width) = case.pop("heads", (4, 4)), case.pop("widths", (16, 16))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(sum(LENGTHS), *shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((heads, width), (groups, width), (groups, value_width))
    )
    if case.pop("alibi", False):
        case["alibi_slopes"] = torch.logspace(-1, -8, heads, base=2)
    out = attend(q, k, v, Boundaries.from_lengths(LENGTHS), backend=backend, **case)
    (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
    return [out.detach(), *(x.grad for x in (q, k, v))]  # type: ignore[list-item]


def equal(backend: str, case: dict[str, Any]) -> None:
    for mine, oracle in zip(run(backend, case), run("reference", case), strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-6, atol=1e-7)  # slopes are handed over in float32


# ---------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_kernel_is_asked_for_what_the_reference_computes(packages: None, backend: str, case: dict) -> None:
    equal(backend, case)


@pytest.mark.parametrize("backend", [name for name in EVERY if name != "torch_varlen"])
def test_softcap_and_slopes_reach_those_that_know_them(packages: None, backend: str) -> None:
    equal(backend, CAPPED["softcap"])
    if backend in ("flash_attn", "flash_attn_hub"):
        equal(backend, BIASED["alibi"])
    else:
        with refused(r"cannot bias scores \(ALiBi\); use 'auto'"):
            run(backend, BIASED["alibi"])


def test_torch_has_neither(packages: None) -> None:
    for case, words in ((CAPPED["softcap"], "cap scores"), (BIASED["alibi"], "bias scores")):
        with refused(f"'torch_varlen' cannot {words}"):
            run("torch_varlen", case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_torch_2_11_is_told_nothing_of_groups(packages: None, monkeypatch: pytest.MonkeyPatch, case: dict) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn_211)
    monkeypatch.setattr(torch_varlen, "ANNOUNCES_GROUPS", False)
    equal("torch_varlen", case)


@pytest.mark.parametrize("width", [20, 33])
def test_a_head_that_is_not_widened_is_refused_by_the_stand_in(
    packages: None, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """The planted fault: without the zeros the kernel raises, as the real one would."""
    monkeypatch.setattr(torch_varlen, "ALIGNMENT", 1)
    monkeypatch.setattr(flash, "ALIGNMENT", 1)
    for backend in EVERY:
        with pytest.raises(AssertionError, match="multiple of 8"):
            run(backend, {"widths": (width, width)})


def test_a_minus_one_for_version_4_would_be_seen(packages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = flash.window_size
    monkeypatch.setattr(flash, "window_size", lambda options, open_end: real(options, -1))
    with pytest.raises(AssertionError, match="window of -1"):
        run("flash_attn_4", {})


@pytest.mark.parametrize("through", ["attend", "transformers"])
def test_both_seams_are_the_same_object(packages: None, through: str) -> None:
    """The stand-in raises when they are not. Through transformers as a GPU's batch goes: not read back, not copied."""
    q, k, v = torch.randn(3, sum(LENGTHS), 4, 16)
    row = Boundaries.from_lengths(LENGTHS)
    oracle = attend(q, k, v, row, backend="reference")
    if through == "attend":
        out = attend(q, k, v, row, backend="torch_varlen")
    else:
        heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
        out, _ = varlen_attention(
            torch.nn.Module(), *heads_first, None, backend="torch_varlen",
            cu_seq_lens_q=row.cu_seqlens, cu_seq_lens_k=row.cu_seqlens.clone(), max_length_q=row.max_seqlen,
        )  # fmt: skip
        out = out[0]
    torch.testing.assert_close(out, oracle)


# ------------------------------------------------------------------------------------------------- deterministic


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("backend", [name for name in EVERY if name != "torch_varlen"])
def test_a_package_is_told_what_torch_was_told(packages: None, backend: str, request: pytest.FixtureRequest) -> None:
    run(backend, {})
    request.getfixturevalue("deterministic")
    if BACKENDS[backend].deterministic:
        run(backend, {})
    assert [False, True][: 1 + BACKENDS[backend].deterministic] == SEEN


def test_what_cannot_be_repeated_is_said(packages: None, deterministic: None) -> None:
    run("flash_attn_3", {"widths": (192, 192)})
    with refused("'flash_attn_3' is repeatable for head dims up to 192, not for 256"):
        run("flash_attn_3", {"widths": (256, 256)})
    with refused(r"'flash_attn_4' cannot give equal bits again \(deterministic\)"):
        run("flash_attn_4", {})


def test_a_probe_says_what_the_build_said(packages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    job = choosing.Job("cpu", "bfloat16", 64)
    flash.failure.cache_clear()
    assert flash.failure("flash_attn", job) is None

    def trimmed(*given: Any, **more: Any) -> None:
        raise RuntimeError("this build supports head dims 64 and 128 only, got 96\nmore")

    monkeypatch.setattr(sys.modules["flash_attn.flash_attn_interface"], "flash_attn_varlen_func", trimmed)
    said = flash.failure("flash_attn", job._replace(head_dim=96))
    assert said == "this build supports head dims 64 and 128 only, got 96"
    flash.failure.cache_clear()


CARD = choosing.Job("cpu", "bfloat16", 24, capability=(9, 0))  # as if a CPU were one


def asked() -> str | None:
    """What the probe says, asked as if it had not been before."""
    flash.failure.cache_clear()
    return flash.failure("flash_attn", CARD)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_probe_inside_of_a_checkpoint_saves_nothing_there(packages: None, reentrant: bool) -> None:
    """Its tensors would be counted as the layer's, and the backward pass finds others, for it does not ask again."""
    said = []

    def layer(x: torch.Tensor) -> torch.Tensor:
        if not said:
            said.append(asked())
        return x.sin().sin()

    x = torch.ones(3, requires_grad=True)
    checkpoint(layer, x, use_reentrant=reentrant).sum().backward()
    assert said == [None] and torch.equal(x.grad, torch.autograd.grad(x.sin().sin().sum(), x)[0])  # type: ignore


def test_a_probe_shows_a_selective_checkpoint_no_operation(packages: None) -> None:
    """What it keeps it hands out by count: the probe's product would be taken for the layer's."""
    said, seen = [], Counter[str]()

    def policy(context: Any, operation: Any, *args: Any, **more: Any) -> CheckpointPolicy:
        seen[operation._schema.name] += 1
        return CheckpointPolicy.MUST_SAVE

    def layer(x: torch.Tensor) -> torch.Tensor:
        if not said:
            said.append(asked())
        return x @ x

    x = torch.ones(3, 3, requires_grad=True)
    context = partial(create_selective_checkpoint_contexts, policy)
    checkpoint(layer, x, use_reentrant=False, context_fn=context).sum().backward()
    assert said == [None] and set(seen) == {"aten::mm"}


@pytest.mark.parametrize(
    "around",
    [
        torch.no_grad,
        torch.inference_mode,
        partial(torch.autocast, "cpu", torch.float16),
        FakeTensorMode,
        partial(torch.device, "meta"),
        partial(torch.autograd.graph.saved_tensors_hooks, lambda x: pytest.fail("saved"), lambda x: x),
    ],
)
def test_a_probe_answers_alike_wherever_it_is_asked_first(packages: None, around: Callable[[], Any]) -> None:
    """Gradients are computed, of real tensors in the dtype that was asked for."""
    given = []
    module: Any = sys.modules["flash_attn.flash_attn_interface"]
    real = module.flash_attn_varlen_func

    def noting(q: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        given.append((type(q), q.dtype, q.device.type, q.requires_grad, (q @ q.mT).dtype))
        return real(q, *args, **more)

    module.flash_attn_varlen_func = noting
    with around():
        assert asked() is None
    assert given == [(torch.Tensor, torch.bfloat16, "cpu", True, torch.bfloat16)]


def test_a_probe_asks_the_card_in_use(packages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new thread would take the first card, whatever this one uses."""
    used: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    flash.failure.cache_clear()
    flash.failure("flash_attn", CARD._replace(device="cuda"))
    assert used == [3]
    flash.failure.cache_clear()


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("backend", EVERY)
def test_a_cpu_tensor_is_refused_in_words(backend: str) -> None:
    x = torch.randn(4, 1, 16, dtype=torch.float16)
    with refused(f"backend '{backend}' runs on cuda, not on cpu; use 'auto', or one that varlen-lab check-env lists"):
        attend(x, x, x, Boundaries.from_lengths([4]), backend=backend)


@pytest.mark.parametrize("backend", [*PACKAGES, "flash_attn_hub"])
def test_a_package_that_is_not_there_is_named_with_its_command(
    packages: None, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*(name for name, _ in PACKAGES.values()), "kernels"]:
        monkeypatch.setitem(sys.modules, name, None)
    choosing.import_problem.cache_clear()
    with refused(f"backend '{backend}' cannot be loaded: .*; pip install "):
        run(backend, {})


def test_a_hub_that_does_not_answer_is_one_sentence(packages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(repo: str, *, version: int) -> None:
        raise OSError(f"cannot reach the hub\nfor {repo}")

    monkeypatch.setattr(sys.modules["kernels"], "get_kernel", offline)
    with refused(r"kernels-community/flash-attn2, version 4, from the hub \(cannot reach the hub\); fetch it once"):
        run("flash_attn_hub", {})


def test_the_hub_is_asked_for_what_transformers_was_tested_with(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import modeling_flash_attention_utils as theirs

    assert flash.hub_source()[0].startswith("kernels-community/")
    monkeypatch.setattr(theirs, "FLASH_ATTN_KERNEL_FALLBACK", {"flash_attention_2": "kernels-community/next"})
    monkeypatch.setattr(theirs, "FLASH_ATTN_KERNEL_VERSIONS", {"kernels-community/next": 7}, raising=False)
    assert flash.hub_source() == ("kernels-community/next", 7)
    monkeypatch.delattr(theirs, "FLASH_ATTN_KERNEL_VERSIONS")  # as in transformers 5.17
    assert flash.hub_source() == (flash.HUB_KERNEL, flash.HUB_VERSION)
