"""How large the house is: lines of code, modules, the longest function on the spine. ``python tests/house.py`` prints.

A line of code is a line that holds a token which is neither a comment nor a docstring; blank lines do not count.
The limits stand in ``house_limits.toml`` beside this file, and ``test_house_size.py`` holds the house to them.
"""

from __future__ import annotations

import ast
import io
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

LIBRARY = Path(__file__).resolve().parent.parent / "varlen_lab"
LIMITS = tomllib.loads(Path(__file__).with_name("house_limits.toml").read_text(encoding="utf-8"))
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def modules() -> list[Path]:
    """Every Python file of the library."""
    return sorted(LIBRARY.rglob("*.py"))


def code_lines(source: str) -> int:
    """Lines of a file that hold a token which is no comment and no docstring."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length in lines, signature to last line, of every function of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.relative_to(LIBRARY)}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def spine() -> list[Path]:
    """The files a batch passes, from ``house_limits.toml``."""
    return [LIBRARY / name for name in LIMITS["spine"]]


def main() -> None:
    """Print the figures beside their limits, then a line a room."""
    counted = {path: code_lines(path.read_text(encoding="utf-8")) for path in modules()}
    longest = max((pair for path in spine() for pair in functions(path)), key=lambda pair: pair[1])
    print(f"lines of code         {sum(counted.values()):6,}  of {LIMITS['lines_of_code']:,}")
    print(f"modules               {len(counted):6,}  of {LIMITS['modules']:,}")
    print(f"longest on the spine  {longest[1]:6,}  of {LIMITS['function_lines']:,}  ({longest[0]})")
    rooms: dict[str, list[int]] = {}
    for path, lines in counted.items():
        parts = path.relative_to(LIBRARY).parts
        rooms.setdefault(parts[0] if len(parts) > 1 else "(root)", []).append(lines)
    for room, lines in sorted(rooms.items(), key=lambda pair: -sum(pair[1])):
        print(f"  {room:<12} {sum(lines):6,} lines in {len(lines):3} modules")


if __name__ == "__main__":
    main()
