"""Whatever ``attend`` is handed: the result of the reference, or one sentence; never a kernel's words."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from varlen_lab.attention.dispatch import attend
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries

ROW = Boundaries.from_lengths([2, 3])


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


Q, K, V = drawn(5, 4, 8), drawn(5, 2, 8), drawn(5, 2, 8)
NO_TENSORS: dict[str, dict[str, Any]] = {
    "a list": {"q": [[[1.0]]]},
    "None": {"k": None},
    "numpy": {"v": V.numpy()},
    "sparse": {"q": Q.to_sparse()},
    "integers": {"q": Q.long(), "k": K.long(), "v": V.long()},
    "bool": {"q": Q.bool(), "k": K.bool(), "v": V.bool()},
    "complex": {"q": Q + 0j, "k": K + 0j, "v": V + 0j},
    "float8": {"q": Q.to(torch.float8_e4m3fn), "k": K.to(torch.float8_e4m3fn), "v": V.to(torch.float8_e4m3fn)},
    "two dtypes": {"q": Q.half()},
    "two devices": {"k": K.to("meta")},
    "meta": {"q": Q.to("meta"), "k": K.to("meta"), "v": V.to("meta")},
    "no head of keys": {"k": drawn(5, 0, 8), "v": drawn(5, 0, 8)},
    "no head of queries": {"q": drawn(5, 0, 8)},
    "no number in a head": {"q": drawn(5, 4, 0), "k": drawn(5, 2, 0)},
    "no token": {"q": drawn(0, 4, 8), "k": drawn(0, 2, 8), "v": drawn(0, 2, 8)},
    "a batch axis": {"q": Q[None], "k": K[None], "v": V[None]},
}
NO_BOUNDARIES: dict[str, Any] = {
    "a list": [2, 3],
    "None": None,
    "cu_seqlens": ROW.cu_seqlens,
    "another row": Boundaries.from_lengths([2, 2]),
}
NO_NUMBERS: dict[str, list[Any]] = {
    "scale": [0, -1.0, math.nan, math.inf, 1e-320, 1e300, "1", True, 10**400, torch.ones(2), 1j],
    "softcap": [0.0, -1.0, math.nan, math.inf, "x", False],
    "window": [0, -1, 1.5, math.nan, math.inf, "2", (2, 0), True, torch.tensor([2, 3])],
    "causal": [None, "no", 0, 1],
    "backend": ["sdap", "", None, 1, ["sdpa"]],
    "alibi_slopes": [[1.0] * 4, torch.ones(3), torch.ones(4, dtype=torch.int64)],
    "sinks": [[1.0] * 4, torch.ones(4, 1), 0.5],
}
ALL = [(name, value) for name, values in NO_NUMBERS.items() for value in values]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("what", NO_TENSORS)
def test_what_is_no_row_of_queries_keys_and_values_is_a_sentence(what: str, backend: str) -> None:
    given = {"q": Q, "k": K, "v": V} | NO_TENSORS[what]
    with pytest.raises(InputError):
        attend(**given, boundaries=ROW, backend=backend)


@pytest.mark.parametrize("what", NO_BOUNDARIES)
def test_what_are_no_boundaries_of_this_row_is_a_sentence(what: str) -> None:
    with pytest.raises(InputError, match="boundaries"):
        attend(Q, K, V, NO_BOUNDARIES[what])


@pytest.mark.parametrize(("name", "value"), ALL, ids=[f"{name}-{number}" for number, (name, _) in enumerate(ALL)])
def test_an_option_that_is_out_of_its_range_is_a_sentence_with_its_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name) as found:
        attend(Q, K, V, ROW, **{name: value})
    assert len(str(found.value)) < 300


@pytest.mark.parametrize(
    "options",
    [
        {"scale": torch.tensor(0.5)},
        {"scale": 1e-30},
        {"scale": 1},
        {"window": 10**30},
        {"window": torch.tensor(2)},
        {"window": 2.0},
        {"window": 2**31},
        {"sinks": torch.full((4,), -math.inf)},  # no sink
        {"sinks": torch.tensor([-math.inf, 0.0, -1e38, 3.0]), "window": 2},
    ],
    ids=str,
)
def test_odd_options_mean_what_they_say(options: dict[str, Any]) -> None:
    ours, oracle = (attend(Q, K, V, ROW, backend=backend, **options) for backend in ("sdpa", "reference"))
    torch.testing.assert_close(ours, oracle)


@pytest.mark.parametrize(
    "given",
    [
        {"q": Q.transpose(0, 1).contiguous().transpose(0, 1)},
        {"q": Q[:, :1].expand(5, 4, 8)},
        {"q": drawn(10, 8, 16)[::2, ::2, ::2]},
        {"v": drawn(5, 2, 0)},
        {"q": torch.nn.Parameter(Q)},
    ],
    ids=["transposed", "expanded", "strided", "no value", "a leaf"],
)
def test_odd_layouts_give_the_right_result(given: dict[str, Any]) -> None:
    given = {"q": Q, "k": K, "v": V} | given
    ours, oracle = (attend(**given, boundaries=ROW, backend=backend) for backend in ("sdpa", "reference"))
    torch.testing.assert_close(ours, oracle)
