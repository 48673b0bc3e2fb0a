"""Attention inside documents: ``attend(q, k, v, boundaries)``, its kernels, and their names in transformers.

``registry``   what there is            ``dispatch``   ``attend``, and what ``auto`` takes
``reference``  the oracle, written out  ``sdpa``       the fast path on a CPU
``flash``      the CUDA kernels         ``flex``       capped and biased scores on CUDA
``huggingface``  attn_implementation="varlen" in any transformers model
"""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "registry": ["BACKENDS", "Backend"],
        "dispatch": ["attend", "choose"],
        "huggingface": ["hf_name_of", "register"],
    },
)
