"""What a model folder says of itself, read and checked before transformers looks at it; none of its code is run.

``stated_config``   its config.json
``foreign``         inside, what another library raises over a folder becomes one sentence
``needs_code``      the sentence for a model that transformers does not know without the folder's own Python files
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from varlen_lab.errors import InputError, quoted
from varlen_lab.files.reading import read_json, refuse_pipe

INSTEAD = "check the path, or fetch the model anew"
# of more there is no model, and transformers makes them one by one before it notices
MOST = {
    r"(.*_)?(hidden_layers|n_layers?|num_layers|(en|de)coder_layers|num_blocks|depth)": 10_000,
    r"(.*_)?(n_|num_)\w*experts\w*|num_labels": 100_000,
}

AT_LEAST_ONE = ("num_hidden_layers", "max_position_embeddings")  # what transformers takes at any number


def stated_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder; InputError where it has none, or one that describes no model."""
    path = folder / "config.json"
    if not path.is_file() and (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} is an adapter; varlen-lab convert merge LLM {folder} OUT makes it a model.")
    if not path.is_file():
        raise InputError(f"{folder} has no config.json, it is not a model folder; check the path.")
    for inside in folder.iterdir():  # libraries open what has a name that they know
        refuse_pipe(inside, "take it away")
    stated: dict[str, Any] = read_json(path, INSTEAD, words=True)
    refuse_counts(stated, str(path))
    for name in AT_LEAST_ONE:
        if isinstance(value := stated.get(name), int) and value < 1:
            raise InputError(f"{path} has {name} = {quoted(value)}, it must be at least 1; correct it.")
    return stated


def refuse_counts(stated: Mapping[str, Any], where: str) -> None:
    """InputError for more layers, experts or labels than any model has."""
    for name, value in stated.items():
        if isinstance(value, Mapping):
            refuse_counts(value, where)
        most = next((most for pattern, most in MOST.items() if re.fullmatch(pattern, str(name))), None)
        if most is not None and isinstance(value, int) and value > most:
            raise InputError(
                f"{where} has {name} = {quoted(value)}, no model has more than {most:,}; correct the value."
            )


@contextmanager
def foreign(sentence: Callable[[BaseException], InputError]) -> Iterator[None]:
    """Inside, what another library raises over what a person brought becomes ``sentence(problem)``."""
    try:
        yield
    except InputError:
        raise
    except Exception as problem:  # as many kinds as there are libraries that read a folder
        raise sentence(problem) from None
    except BaseException as problem:  # a panic in Rust is no Exception
        if type(problem).__name__ != "PanicException":
            raise
        raise sentence(problem) from None


def wants_code(problem: BaseException) -> bool:
    """Whether transformers refuses something because it would have to run code that came with it."""
    return "trust_remote_code" in str(problem)


def needs_code(name: str, auto_map: Any, instead: str) -> InputError:
    """The sentence for what came with code; ``auto_map``: the field that names it, of whatever shape it is."""
    words = auto_map.values() if isinstance(auto_map, Mapping) else auto_map if isinstance(auto_map, list) else ()
    words = [one for word in words for one in (word if isinstance(word, list) else [word]) if isinstance(one, str)]
    files = sorted({f"{word.rpartition('--')[2].split('.')[0]}.py" for word in words})
    return InputError(
        f"{name} needs code of its own ({', '.join([*files[:3], 'auto_map'])}), which is not run here; {instead}."
    )
