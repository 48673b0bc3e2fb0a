"""Every JSON file and ``--json`` output of the library is JSON, whatever was measured."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from varlen_lab.files.strict import strict_json

LIBRARY = Path(__file__).resolve().parents[1] / "varlen_lab"
# a digest of a text that nobody reads, and what a template or a tokenizer is made of
NO_FILES = {"models/fingerprints.py", "files/manifests.py"}


def test_what_json_cannot_write_is_null() -> None:
    found = strict_json({"loss": math.nan, "rows": [(math.inf, 1.5, True, None)], "under": {"a": -math.inf}}, indent=1)
    assert json.loads(found) == {"loss": None, "rows": [[None, 1.5, True, None]], "under": {"a": None}}
    with pytest.raises(TypeError):
        strict_json({"a": object()})


def loose(source: str) -> Iterator[int]:
    """Lines of calls of ``json.dumps`` and ``json.dump`` that may write NaN."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump"):
            given = {key.arg: ast.unparse(key.value) for key in node.keywords}
            if given.get("allow_nan") != "False":
                yield node.lineno


def test_no_file_is_written_with_a_word_that_is_no_json() -> None:
    found = [
        f"{name}:{line}"
        for path in sorted(LIBRARY.rglob("*.py"))
        if not (name := path.relative_to(LIBRARY).as_posix()).startswith("documents/") and name not in NO_FILES
        for line in loose(path.read_text(encoding="utf-8"))
    ]
    assert found == []
    assert list(loose("json.dumps(a)\njson.dump(a, file, allow_nan=True)\njson.dumps(a, allow_nan=False)")) == [1, 2]
