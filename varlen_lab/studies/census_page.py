"""``docs/census.md`` from ``docs/census.json``, and both files from outcomes.

python -m varlen_lab.studies.census_page docs/census.json > docs/census.md
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from varlen_lab.files.places import check_file, check_ours
from varlen_lab.files.writing import writable, written_whole
from varlen_lab.studies.census import written
from varlen_lab.studies.census_table import LEGEND, shown
from varlen_lab.studies.one_class import LEAKS, NOT_BUILT, RAISES, REFUSED, SILENT
from varlen_lab.studies.registry import STYLES

NAMES = ("census.json", "census.md")
CAUSES = {  # kinds of findings of the audit, as a reader of the page meets them
    "use_cache": "with a cache transformers does not look for documents in position_ids; pass use_cache=False",
    "attention ignores the seams": "attention calls that hear other documents, whatever told the model of them",
    "attention of its own": "attention that transformers does not dispatch, which hears other documents",
    "recurrent layer": "a state or a convolution that runs on from one document into the next",
    "wrong attention": "attention that computes something else than each document's own, by no known mistake",
    "depends on the row": "counts or chunks along the row, not along the document",
    "not examined": "it differs, and the audit cannot look into this model",
    "unexplained": "it differs, and nothing that was looked into says why",
}
COMMAND = "varlen-lab census --write docs"
BECAUSE = {
    LEAKS: "leaks, by cause",
    REFUSED: "refused, in our words",
    RAISES: "raises, with the class's own exception",
    SILENT: "silently wrong",
}


def must_be_writable(folder: Path) -> None:
    """Makes ``folder``; InputError where the two files cannot be written there, or others lie."""
    for name in NAMES:
        check_file(folder / name, "--write")
        check_ours(folder / name, "--write")
    with writable(folder, "--write"):
        folder.mkdir(parents=True, exist_ok=True)


def write_both(kept: Mapping[str, Any], folder: Path) -> None:
    """``census.json`` and ``census.md`` in ``folder``, which is made; InputError where they cannot be written."""
    with writable(folder, "--write"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(NAMES, (written(kept), page(kept)), strict=True):
            with written_whole(folder / name, "w") as file:
                file.write(text)


def page(kept: Mapping[str, Any]) -> str:
    """The Markdown page of a JSON document of ``as_json``."""
    styles = list(dict.fromkeys(style for each in kept["classes"].values() for style in each))
    versions, lengths = kept["versions"], kept["documents"]
    parts = [
        "# The census: which class is safe with which packed batch",
        f"Every causal language model class of transformers {versions['transformers']}, built tiny with random weights "
        f"that matter, on a row of {len(lengths)} documents ({', '.join(map(str, lengths))} tokens), fp32 on a CPU. "
        f"Logits and gradients, in eval and in train mode, are compared with those of every document alone; *exact* is "
        f"within {kept['limit']:.0e} of the largest. Where they differ, `audit` says why.",
        f"Made by `{COMMAND}` with Python {versions['python']}, torch {versions['torch']}, transformers "
        f"{versions['transformers']} and varlen_lab {versions['varlen_lab']}. A verdict is about the class and these "
        "versions: kernels that are not installed here may change it.",
        "\n".join(style_rows(styles)),
        "## Totals",
        "\n".join(total_rows(kept["classes"], styles)),
        "\n".join(f"* *{verdict.replace('*', chr(92) + '*')}*: {LEGEND[verdict]}" for verdict in LEGEND),
        "## Every class",
        "A number after *leaks* is the largest difference, as a share of the largest logit or gradient.",
        "\n".join(class_rows(kept["classes"], styles)),
    ]
    causes = {cause for each in kept["classes"].values() for one in each.values() for cause, where in why(one) if where}
    if named := [f"* *{cause}*: {CAUSES[cause]}" for cause in CAUSES if cause in causes]:
        parts += ["## Causes of leaks", "\n".join(named)]
    for style in styles:
        if found := reasons(kept["classes"], style):
            parts += [f"## {style}: {STYLES[style].about}", *found]
    missing = {name: next(iter(each.values())) for name, each in kept["classes"].items()}
    if lines := [f"* {name}: {one['words']}" for name, one in missing.items() if one["verdict"] == NOT_BUILT]:
        parts += ["## Not built", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def style_rows(styles: list[str]) -> list[str]:
    """What each style of batch is."""
    rows = ["| style | what the model is given | attention |", "|---|---|---|"]
    for style in map(STYLES.__getitem__, styles):
        attention = style.attention if style.ours else f"{style.attention}, eager where a class has none"
        rows.append(f"| {style.name} | {style.about} | {attention} |")
    return rows


def total_rows(classes: Mapping[str, Any], styles: list[str]) -> list[str]:
    """How many classes each style has of each verdict."""
    counts = {style: Counter(word(each[style]) for each in classes.values() if style in each) for style in styles}
    verdicts = [verdict for verdict in LEGEND if any(count[verdict] for count in counts.values())]
    escaped = [verdict.replace("*", "\\*") for verdict in verdicts]
    rows = [f"| style | {' | '.join(escaped)} |", "|---" * (len(verdicts) + 1) + "|"]
    return rows + [f"| {s} | {' | '.join(str(counts[s][verdict]) for verdict in verdicts)} |" for s in styles]


def word(one: Mapping[str, Any]) -> str:
    """A kept verdict as a word of the tables."""
    return shown(one["verdict"], bool(one.get("isolated")))


def class_rows(classes: Mapping[str, Any], styles: list[str]) -> list[str]:
    """A row a class, in alphabetical order."""
    rows = [f"| class | {' | '.join(styles)} |", "|---" * (len(styles) + 1) + "|"]
    for name in sorted(classes):
        cells = (cell(classes[name][style]) if style in classes[name] else "" for style in styles)
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def cell(one: Mapping[str, Any]) -> str:
    """A verdict, and how large where it leaks."""
    size = f" {one['difference']:.1g}" if one["verdict"] == LEAKS and one.get("difference") is not None else ""
    return word(one).replace("*", "\\*") + size


def reasons(classes: Mapping[str, Any], style: str) -> list[str]:
    """Why classes are not exact in a style: a list for each verdict, with the classes that share a reason."""
    found = []
    for verdict, title in BECAUSE.items():
        shared: dict[str, dict[str, str]] = {}
        for name, each in classes.items():
            if style in each and each[style]["verdict"] == verdict:
                for cause, where in why(each[style]):
                    before = shared.setdefault(cause, {}).get(name)
                    shared[cause][name] = f"{before}, {where}" if before else where
        lines = [f"* {cause}: {', '.join(where_each(places))}" for cause, places in sorted(shared.items())]
        if lines:
            found += [f"{title[0].upper()}{title[1:]}:", "\n".join(lines)]
    return found


def where_each(places: Mapping[str, str]) -> list[str]:
    """Each class with the place where a cause was seen, which goes without saying where it is one for all."""
    if len(set(places.values())) == 1 < len(places):
        return list(places)
    return [f"{name} ({where})" if where else name for name, where in places.items()]


def why(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The causes of a kept verdict and where each was seen; its words where the audit named none."""
    causes = [(each["cause"], each["layer"]) for each in one.get("causes", ())]
    return causes or [(one.get("words", "nothing was found").rstrip("."), "")]


if __name__ == "__main__":
    print(page(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), end="")
