"""The built-in tokenizer: a byte-level BPE of 2,048 tokens, trained on the built-in corpus.

Byte-level: any text can be written with it, there is no unknown token. Small: a model trained from scratch on
a laptop spends its weights on layers, not on an embedding table. It is an ordinary
``PreTrainedTokenizerFast`` with a chat template, so ``save_pretrained`` and ``AutoTokenizer`` work; special
tokens mark the turns:

    <s> <|user|> What does `len` do? </s> <|assistant|> Return the number of items in a container. </s>

It does not try to be good at anything but this corpus.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from varlen_lab.documents.corpus import VERSION as CORPUS_VERSION
from varlen_lab.documents.corpus import builtin_dialogues
from varlen_lab.files.writing import cached_text, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VERSION = 1  # of how it is trained: raise it and every cache is rebuilt
VOCABULARY = 2048  # tokens, the special ones included
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")  # ids 0 to 5

# `{% generation %}` marks what the assistant says, end of turn included; TRL's assistant_only_loss reads it.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|' + message['role'] + '|>' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + eos_token }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


def builtin_tokenizer(progress: bool = True) -> PreTrainedTokenizerFast:
    """The tokenizer of ``builtin:docstrings``, from ``cache_dir()`` or trained now (a few seconds)."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    name = f"tokenizer-{fingerprint('tokenizer', VERSION, CORPUS_VERSION)}.json"
    text = cached_text(name, lambda: train(corpus_texts(progress)))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def corpus_texts(progress: bool = True) -> list[str]:
    return [message["content"] for dialogue in builtin_dialogues(progress) for message in dialogue]


def train(texts: Iterable[str]) -> str:
    """A BPE trained on ``texts``, as the JSON of ``tokenizers``; the same texts give the same JSON."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # every byte, seen in training or not
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False)
