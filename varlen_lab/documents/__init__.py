"""Dialogues in, documents out: the text side of the library.

    dataset = load_documents("builtin:docstrings", builtin_tokenizer())   # columns input_ids, labels

``sources`` finds the records, ``records`` makes dialogues of them, ``templates`` writes a dialogue as text
and says which pieces are trained on, ``encode`` makes tokens and labels. ``corpus`` and ``tokenizer`` are
built in.
"""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "builtin": ["builtin_dialogues", "builtin_tokenizer"],
        "registry": ["TEMPLATES"],
        "sources": ["read_dialogues"],
        "tokens": ["encode", "load_documents", "prompt_ids"],
    },
)
