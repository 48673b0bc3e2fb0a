"""The configs by name: which names there are, what each means, and finding one by what one remembers of it.

XTuner's names for our eleven families, newer models, and a tiny template of each family for a CPU. What they mean
stands in ``recipes.toml``, which also says how a name is put together; this file puts it together. No config lies on
disk, so that no shipped copy of one can differ from the schema.

Searching: case, separators and full-width letters do not matter. Where every word stands in a name, those names are
found, the one that has them as whole parts, and early, first: ``lora`` before ``qlora``. Only where no name has all
words is each word taken for what it is nearest to.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError, nearest
from varlen_lab.models.registry import FAMILIES

SIMILAR_ENOUGH = 0.75  # similarity of a word with a slip: "qwne" and "qwen" have just that
PARTS_IN_A_WORD = 3  # parts of a name that a word may run over: "llama27b" is llama2, 7b


class Model(NamedTuple):
    """One row of ``[models]``: hub name, family, billions of parameters, chat template."""

    path: str
    family: str
    billions: float
    template: str


class Parts(NamedTuple):
    """What a name says; ``rest`` is what follows the dataset's ``_e``: ``3``, or ``3_gpu8``."""

    model: str
    method: str
    dataset: str
    rest: str


# ------------------------------------------------------------------------------------------------- what a name means


@cache
def recipes() -> dict[str, Any]:
    """The tables of ``recipes.toml``."""
    return tomllib.loads(Path(__file__).with_name("recipes.toml").read_text(encoding="utf-8"))


@cache
def models() -> dict[str, Model]:
    """Every model that names speak of, XTuner's first."""
    return {name: Model(*row) for table in ("models", "newer_models") for name, row in recipes()[table].items()}


@cache
def name_parts() -> dict[str, Parts]:
    """Every name but those of the CPU templates, and its parts."""
    found = {}
    for row in recipes()["names"]:
        for model in row["models"].split():
            for method in row["methods"].split():
                for suffix in expanded(row["datasets"]):
                    dataset, _, rest = re.match(r"(.+?)(_e(\d.*))?$", suffix).groups()  # type: ignore[union-attr]
                    found[f"{model}_{method}_{suffix}"] = Parts(model, method, dataset, rest or "")
    return found


def expanded(words: str) -> list[str]:
    """``"dataset_eEPOCHS"`` words, with the name of a shared set replaced by what is in it."""
    shared = recipes()["shared"]
    return [one for word in words.split() for one in (expanded(shared[word]) if word in shared else [word])]


def cpu_templates() -> dict[str, str]:
    """Name of a CPU template -> its family."""
    return {f"tiny_{family}_full_docstrings_e1": family for family in sorted(FAMILIES)}


def config_names() -> list[str]:
    """Every config name, sorted."""
    return sorted([*name_parts(), *cpu_templates()])


def named_settings(name: str) -> dict[str, Any]:
    """What a name decides, as its difference from the schema's defaults."""
    if name in cpu_templates():
        return {"model_config": tiny_architecture(cpu_templates()[name]), **recipes()["tiny"]["settings"]}
    if name not in name_parts():
        hint = nearest(str(name), config_names()) or "; varlen-lab list-cfg shows the names."
        raise InputError(f"there is no config name {name!r}{hint}")
    model, method, dataset, rest = name_parts()[name]
    epochs = re.match(r"\d+", rest)
    settings = {
        "pretrained_model_name_or_path": models()[model].path,
        "prompt_template": models()[model].template,
        **recipes()["common"],
        **({"max_epochs": int(epochs[0])} if epochs else {}),
        "use_varlen_attn": model in recipes()["newer_models"],
        **recipes()["methods"][method],
        **dataset_settings(dataset),
        **(recipes()["eight_gpus"] if rest.endswith("gpu8") else {}),
    }
    for exception in recipes()["exceptions"]:
        if name in exception["names"].split():
            settings |= {setting: value for setting, value in exception.items() if setting != "names"}
    return settings


def dataset_settings(dataset: str) -> dict[str, Any]:
    """What a dataset decides, with what it takes from the one it is ``like``."""
    row = dict(recipes()["datasets"][dataset])
    like = row.pop("like", None)
    return dataset_settings(like) | row if like else row


def tiny_architecture(family: str) -> dict[str, Any]:
    """The ``model_config`` of a family's CPU template: its first variant, larger."""
    tiny = recipes()["tiny"]
    variant = next(iter(FAMILIES[family].variants.values()))
    larger = {key: value for key, value in tiny["sizes_where_named"].items() if key in variant}
    return {**variant, **larger, **tiny["more"].get(family, {}), **tiny["sizes"]}


def named_config(name: str) -> Config:
    """The Config of that name, or an InputError that suggests the near one."""
    if name not in name_parts() and name not in cpu_templates():
        hint = nearest(name, config_names()) or "; varlen-lab list-cfg shows all."
        raise InputError(f"there is no config named {name!r}{hint}")
    return Config(**named_settings(name), name=name)


def config_facts(name: str) -> dict[str, Any]:
    """What a person chooses a config by. ``gpu_gib`` is a rule of thumb for one process without sharing out."""
    if name in cpu_templates():
        family, size, method, dataset, gib = cpu_templates()[name], "tiny", "full", "docstrings", 0
    else:
        model, method, dataset, _ = name_parts()[name]
        _, family, billions, _ = models()[model]
        size = f"{billions:g}B"
        # 16 bytes a weight to train all of it (XTuner's own figure), 2 frozen in bf16, 0.6 in four bits; and rows
        gib = round(billions * {"full": 16, "lora": 2, "qlora": 0.6}[method] * 1e9 / 2**30 + 3)
    config = named_config(name)
    return {
        "family": family,
        "size": size,
        "method": method,
        "dataset": dataset,
        "varlen": config.use_varlen_attn,
        "max_length": config.max_length,
        "epochs": config.max_epochs,
        "gpu_gib": gib,
    }


# ------------------------------------------------------------------------------------------------- finding a name


def search_names(pattern: str) -> list[str]:
    """The names in which every word of the pattern is found, the best first; all of them for an empty pattern."""
    if not any(letter.isalnum() for letter in pattern):
        return config_names()
    # as it was typed first, where 2.5 is one word; only then cut at every sign
    for words in (pattern.split(), re.split(r"[\W_]+", folded(pattern))):
        found = [name for name in config_names() if all(stands_in(word, name) for word in words)]
        if found:
            return sorted(found, key=lambda name: rank(words, name))
    best = by_similarity(pattern)
    score = worst_word(best[0][1], pattern) if best else 0.0
    return [name for _, name in best if worst_word(name, pattern) == score] if score >= SIMILAR_ENOUGH else []


def closest_names(pattern: str, count: int = 3) -> list[str]:
    """The names nearest to a pattern that no name matches."""
    return [name for score, name in by_similarity(pattern)[:count] if score > 0.4]


def by_similarity(pattern: str) -> list[tuple[float, str]]:
    """All names with how near they come to the pattern on the whole, the nearest first; none to what has no letters."""
    words = [word for word in re.split(r"[\W_]+", folded(pattern)) if word]
    if not any(letters_and_digits(word) for word in words):
        return []
    scored = [
        (sum(nearness(letters_and_digits(word), name) for word in words) / len(words), name) for name in config_names()
    ]
    return sorted(scored, key=lambda pair: (-pair[0], rank(words, pair[1])))


def worst_word(name: str, pattern: str) -> float:
    """How near the worst word of the pattern comes to the name, from 0 to 1."""
    return min(nearness(letters_and_digits(word), name) for word in re.split(r"[\W_]+", folded(pattern)) if word)


def stands_in(word: str, name: str) -> bool:
    """Whether a word stands in a name. Signs are nothing to look for; letters that no name has are found in none."""
    letters = letters_and_digits(word)
    return letters in letters_and_digits(name) if letters else not any(letter.isalnum() for letter in word)


def rank(words: list[str], name: str) -> tuple[int, int, str]:
    """Small for a good match: words that are whole parts, then words that begin one; in early parts."""
    whole, parts = joined_parts(name), name.split("_")
    loose = at = 0
    for word in map(letters_and_digits, words):
        loose += 0 if word in whole else 1 if any(run.startswith(word) for run in whole) else 2
        offset = letters_and_digits(name).find(word)
        at += sum(len("".join(parts[:number])) <= offset for number in range(1, len(parts)))
    return loose, at, name


def nearness(word: str, name: str) -> float:
    """1 for a word that stands in the name, else how like it is to the nearest run of its parts."""
    if not word:
        return 0.0
    return 1.0 if word in letters_and_digits(name) else max(similarity(word, run) for run in joined_parts(name))


@cache
def similarity(word: str, run: str) -> float:
    """Likeness of two words; a number at the end of the second may be left out (``oaast``, ``oasst1``)."""
    return max(difflib.SequenceMatcher(None, word, other).ratio() for other in {run, run.rstrip("0123456789") or run})


@cache
def joined_parts(name: str) -> tuple[str, ...]:
    """Neighbouring parts of a name written together: of ``a_b_c`` these are a, ab, abc, b, bc, c."""
    parts = name.split("_")
    starts = range(len(parts))
    return tuple("".join(parts[at : at + count]) for at in starts for count in range(1, PARTS_IN_A_WORD + 1))


def folded(text: str) -> str:
    """Full-width letters as the ordinary ones, all small."""
    return unicodedata.normalize("NFKC", text).lower()


@cache
def letters_and_digits(text: str) -> str:
    """``Llama2_7B`` -> ``llama27b``: what a search compares."""
    return re.sub(r"[^a-z0-9]", "", folded(text))
