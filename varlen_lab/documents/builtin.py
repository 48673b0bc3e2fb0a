"""The built-in corpus and its tokenizer: data and a vocabulary on every machine, without a download.

The corpus is the docstrings of the Python that is running, as instruction dialogues: real text with a real heavy tail
(half the documents are short, one in a hundred is ten times as long). Source files are parsed, never run; C modules
are read in a fresh interpreter (``compiled.py``). The order is fixed (module, then name), and so is every question:
the same Python gives the same corpus, another Python another one, so the cache file's name holds its fingerprint.

The tokenizer is a byte-level BPE of 2,048 tokens, trained on that corpus and good at nothing else. Byte-level: any
text can be written with it, there is no unknown token. Small: a model trained from scratch on a laptop spends its
weights on layers, not on an embedding table. It is an ordinary ``PreTrainedTokenizerFast`` with a chat template, so
``save_pretrained`` and ``AutoTokenizer`` work; special tokens mark the turns:

    <s> <|user|> What does `len` do? </s> <|assistant|> Return the number of items in a container. </s>
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from varlen_lab.documents import compiled
from varlen_lab.files.writing import cached_text, fingerprint
from varlen_lab.machine.console import track

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CORPUS_VERSION = 1  # of what is collected and how it is asked: raise it and every cache is rebuilt
SHORTEST_DOCSTRING = 40  # characters; "Return repr(self)." teaches nothing
LONGEST_SIGNATURE = 60  # characters; a longer one is left out of the question

# Tests quote broken code on purpose, site-packages differ from machine to machine.
SKIPPED_FOLDERS = {
    "__pycache__", "_bundled", "dist-packages", "idle_test", "lib-dynload",
    "site-packages", "test", "tests", "turtledemo",
}  # fmt: skip

QUESTIONS = {
    "module": ("What is the module `{name}` for?", "Describe the module `{name}`."),
    "class": ("What is `{name}`?", "Explain the class `{name}`.", "What is `{name}{signature}` for?"),
    "function": ("What does `{name}` do?", "Explain `{name}{signature}`.", "How do I use `{name}{signature}`?"),
}


class Entry(NamedTuple):
    """One documented object; ``qualname`` is empty for a module, ``signature`` is ``(a, b=1)`` or nothing."""

    module: str
    qualname: str
    kind: str
    signature: str
    doc: str

    @property
    def name(self) -> str:
        """As a question names it: ``json.dumps``; without ``builtins``."""
        full = f"{self.module}.{self.qualname}" if self.qualname else self.module
        return full.removeprefix("builtins.")


def builtin_dialogues(progress: bool = True) -> list[list[dict[str, str]]]:
    """Every unique standard-library docstring of at least 40 characters as ``[user, assistant]`` messages.

    Sorted by module, then name. Takes seconds the first time and is read from ``cache_dir()`` afterwards.
    """
    name = f"docstrings-{fingerprint('corpus', CORPUS_VERSION)}.jsonl"
    text = cached_text(
        name, lambda: "\n".join(json.dumps({"messages": one}) for one in dialogues_of(collect(progress)))
    )
    return [json.loads(line)["messages"] for line in text.splitlines()]


def dialogues_of(entries: Iterable[Entry]) -> Iterator[list[dict[str, str]]]:
    """Long enough, unique, in order. Of equal docstrings the one with a public name stays."""

    def is_private(entry: Entry) -> bool:
        return any(part.startswith("_") for part in entry.name.split("."))

    unique: dict[str, Entry] = {}
    # public names first: setdefault keeps the first of equal docstrings
    for entry in sorted(entries, key=lambda entry: (is_private(entry), entry)):
        if len(entry.doc) >= SHORTEST_DOCSTRING:
            unique.setdefault(entry.doc, entry)
    for entry in sorted(unique.values()):
        yield [{"role": "user", "content": question(entry)}, {"role": "assistant", "content": entry.doc}]


def question(entry: Entry) -> str:
    """One of the kind's QUESTIONS, chosen by the name: varied to read, the same every time."""
    variants = QUESTIONS[entry.kind]
    chosen = variants[zlib.crc32(entry.name.encode()) % len(variants)]
    signature = entry.signature if len(entry.signature) <= LONGEST_SIGNATURE else ""
    return chosen.format(name=entry.name, signature=signature)


def collect(progress: bool = False) -> list[Entry]:
    """Every docstring of the standard library, in no promised order, duplicates included."""
    # A second process reads the C modules while this one parses; -I -S: no site packages, no user settings.
    command = [sys.executable, "-I", "-S", "-W", "ignore", compiled.__file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, encoding="utf-8", errors="replace") as child:
        entries: list[Entry] = []
        sources = list(source_files())
        for path, module in track(sources, "Reading the standard library", len(sources)) if progress else sources:
            entries += entries_of(path.read_bytes(), module)
        printed, errors = child.communicate()
    if child.returncode:
        raise RuntimeError(f"reading the C modules failed: {errors.strip()}")
    return entries + [Entry(*json.loads(line)) for line in printed.splitlines()]


def source_files() -> Iterator[tuple[Path, str]]:
    """(file, module name) of the standard library's Python sources, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not SKIPPED_FOLDERS.intersection(parts[:-1]) and not parts[0].startswith("config-"):
            yield path, ".".join(parts).removesuffix(".__init__")


def entries_of(source: bytes, module: str) -> Iterator[Entry]:
    """The docstrings of one source file, found by parsing it; nothing for a file this Python cannot parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    if doc := ast.get_docstring(tree):
        yield Entry(module, "", "module", "", doc)
    for qualname, node in definitions(tree):
        if doc := ast.get_docstring(node):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            yield Entry(module, qualname, kind, signature(node), doc)


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """(qualname, node) of the classes and functions under ``node``, those in an ``if`` or ``try`` too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield prefix + child.name, child
            yield from definitions(child, f"{prefix}{child.name}.")
        elif not isinstance(child, ast.expr):
            yield from definitions(child, prefix)


def signature(node: Definition) -> str:
    """``(a, b=1)`` as written, without ``self``; ``""`` for a class."""
    if isinstance(node, ast.ClassDef):
        return ""
    names = [argument.arg for argument in node.args.posonlyargs + node.args.args]
    text = ast.unparse(node.args)
    if names and names[0] in ("self", "cls"):
        text = text.removeprefix(names[0]).removeprefix(", ")
    return f"({text})"


TOKENIZER_VERSION = 1  # of how it is trained: raise it and every cache is rebuilt
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

    name = f"tokenizer-{fingerprint('tokenizer', TOKENIZER_VERSION, CORPUS_VERSION)}.json"
    text = cached_text(
        name, lambda: trained_tokenizer(one["content"] for dialogue in builtin_dialogues(progress) for one in dialogue)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def trained_tokenizer(texts: Iterable[str]) -> str:
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
