"""Attention inside documents: ``attend(q, k, v, boundaries)``, its kernels, and their names in transformers.

``attend``     the one signature        ``reference``  the oracle, written out
``sdpa``       the fast path on a CPU   ``flash``      the CUDA kernels
``flex``       capped and biased scores on CUDA
``huggingface``  attn_implementation="varlen" in any transformers model
"""

from varlen_lab.attention.dispatch import BACKENDS, attend, choose
from varlen_lab.attention.huggingface import register

__all__ = ["BACKENDS", "attend", "choose", "register"]
