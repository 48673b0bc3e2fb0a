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
    capability: tuple[int, int] = (0, 0)  # least compute capability of a CUDA device
    newest: int | None = None  # major version of the newest CUDA device it has code for; None: no limit
    modules: tuple[str, ...] = ()  # must import; none: torch is enough
    install: str | None = None  # the one command that brings it; None: it comes with torch
    softcap: bool = False
    alibi: bool = False
    sinks: bool = False
    widest_head: int | None = None
    widest_repeatable: int | None = None  # head dim of its deterministic backward; None: as without
    deterministic: bool = True  # with ``deterministic = True`` a rerun gives the same bits on a GPU
    compiled: bool = False  # at its first call, for many seconds: longer than ``auto`` may measure
    downloaded: bool = False  # at its first call, from the hub
    traced: str | None = None  # "module:function" that torch.compile may look into; None: its kernel stays whole
    auto_rank: int | None = None  # ``auto`` tries them in this order; None: only when named
    probe: str | None = None  # "module:function" (name, job) -> failure or None, where builds differ


HALF_PRECISION = ("float16", "bfloat16")
AMPERE, HOPPER = (8, 0), (9, 0)
FLASH = "varlen_lab.attention.flash:"

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
            sinks=True,
            auto_rank=50,
        ),
        Backend(
            name="sdpa",
            hf_name="varlen_sdpa",
            function="varlen_lab.attention.sdpa:attend_sdpa",
            about="anywhere, any dtype: PyTorch's causal kernel, called once for each document; auto on a CPU",
            alibi=True,
            sinks=True,
            auto_rank=30,
        ),
        Backend(
            name="flash_attn",
            hf_name="varlen_fa2",
            function=FLASH + "attend_flash_attn",
            about="CUDA, fp16 or bf16: the flash-attn package, version 2; a wheel must fit your torch, CUDA and Python",
            devices=("cuda",),
            dtypes=HALF_PRECISION,
            capability=AMPERE,
            modules=("flash_attn.flash_attn_interface",),
            install="pip install flash-attn --no-build-isolation",
            softcap=True,
            alibi=True,
            widest_head=256,
            auto_rank=12,
            probe=FLASH + "failure",
        ),
        Backend(
            name="flash_attn_3",
            hf_name="varlen_fa3",
            function=FLASH + "attend_flash_attn_3",
            about="Hopper, fp16 or bf16: flash-attn 3, built from the folder hopper/ of its sources",
            devices=("cuda",),
            dtypes=HALF_PRECISION,
            capability=HOPPER,
            newest=9,
            modules=("flash_attn_interface",),
            install='pip install --no-build-isolation "git+https://github.com/Dao-AILab/flash-attention#subdirectory=hopper"',
            softcap=True,
            widest_head=256,
            widest_repeatable=192,
            auto_rank=10,
            probe=FLASH + "failure",
        ),
        Backend(
            name="flash_attn_4",
            hf_name="varlen_fa4",
            function=FLASH + "attend_flash_attn_4",
            about="Hopper or newer, fp16 or bf16: flash-attn 4, pure Python, compiled at its first call; when named",
            devices=("cuda",),
            dtypes=HALF_PRECISION,
            capability=HOPPER,
            modules=("flash_attn.cute",),
            install="pip install --pre flash-attn-4",
            softcap=True,
            widest_head=128,
            deterministic=False,  # not on every card
            compiled=True,
        ),
        Backend(
            name="flash_attn_hub",
            hf_name="varlen_hub",
            function=FLASH + "attend_flash_attn_hub",
            about="CUDA, fp16 or bf16: flash-attn 2 as the hub has it, compiled; downloaded when it is named",
            devices=("cuda",),
            dtypes=HALF_PRECISION,
            capability=AMPERE,
            modules=("kernels",),
            install="pip install kernels",
            softcap=True,
            alibi=True,
            widest_head=256,
            downloaded=True,
        ),
        Backend(
            name="torch_varlen",
            hf_name="varlen_torch",
            function="varlen_lab.attention.torch_varlen:attend_torch_varlen",
            about="CUDA, fp16 or bf16, torch >= 2.11: FlashAttention-2 inside PyTorch; nothing to install",
            devices=("cuda",),
            dtypes=HALF_PRECISION,
            capability=AMPERE,
            modules=("torch.nn.attention.varlen",),
            widest_head=256,
            traced="varlen_lab.attention.torch_varlen:torch_kernel",
            auto_rank=20,
        ),
        Backend(
            name="flex",
            hf_name="varlen_flex",
            function="varlen_lab.attention.flex:attend_flex",
            about="CUDA, any dtype: FlexAttention; compiled at its first call, by auto only for capped scores",
            devices=("cuda",),
            capability=AMPERE,
            modules=("torch.nn.attention.flex_attention", "triton"),
            softcap=True,
            alibi=True,
            sinks=True,
            deterministic=False,
            compiled=True,
            auto_rank=40,
        ),
    )
}
