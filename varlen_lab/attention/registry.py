"""Every kernel that ``attend`` can call, one record each. A new backend is one function and one record here.

All that lists backends reads this dict: ``attend`` and ``choose``, the names known to transformers, a config's choices,
``check-env``, the benchmarks and the docs. It imports neither torch nor a kernel, so that a config can be checked
without them; a kernel is named as "module:function" and imported when it is first called.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backend:
    """One kernel and what it can do. ``None`` for devices, dtypes or head dim: there is no limit."""

    name: str
    hf_name: str  # its attn_implementation in transformers; without "flash", which transformers keeps for its own
    function: str  # "module:function" with the signature of attend_reference
    about: str  # where it runs and what is good to know
    devices: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    module: str | None = None  # must import; None: torch is enough
    softcap: bool = False
    alibi: bool = False
    widest_head: int | None = None
    auto_rank: int | None = None  # ``auto`` takes the lowest rank that can do what is asked; None: only when named
    probe: str | None = None  # "module:function" (head dim, softcap, alibi) -> bool, for builds that differ


HALF_PRECISION = ("float16", "bfloat16")

BACKENDS: dict[str, Backend] = {
    each.name: each
    for each in (
        Backend(
            name="reference",
            hf_name="varlen_reference",
            function="varlen_lab.attention.reference:attend_reference",
            about="anywhere, any dtype: the formula written out; slow, and what the others are measured against",
            softcap=True,
            alibi=True,
            auto_rank=40,
        ),
        Backend(
            name="sdpa",
            hf_name="varlen_sdpa",
            function="varlen_lab.attention.sdpa:attend_sdpa",
            about="anywhere, any dtype: PyTorch's causal kernel, called once for each document; auto on a CPU",
            alibi=True,
            auto_rank=30,
        ),
        Backend(
            name="flash_attn",
            hf_name="varlen_fa2",
            function="varlen_lab.attention.flash:attend_flash_attn",
            about="CUDA, fp16 or bf16: the flash-attn package; a wheel must fit your torch, CUDA and Python",
            devices=("cuda",),
            dtypes=HALF_PRECISION,
            module="flash_attn",
            softcap=True,
            alibi=True,
            widest_head=256,
            auto_rank=10,
            probe="varlen_lab.attention.flash:flash_attn_takes",
        ),
        Backend(
            name="torch_varlen",
            hf_name="varlen_torch",
            function="varlen_lab.attention.flash:attend_torch_varlen",
            about="CUDA, fp16 or bf16, torch >= 2.11: FlashAttention-2 inside PyTorch; nothing to install",
            devices=("cuda",),
            dtypes=HALF_PRECISION,
            module="torch.nn.attention.varlen",
            widest_head=256,
            auto_rank=20,
        ),
        Backend(
            name="flex",
            hf_name="varlen_flex",
            function="varlen_lab.attention.flex:attend_flex",
            about="CUDA, any dtype: FlexAttention for capped or biased scores; compiled on first use, never by auto",
            devices=("cuda",),
            module="torch.nn.attention.flex_attention",
            softcap=True,
            alibi=True,
        ),
    )
}
