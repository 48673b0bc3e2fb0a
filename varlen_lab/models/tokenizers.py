"""The tokenizer of a model, whole or refused: none of its code is run, and none is made up.

transformers makes an empty tokenizer out of nothing for some model types, and reads what it can of a damaged one.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varlen_lab.errors import InputError, first_line
from varlen_lab.files.reading import read_json
from varlen_lab.models.loading import check_converted, only_local
from varlen_lab.models.sources import locate_model
from varlen_lab.models.stated import foreign, needs_code, stated_config, wants_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILES = ("*token*", "*vocab*", "*merges*", "*.model", "*.tiktoken")
TEMPLATE = "chat_template*"  # lies beside them
# small ones, read before transformers does; the vocabulary itself is read once, by who knows its form
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
ANEW = "fetch the tokenizer anew, or save one beside the model with tokenizer.save_pretrained"


def open_tokenizer(name: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model folder, hub name, GGUF file or ``pip:PACKAGE``; None of a folder without a file of one.

    InputError for one that is damaged, has no words, or needs code of its own.
    """
    from transformers import AutoTokenizer

    folder = locate_model(name).folder
    stated: dict[str, Any] = {}
    if Path(folder).is_dir():
        stated_config(Path(folder))  # it says which tokenizer belongs to it
        if not any(any(Path(folder).glob(pattern)) for pattern in FILES):
            return None
        stated = checked_settings(Path(folder))
        check_converted(Path(folder), *FILES, TEMPLATE)
    with foreign(lambda problem: cannot_open(name, folder, stated, problem)):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=only_local(folder), trust_remote_code=False)
        # one that was made out of nothing has its marks and no words
        marks = set(tokenizer.all_special_ids)
        if tokenizer.vocab_size <= len(marks) and marks.issuperset(tokenizer.get_vocab().values()):
            raise ValueError("it has no words")
        tokenizer("one")
    return tokenizer


def checked_settings(folder: Path) -> dict[str, Any]:
    """The tokenizer_config.json of a folder, {} where it has none; InputError where a small file of JSON is none."""
    found: dict[str, Any] = {}
    for name in SETTINGS:
        if os.path.lexists(folder / name):
            facts: dict[str, Any] = read_json(folder / name, ANEW, words=True)
            found = facts if name == SETTINGS[0] else found
    return found


def cannot_open(name: str, folder: str, stated: dict[str, Any], problem: BaseException) -> InputError:
    """The sentence for what no library opens as a tokenizer."""
    if wants_code(problem):
        instead = "save one that needs none beside the model (tokenizer.json)"
        return needs_code(f"the tokenizer of {name}", stated.get("auto_map"), instead)
    reason = first_line(problem)
    if "tiktoken" in reason and find_spec("sentencepiece") is None:  # any tokenizer.model is taken for one then
        reason = "a tokenizer.model needs pip install sentencepiece, or tiktoken where it is one of tiktoken's"
    if not Path(folder).is_dir():
        return InputError(
            f"{name!r} is neither a model folder here nor one the hub gives us ({reason}); check "
            "pretrained_model_name_or_path and the network, or name a folder."
        )
    return InputError(f"{name!r} has no tokenizer that can be opened here ({reason}); {ANEW}.")
