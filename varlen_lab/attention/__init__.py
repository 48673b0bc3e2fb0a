"""Attention inside documents: ``attend(q, k, v, boundaries)``, its kernels, and their names in transformers.

``registry``   what there is            ``dispatch``   ``attend``: checks, and calls one
``choosing``   who can do a job        ``timing``     the fastest for a run, and the receipt that says why
``routes``     the ways to a kernel on a machine, this one or another
``reference``  the oracle, written out  ``sdpa``       the fast path on a CPU
``flash``      the flash-attn packages  ``torch_varlen``  the kernel inside PyTorch
``flex``       capped and biased scores on CUDA
``compiled``   what torch.compile is shown of it
``huggingface``  attn_implementation="varlen" in any transformers model
``masks``      what that model is told about masks   ``ordinary``  its calls without seams
``rules``      what those masks mean             ``guard``      what is looked at before and after a model runs
"""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.attention.choosing import choose as choose
    from varlen_lab.attention.dispatch import attend as attend
    from varlen_lab.attention.huggingface import hf_name_of as hf_name_of
    from varlen_lab.attention.huggingface import register as register
    from varlen_lab.attention.registry import BACKENDS as BACKENDS
    from varlen_lab.attention.registry import Backend as Backend
    from varlen_lab.attention.routes import Route as Route
    from varlen_lab.attention.routes import kernel_routes as kernel_routes
    from varlen_lab.attention.timing import Choice as Choice
    from varlen_lab.attention.timing import choose_kernel as choose_kernel
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
