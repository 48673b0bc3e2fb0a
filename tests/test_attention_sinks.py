"""Sinks: one more key a head, whose score is learned and whose value is zero; alike in every backend that has them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from expect import refused
from packed import packed_row

from varlen_lab.attention import choosing, sdpa
from varlen_lab.attention.choosing import AttentionShape, Job, choose, why_not
from varlen_lab.attention.compiled import whole
from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.reference import attend_reference
from varlen_lab.attention.registry import BACKENDS, Backend
from varlen_lab.attention.timing import CHECKED, measure
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.boundaries import Boundaries

UGLY = [1, 7, 1, 1, 30, 64, 2]
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "mqa": {"heads": (4, 1)},
    "window": {"window": 5, "heads": (6, 2)},
    "window of one": {"window": 1},
    "alibi and window": {"alibi": True, "window": 9, "heads": (4, 2)},
    "mla dims": {"dims": (24, 16)},
    "wide values": {"dims": (16, 24)},
    "scale": {"scale": 0.3},
    "bidirectional": {"causal": False},
    "bidirectional window": {"causal": False, "window": 4},
}


def run(backend: str, case: dict[str, Any], dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Any]:
    """Output and the gradients of q, k, v and the sinks."""
    case = dict(case)
    (heads, keys), (width, values) = case.pop("heads", (4, 4)), case.pop("dims", (16, 16))
    generator, row = torch.Generator().manual_seed(0), Boundaries.from_lengths(UGLY, device)
    sizes = (row.total, heads, width), (row.total, keys, width), (row.total, keys, values), (heads,)
    made = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    made[-1] = torch.linspace(-2, 3, heads, dtype=torch.float64)
    q, k, v, sinks = (x.to(device, dtype).requires_grad_() for x in made)
    if case.pop("alibi", False):
        case["alibi_slopes"] = torch.logspace(-1, -8, heads, base=2, device=device)
    out = attend(q, k, v, row, backend=backend, sinks=sinks, **case)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out)
    (out * weight).sum().backward()
    return [out.detach(), q.grad, k.grad, v.grad, sinks.grad]


def test_sinks_by_hand() -> None:
    """Scores 0 and ln 2, sinks ln 1 and ln 3: a share of 1/2 and 3/4 of the first token, 1/4 and 1/2 of the second."""
    q, k = torch.ones(2, 2, 1), torch.tensor([0.0, math.log(2)]).view(2, 1, 1).expand(2, 2, 1)
    v, sinks = torch.tensor([12.0, 24.0]).view(2, 1, 1).expand(2, 2, 1), torch.tensor([0.0, math.log(3)])
    expected = torch.tensor([[6.0, 3.0], [(12 + 48) / 4, (12 + 48) / 6]])
    for backend in ("reference", "sdpa", "flex"):
        out = attend(q, k, v, Boundaries.from_lengths([2]), backend=backend, sinks=sinks)
        torch.testing.assert_close(out[..., 0], expected)


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sdpa_says_the_same_forward_and_backward(
    case: dict[str, Any], multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with the widths that a GPU's kernels want."""
    monkeypatch.setitem(sdpa.WIDTHS, "cpu", multiple)
    for mine, oracle in zip(run("sdpa", case), run("reference", case), strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-10, atol=1e-11)


def test_the_oracle_is_a_softmax_with_one_more_key() -> None:
    """Its gradients too: by finite differences, and by a key of zeros that is really there."""
    q, k, v = torch.randn(3, 5, 2, 4, dtype=torch.float64).unbind()
    sinks = torch.tensor([0.5, -1.0], dtype=torch.float64)
    row = Boundaries.from_lengths([2, 3])
    given = [x.clone().requires_grad_() for x in (q, k, v, sinks)]
    for backend in ("reference", "sdpa"):
        assert torch.autograd.gradcheck(
            lambda *x, backend=backend: attend(*x[:3], row, backend=backend, sinks=x[3]), given
        )
    # a score of 0 is that of a key of zeros
    bare = attend(q, k, v, row, backend="reference", sinks=torch.zeros(2, dtype=torch.float64))
    front = [torch.cat([x.new_zeros(1, 2, 4), x[:2], x.new_zeros(1, 2, 4), x[2:]]) for x in (q, k, v)]
    told = attend(*front, Boundaries.from_lengths([3, 4]), backend="reference")
    torch.testing.assert_close(bare, told[[1, 2, 4, 5, 6]])


@pytest.mark.parametrize("case", [*CASES.values(), {"softcap": 2.0}, {"softcap": 2.0, "alibi": True}], ids=str)
def test_flex_says_the_same_forward_on_a_cpu(case: dict[str, Any]) -> None:
    with torch.no_grad():
        q, k, v = (torch.randn(sum(UGLY), 4, 16) for _ in range(3))
        options = {name: case[name] for name in ("window", "causal", "scale", "softcap") if name in case}
        if case.get("alibi"):
            options["alibi_slopes"] = torch.logspace(-1, -8, 4, base=2)
        options |= {"sinks": torch.linspace(-2, 3, 4)}
        flex, oracle = (
            attend(q, k, v, Boundaries.from_lengths(UGLY), backend=b, **options) for b in ("flex", "reference")
        )
    torch.testing.assert_close(flex, oracle, rtol=1e-4, atol=1e-5)


def test_the_share_that_flex_takes_away_has_the_right_gradients() -> None:
    """What the kernel gives, its log-sum-exp among it, is written out here: a CPU's has no backward."""
    from varlen_lab.attention.flex import with_sinks

    scores, v = torch.randn(1, 2, 3, 5, dtype=torch.float64), torch.randn(1, 2, 5, 4, dtype=torch.float64)
    sinks = torch.tensor([0.5, -1.0], dtype=torch.float64)

    def shared(scores: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
        return with_sinks(scores.softmax(-1) @ v, scores.logsumexp(-1), sinks)

    def written_out(scores: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
        column = sinks[:, None, None].expand(1, 2, 3, 1)
        return torch.cat([scores, column], -1).softmax(-1)[..., :-1] @ v

    found = []
    for formula in (shared, written_out):
        given = [x.clone().requires_grad_() for x in (scores, v, sinks)]
        out = formula(*given)
        found.append([out, *torch.autograd.grad(out.square().sum(), given)])
    torch.testing.assert_close(*found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_a_cuda_backend_is_as_close_as_bf16_allows(backend: str, case: dict[str, Any]) -> None:
    if why := why_not(BACKENDS[backend], Job("cuda", "bfloat16", 16, capability=choosing.capability_of("cuda"))):
        pytest.skip(f"{backend} {why}")
    for mine, oracle in zip(run(backend, case, torch.bfloat16, "cuda"), run("reference", case), strict=True):
        torch.testing.assert_close(mine.double().cpu(), oracle, rtol=3e-2, atol=5e-2)


def test_very_small_sinks_change_nothing_and_very_large_ones_leave_nothing() -> None:
    q, k, v = torch.randn(3, 9, 2, 8).unbind()
    row = Boundaries.from_lengths([4, 5])
    for backend in ("reference", "sdpa", "flex"):
        plain = attend(q, k, v, row, backend=backend)
        none = attend(q, k, v, row, backend=backend, sinks=torch.full((2,), -1e4))
        torch.testing.assert_close(none, plain)
        assert not attend(q, k, v, row, backend=backend, sinks=torch.full((2,), 1e4)).any()


def test_sinks_of_another_precision_are_taken() -> None:
    """Models keep them in fp32 beside half precision."""
    q, k, v = torch.randn(3, 9, 2, 8, dtype=torch.bfloat16).unbind()
    row, sinks = Boundaries.from_lengths([4, 5]), torch.tensor([1.0, -1.0], requires_grad=True)
    truth = attend(q.double(), k.double(), v.double(), row, backend="reference", sinks=sinks.double())
    for backend in ("reference", "sdpa"):
        out = attend(q, k, v, row, backend=backend, sinks=sinks)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.double(), truth, rtol=2e-2, atol=2e-2)
        assert torch.autograd.grad(out.float().sum(), sinks)[0].dtype == torch.float32


# ------------------------------------------------------------------------------------------------------ who has them


def test_a_backend_without_sinks_is_not_taken_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name for name, each in BACKENDS.items() if each.sinks} == {"reference", "sdpa", "flex"}
    monkeypatch.setattr(choosing, "import_problem", lambda module: None)
    monkeypatch.setattr(choosing, "resolve_name", lambda function: lambda *asked: None)
    assert choose("cuda", torch.bfloat16, sinks=True) == "sdpa" != choose("cuda", torch.bfloat16)
    assert choose("cuda", torch.bfloat16, sinks=True, softcap=5.0) == "flex"
    for name in sorted(set(BACKENDS) - {"reference", "sdpa", "flex"}):
        assert why_not(BACKENDS[name], Job("cuda", "bfloat16", sinks=True)) == "cannot add sinks to the softmax"


def test_auto_takes_the_exact_path_on_a_cpu() -> None:
    assert choose("cpu", torch.float32, sinks=True) == "sdpa"
    assert choose("cpu", torch.float32, sinks=True, softcap=5.0) == "reference"


def test_a_shape_has_sinks_where_a_layer_has_them() -> None:
    from transformers import GptOssConfig, GptOssForCausalLM, LlamaConfig, LlamaForCausalLM

    small = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 8}
    small |= {"num_hidden_layers": 1, "intermediate_size": 8, "num_local_experts": 2}
    llama = LlamaForCausalLM(LlamaConfig(**small))
    for model, sinks in ((llama, False), (GptOssForCausalLM(GptOssConfig(**small)), True)):
        shape = AttentionShape.of(model)
        assert shape.sinks is shape.job("cpu", torch.float32).sinks is sinks
    llama.model.layers[0].self_attn.sinks = None  # a layer that has none, among those that do
    assert not AttentionShape.of(llama).sinks
    llama.model.layers[0].self_attn.sinks = torch.nn.Parameter(torch.zeros(2))
    assert AttentionShape.of(llama).sinks


def forgets(q: Any, k: Any, v: Any, row: Any, options: Any) -> torch.Tensor:
    """The planted fault: a kernel that does not know sinks."""
    return attend_reference(q, k, v, row, options._replace(sinks=None)) + 0 * options.sinks.sum()


def forgets_their_gradient(q: Any, k: Any, v: Any, row: Any, options: Any) -> torch.Tensor:
    out = attend_reference(q, k, v, row, options._replace(sinks=options.sinks.detach()))
    return out + 0 * options.sinks.sum()


def test_a_kernel_is_timed_only_if_it_has_them_right(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("forgets", "forgets_their_gradient"):
        record = Backend(name, f"varlen_{name}", f"{__name__}:{name}", "planted", sinks=True, auto_rank=1)
        monkeypatch.setitem(BACKENDS, name, record)
    shape = AttentionShape(4, 2, 16, 16, window=9, sinks=True)
    names = ["sdpa", "forgets", "forgets_their_gradient"]
    for dtype in (torch.float32, torch.bfloat16):
        times, failed, _ = measure(names, shape, Boundaries.from_lengths(CHECKED), "cpu", dtype, seconds=60)
        assert set(times) == {"sdpa"} and all("computes something else" in failed[name] for name in names[1:])


@pytest.mark.parametrize(
    ("sinks", "words"),
    [
        (torch.ones(3), r"sinks has shape \(3,\), it needs one number a head: \(4,\)"),
        (torch.ones(1, 4), r"sinks has shape \(1, 4\)"),
        (torch.ones(4, dtype=torch.int64), r"sinks is torch.int64, it needs floating point numbers"),
        (torch.ones(4, device="meta"), r"sinks is on meta and q on cpu; use sinks.to\('cpu'\)"),
    ],
)
def test_sinks_that_do_not_fit_are_refused(sinks: torch.Tensor, words: str) -> None:
    q = torch.zeros(2, 4, 8)
    with refused(words):
        attend(q, q, q, Boundaries.from_lengths([2]), sinks=sinks)


# ------------------------------------------------------------------------------------------------- in a graph


def test_the_operation_of_a_graph_has_their_gradient() -> None:
    """Against attend itself, to the bit; and torch's own checks of an operation."""
    q, k, v = (torch.randn(9, heads, 8, requires_grad=True) for heads in (4, 2, 2))
    sinks, row = torch.linspace(-1, 2, 4).requires_grad_(), Boundaries.from_lengths([4, 5])
    for given in (sinks, None):
        inputs = [x for x in (q, k, v, given) if x is not None]
        mine = whole(q, k, v, row.cu_seqlens, 5, "sdpa", 0.3, True, 3, None, None, given)
        plain = attend(q, k, v, row, backend="sdpa", scale=0.3, window=3, sinks=given)
        assert torch.equal(mine, plain)
        for one, two in zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in (mine, plain)), strict=True):
            assert torch.equal(one, two)
    torch.library.opcheck(whole, (q, k, v, row.cu_seqlens, 5, "sdpa", 0.3, True, 3, None, None, sinks))


@pytest.mark.slow
def test_attend_with_sinks_may_be_compiled() -> None:
    """In one graph for all seams, and their gradient is the same to the bit."""
    torch._dynamo.reset()
    compiled = torch.compile(attend, backend="aot_eager", dynamic=True, fullgraph=True)
    sinks = torch.linspace(-1, 2, 2).requires_grad_()
    for lengths in ([5, 1, 17, 9], [4, 30], [3, 3, 70]):
        row, found = Boundaries.from_lengths(lengths), []
        q, k, v = torch.randn(3, row.total, 2, 8).unbind()
        q.requires_grad_()
        for function in (compiled, attend):
            out = function(q, k, v, row, window=4, sinks=sinks)
            found.append([out, *torch.autograd.grad(out.square().sum(), (q, sinks))])
        assert all(map(torch.equal, *found))


# ------------------------------------------------------------------------------------------------------- a whole model

LENGTHS = [5, 1, 40, 9, 33]


def gpt_oss(attention: str, dtype: torch.dtype = torch.float32) -> Any:
    """Tiny, with weights that make its sinks matter; equal ones whatever the attention."""
    model = miniature("gpt_oss", attention, num_hidden_layers=4, pad_token_id=0).to(dtype).eval()
    model.set_experts_implementation("eager")  # there is no grouped product in float64
    return model


def packed() -> dict[str, Any]:
    return packed_row(LENGTHS, labels=None)


def alone(model: torch.nn.Module) -> torch.Tensor:
    documents = packed()["input_ids"][0].split(LENGTHS)
    return torch.cat([model(document[None], use_cache=False).logits[0] for document in documents])


@pytest.mark.parametrize("attention", ["varlen", "varlen_reference", "varlen_flex"])
def test_gpt_oss_packed_is_gpt_oss_alone(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against transformers' own eager attention, document by document; past the window."""
    monkeypatch.setitem(BACKENDS, "flex", replace(BACKENDS["flex"], devices=None, modules=()))
    with torch.no_grad():
        truth, mine = alone(gpt_oss("eager")), gpt_oss(attention)(**packed()).logits[0]
        assert (mine - truth).abs().max() / truth.abs().max() < 2e-6
        if attention == "varlen":
            deaf = gpt_oss(attention)
            for name, x in deaf.named_parameters():
                if name.endswith("sinks"):
                    x.fill_(-1e4)
            assert (deaf(**packed()).logits[0] - truth).abs().max() / truth.abs().max() > 0.05  # they matter


def test_the_gradients_of_gpt_oss_packed_are_those_of_its_documents() -> None:
    mine, truth = gpt_oss("varlen", torch.float64), gpt_oss("eager", torch.float64)
    mine(**packed()).logits.square().sum().backward()
    alone(truth).square().sum().backward()
    for (name, one), two in zip(mine.named_parameters(), truth.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-8, atol=1e-8 * float(two.grad.abs().max()))
        assert not name.endswith("sinks") or one.grad.abs().min() > 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_gpt_oss_padded_is_gpt_oss_alone(side: str) -> None:
    model = gpt_oss("varlen")
    ids = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    documents = packed()["input_ids"][0].split(LENGTHS)
    for row, document in enumerate(documents):
        place = slice(-len(document), None) if side == "left" else slice(0, len(document))
        ids[row, place] = document
    mask = (ids > 0).long()
    with torch.no_grad():
        found = model(ids, attention_mask=mask).logits
        assert found.isfinite().all()
        truth = alone(gpt_oss("eager"))
    mine = torch.cat([row[seen.bool()] for row, seen in zip(found, mask)])
    assert (mine - truth).abs().max() / truth.abs().max() < 2e-6


def test_gpt_oss_generates_what_eager_generates() -> None:
    """Prompts of different lengths, one beyond the window, with a cache; and each of them alone."""
    prompts = [torch.arange(20, 23), torch.arange(40, 62)]
    ids = torch.zeros(2, 22, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, -len(prompt) :] = prompt
    told = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mine = gpt_oss("varlen").generate(ids, attention_mask=(ids > 0).long(), **told)[:, 22:]
    assert torch.equal(mine, gpt_oss("eager").generate(ids, attention_mask=(ids > 0).long(), **told)[:, 22:])
    for row, prompt in enumerate(prompts):
        assert torch.equal(mine[row], gpt_oss("varlen").generate(prompt[None], **told)[0, len(prompt) :])
