"""Dialogues in, documents out: the text side of the library.

    dataset = load_documents("builtin:docstrings", builtin_tokenizer())   # columns input_ids, labels

Records become dialogues, dialogues become token ids and labels. What has a name here, a chat template, a shape of
records, an ending of files, is a row of ``registry``.
"""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.documents.builtin import builtin_dialogues as builtin_dialogues
    from varlen_lab.documents.builtin import builtin_tokenizer as builtin_tokenizer
    from varlen_lab.documents.loading import load_documents as load_documents
    from varlen_lab.documents.prompts import prompt_ids as prompt_ids
    from varlen_lab.documents.reading import read_dialogues as read_dialogues
    from varlen_lab.documents.registry import TEMPLATES as TEMPLATES
    from varlen_lab.documents.tokens import encode as encode
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
