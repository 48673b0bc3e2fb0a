"""Dialogues in, documents out: the text side of the library.

    dataset = load_documents("builtin:docstrings", builtin_tokenizer())   # columns input_ids, labels

``reading`` finds records and makes dialogues of them, ``tokens`` makes tokens and labels of dialogues: the common path.
``formats`` reads files other than JSON lines, ``shapes`` and ``agents`` records without ``messages``, ``templates``
fills in a named template. ``builtin`` has the built-in corpus and tokenizer. ``registry`` lists what has a name.
"""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "builtin": ["builtin_dialogues", "builtin_tokenizer"],
        "reading": ["read_dialogues"],
        "registry": ["TEMPLATES"],
        "tokens": ["encode", "load_documents", "prompt_ids"],
    },
)
