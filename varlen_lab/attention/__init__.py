"""Attention inside documents: ``attend(q, k, v, boundaries)``, its kernels, and their names in transformers.

``attend``     the one signature        ``reference``  the oracle, written out
``sdpa``       the fast path on a CPU   ``flash``      the CUDA kernels
``flex``       capped and biased scores on CUDA
``huggingface``  attn_implementation="varlen" in any transformers model
"""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "dispatch": ["BACKENDS", "attend", "choose"],
        "huggingface": ["register"],
    },
)
