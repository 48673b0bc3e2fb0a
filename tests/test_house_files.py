"""One writer, one reader: what touches a disk goes through ``varlen_lab/files``, and nothing that is read is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[1] / "varlen_lab"

# what may stand elsewhere, and why; a line of a file is (file, what it calls)
DRAFT = "inside of a folder that the writer has begun and moves into place"
MAY = {
    ("training/history.py", "open for a"): "a line more at the end of history.jsonl, which the writer has begun",
    ("training/engines/scattering.py", "torch.load"): "weights-only, of the file that is being written",
    ("course/pages/api.py", "write_text"): DRAFT,
    ("models/dequantised.py", "write_text"): DRAFT,
    ("viz/style.py", "write_bytes"): "where a person calls savefig(path), as matplotlib does",
    ("machine/environment.py", "write_text"): "no file: the system's own counter of memory",
}
WRITES = {"write_text", "write_bytes", "rename", "rmtree", "copyfile", "copytree", "move", "symlink_to", "hardlink_to"}
RUNS = {
    ("torch", "load"),
    ("pickle", "load"),
    ("pickle", "loads"),
    ("marshal", "loads"),
    ("shelve", "open"),
    ("joblib", "load"),
}
RUNS_CODE = {"eval", "exec", "compile", "__import__"}


def calls_of(source: str) -> Iterator[tuple[int, str]]:
    """(line, what) of every call that writes to the disk, or reads what may run."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        of, name = node.func, ""
        if isinstance(of, ast.Attribute):
            name = of.attr
            where = of.value.id if isinstance(of.value, ast.Name) else ""
            if name in WRITES:
                yield node.lineno, name
            elif (where, name) in RUNS:
                yield node.lineno, f"{where}.{name}"
            elif name == "replace" and where == "os":
                yield node.lineno, "os.replace"
        elif isinstance(of, ast.Name):
            name = of.id
            if name in RUNS_CODE:
                yield node.lineno, name
        if name == "open":
            words = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            words += [
                key.value.value for key in node.keywords if key.arg == "mode" and isinstance(key.value, ast.Constant)
            ]
            for word in words:
                if len(word) <= 3 and set(word) & set("wax+"):
                    yield node.lineno, f"open for {(set(word) & set('wax+')).pop()}"


def test_the_library_writes_and_reads_in_one_place() -> None:
    found = [
        f"{name}:{line}: {what}"
        for path in sorted(LIBRARY.rglob("*.py"))
        if not (name := path.relative_to(LIBRARY).as_posix()).startswith("files/")
        for line, what in calls_of(path.read_text(encoding="utf-8"))
    ]
    assert [line for line in found if tuple(line.split(":")[::2]) not in {(a, f" {b}") for a, b in MAY}] == []
    assert len({tuple(line.split(":")[::2]) for line in found}) == len(MAY), "an exception is left over"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("path.write_text('a', encoding='utf-8')", "write_text"),
        ("open(path, 'wb')", "open for w"),
        ("path.open('a')", "open for a"),
        ("path.open(mode='x')", "open for x"),
        ("torch.load(path)", "torch.load"),
        ("pickle.loads(body)", "pickle.loads"),
        ("shutil.rmtree(path)", "rmtree"),
        ("os.replace(a, b)", "os.replace"),
        ("eval(text)", "eval"),
    ],
)
def test_a_second_way_is_found(source: str, what: str) -> None:
    assert [said for _, said in calls_of(source)] == [what]


def test_what_is_harmless_is_not() -> None:
    for source in ("path.open('rb')", "text.replace('a', 'b')", "open(path)", "model.compile()", "re.compile(x)"):
        assert not list(calls_of(source))
