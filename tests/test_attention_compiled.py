"""Attention under torch.compile, whoever compiles: one graph, whatever the seams, and the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.nn.attention.varlen  # registers torch's operation
from expect import refused
from packed import packed_row
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.utils import counters
from torch._inductor.utils import is_cudagraph_unsafe_fx_node

from varlen_lab.attention.compiled import checked, whole, whole_backward
from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.huggingface import register
from varlen_lab.attention.reference import Options, attend_reference
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.models.building import tiny
from varlen_lab.models.recomputing import recompute
from varlen_lab.packing.boundaries import SEAMS, Boundaries

ROWS = [[5, 1, 17, 9], [4, 30], [3, 3, 3, 3, 3, 70], [100]]  # other lengths, other numbers of documents
ROW = [0]  # the one that is computed
WHOLE, TORCHS = "varlen_lab.attention.default", "torch_attn._varlen_attn"


class Graphs:
    """A backend of torch.compile that counts its graphs, and notes what they call."""

    def __init__(self, inner: str = "eager") -> None:
        self.count, self.calls, self.inner = 0, list[str](), lookup_backend(inner)
        self.rows: set[int] = set()  # those at which a graph was made

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.count += 1
        self.rows.add(ROW[0])
        self.calls += [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        return self.inner(graph, inputs)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def batch(lengths: list[int]) -> dict[str, Any]:
    return packed_row(lengths, labels=None)


def passes(model: torch.nn.Module) -> list[torch.Tensor]:
    """Logits and all gradients of every row."""
    found = []
    for ROW[0], lengths in enumerate(ROWS):
        model.zero_grad()
        logits = model(**batch(lengths), use_cache=False).logits
        logits.square().sum().backward()
        found += [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    return found


@pytest.mark.parametrize("layers", [2, 4])
def test_a_model_is_one_graph_for_all_seams(layers: int) -> None:
    model, graphs = tiny("llama", num_hidden_layers=layers), Graphs()
    plain = passes(model)
    model.compile(dynamic=True, backend=graphs)
    assert all(map(torch.equal, passes(model), plain))
    assert graphs.count == 1 and graphs.calls.count(WHOLE) == layers


@pytest.mark.slow
def test_to_register_again_leaves_a_compiled_model_alone() -> None:
    model, graphs = tiny("llama"), Graphs()
    model.compile(dynamic=True, backend=graphs)
    model(**batch(ROWS[0]))
    register()
    model(**batch(ROWS[1]))
    assert graphs.count == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "variant", "what"),
    [
        ("llama", None, "all"),
        ("llama", None, "cheap"),
        ("gemma", "gemma2-9b", None),  # capped scores
        ("baichuan", "baichuan-13b", None),  # slopes
    ],
)
def test_the_backward_pass_is_the_same_to_the_bit(family: str, variant: str | None, what: str | None) -> None:
    """Traced by torch's autograd too; with activations computed again inside of the graph."""
    model, graphs = tiny(family, variant, num_hidden_layers=1).train(), Graphs("aot_eager")
    if what:
        recompute(model, what)
    plain = passes(model)
    model.compile(dynamic=True, backend=graphs)
    assert all(map(torch.equal, passes(model), plain))
    # torch's autograd may ask for the one graph twice: what counts is that none broke, and none came with other seams
    assert not counters["graph_break"] and len(graphs.rows) == 1


@pytest.mark.slow
def test_seams_are_read_once_a_batch_in_a_graph_too(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    real = SEAMS.read
    monkeypatch.setattr(SEAMS, "read", lambda cu_seqlens: reads.append(1) or real(cu_seqlens))
    model = tiny("llama")
    model.compile(dynamic=True, backend="aot_eager")
    for lengths in ROWS[:2]:
        model(**batch(lengths), use_cache=False).logits.sum().backward()
    assert len(reads) == 2


@pytest.mark.slow
def test_attend_itself_may_be_compiled() -> None:
    """In one graph, with any of its options; gradients where only some are asked for, and under autocast."""
    graphs = Graphs("aot_eager")

    def both(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, row: Boundaries, slopes: torch.Tensor) -> torch.Tensor:
        return attend(q, k, v, row) + attend(q, k, v, row, window=3, alibi_slopes=slopes, causal=False, scale=0.3)

    compiled = torch.compile(both, backend=graphs, dynamic=True, fullgraph=True)
    for lengths in ROWS:
        row, slopes = Boundaries.from_lengths(lengths), torch.tensor([0.5, 0.25])
        q, k, v = torch.randn(3, row.total, 2, 8).unbind()
        k.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            for given in ((q, k, v), (q.bfloat16(), k.bfloat16(), v.bfloat16())):
                wide = compiled(*given, row, slopes)
                assert wide.dtype == given[0].dtype
        mine, plain = compiled(q, k, v, row, slopes), both(q, k, v, row, slopes)
        assert torch.equal(mine, plain)
        assert torch.equal(torch.autograd.grad(mine.sum(), k)[0], torch.autograd.grad(plain.sum(), k)[0])


def test_what_is_wrong_is_said_when_the_graph_runs() -> None:
    model = tiny("llama")
    model.compile(dynamic=True, backend="eager")
    model(**batch([4, 5, 6]))
    wrong = batch([4, 5, 6]) | {"cu_seq_lens_q": torch.tensor([0, 4, 9, 12], dtype=torch.int32)}
    with refused("the boundaries end at 12 and q has 15 tokens"):
        model(**wrong)
    with refused("max_length_q is 5 and cu_seq_lens_q holds a document of 6 tokens"):
        model(**batch([4, 5, 6]) | {"max_length_q": 5})


def test_no_recorded_graph_repeats_the_seams_of_one_batch() -> None:
    """What reads seams in Python is left out of CUDA graphs, or ``mode="reduce-overhead"`` would read them once."""
    for operation in (whole, whole_backward, checked):
        assert is_cudagraph_unsafe_fx_node(calling(operation._opoverload))
    assert not is_cudagraph_unsafe_fx_node(calling(torch.ops.aten.add.Tensor))


def calling(operation: Any) -> torch.fx.Node:
    return torch.fx.Graph().call_function(operation)


# ------------------------------------------------------------------------------------- a kernel inside of the graph


def on_a_cpu(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: torch.Tensor, other: torch.Tensor, longest: int,
    also: int, causal: bool = False, scale: float | None = None, window_size: Any = None, *more: Any, **others: Any,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """What torch's operation computes on a GPU."""
    assert cu is other and longest == also >= int(cu.diff().max())
    options = Options(scale or 1.0, window_size[1] == 0, None if window_size[0] < 0 else window_size[0] + 1)
    out = attend_reference(q, k, v, Boundaries(cu.clone()), options)
    return out, q.new_zeros(q.shape[1], len(q)), torch.zeros(2, dtype=torch.uint64)


@pytest.fixture
def varlen_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch's own kernel, as if a CPU had it in fp32: what is traced of it is what a GPU's graph holds."""
    record = replace(BACKENDS["torch_varlen"], devices=("cpu",), dtypes=None)
    monkeypatch.setitem(BACKENDS, "torch_varlen", record)
    with torch.library._scoped_library("torch_attn", "FRAGMENT") as library:
        library.impl("_varlen_attn", on_a_cpu, "CPU")
        yield


@pytest.mark.parametrize(("layers", "backend"), [(2, "torch_varlen"), (4, "auto")])
def test_torchs_kernel_stands_in_the_graph(varlen_on_cpu: None, layers: int, backend: str) -> None:
    model = tiny("mistral", num_hidden_layers=layers)
    oracle = tiny("mistral", num_hidden_layers=layers)
    oracle.set_attn_implementation("varlen_reference")
    if backend == "torch_varlen":
        model.set_attn_implementation("varlen_torch")
    graphs = Graphs()
    model.compile(dynamic=True, backend=graphs)
    with torch.no_grad():
        for lengths in ROWS:
            given = batch(lengths)
            torch.testing.assert_close(model(**given).logits, oracle(**given).logits, rtol=0, atol=5e-6)
    assert graphs.count == 1 and graphs.calls.count(TORCHS) == layers and WHOLE not in graphs.calls
    wrong = batch([4, 5]) | {"max_length_q": 4}
    with torch.no_grad(), refused("max_length_q is 4 and cu_seq_lens_q holds a document of 5"):
        model(**wrong)
    with torch.no_grad(), refused("the boundaries end at 8 and q has 9 tokens"):
        model(**batch([4, 5]) | {"cu_seq_lens_q": torch.tensor([0, 4, 8], dtype=torch.int32)})
    assert graphs.count == 1


@pytest.mark.slow
def test_without_the_longest_length_it_is_called_as_a_whole(varlen_on_cpu: None) -> None:
    model, graphs = tiny("llama"), Graphs()
    model.set_attn_implementation("varlen_torch")
    model.compile(dynamic=True, backend=graphs)
    given = batch(ROWS[0])
    del given["max_length_q"]
    with torch.no_grad():
        model(**given)
    assert graphs.count == 1 and WHOLE in graphs.calls and TORCHS not in graphs.calls
