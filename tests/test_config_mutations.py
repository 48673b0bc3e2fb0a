"""Config files as slips, editors, other programs and attackers leave them: read or refused, never run."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from varlen_lab.config.names import config_names, named_config
from varlen_lab.config.text import load, load_text, render
from varlen_lab.errors import InputError

MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    lambda text, rng: flipped(text, rng, 1),
    lambda text, rng: flipped(text, rng, 30),
    lambda text, rng: text[: rng.randrange(len(text))],
    lambda text, rng: put(text, rng, rng.choice(SNIPPETS)),
    lambda text, rng: put(text, rng, rng.choice(b"()[]{}'\"\\=,#:\n\x00\xff ").to_bytes() * rng.randint(1, 3)),
    lambda text, rng: b"\n".join(rng.sample(text.split(b"\n"), text.count(b"\n"))),  # lines in another order, one less
    lambda text, rng: line_changed(text, rng, lambda line: line + b"\n" + line),  # the same setting twice
    lambda text, rng: line_changed(text, rng, lambda line: b""),
    lambda text, rng: line_changed(text, rng, lambda line: swapped(line, rng)),  # a slip of the hand
    lambda text, rng: line_changed(text, rng, lambda line: line.split(b"=")[0] + b"= " + rng.choice(SNIPPETS)),
    lambda text, rng: text.replace(b"\n", b"\r\n"),
    lambda text, rng: b"\xef\xbb\xbf" + text,
    lambda text, rng: text.decode(errors="replace").encode(rng.choice(["utf-16", "utf-16-le", "gb18030", "utf-32"])),
]
SNIPPETS = [
    b"__import__('os').mkdir('%s')", b"open('%s', 'w')", b"import os; os.mkdir('%s')", b"exec('x = 1')", b"lambda: 0",
    b"[" * 5000, b"(" * 150 + b")" * 150, b"-" * 5000 + b"1", b"not " * 3000 + b"1", b"9" * 5000, b"0x" + b"f" * 6000,
    b"1e999", b"-1e999", b"nan", b"inf", b"1_0", b"1j", b"b'x'", b"'\\ud800'", b"'\\N{BULLET}'", b"f'{1+1}'", b"...",
    b"None", b"True", b"(1, 2)", b"{[]: 1}", b"{'a': 1, 'a': 2}", b"'" + b"x" * 100_000 + b"'", "ｌｒ = 1".encode(),
    "été = 1".encode(), b"lr = lr", b"lr += 1", b"del lr", b"lr: float", b"*lr, = 1", b"lr := 1", b"x.y = 1",
    b"x[0] = 1", b"\x0c", b"\x1a", b"\xed\xa0\x80", b"if True:\n lr = 1", b"class A: pass", b"@x\ndef f(): pass",
    b"\t ",
    b"\\\n",
]  # fmt: skip


def flipped(text: bytes, rng: random.Random, count: int) -> bytes:
    letters = bytearray(text)
    for _ in range(count):
        letters[rng.randrange(len(letters))] ^= 1 << rng.randrange(8)
    return bytes(letters)


def put(text: bytes, rng: random.Random, what: bytes) -> bytes:
    at = rng.randrange(len(text)) if rng.random() < 0.5 else text.rfind(b"\n", 0, rng.randrange(len(text))) + 1
    return text[:at] + what + text[at:]


def line_changed(text: bytes, rng: random.Random, change: Callable[[bytes], bytes]) -> bytes:
    lines = text.split(b"\n")
    number = rng.choice([n for n, line in enumerate(lines) if b" = " in line])
    return b"\n".join([*lines[:number], change(lines[number]), *lines[number + 1 :]])


def swapped(line: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(line) - 1)
    return line[:at] + line[at + 1 : at + 2] + line[at : at + 1] + line[at + 2 :]


@pytest.mark.parametrize("files", [700, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_files_never_crash_and_never_run(files: int, tmp_path: Path) -> None:
    """Edited config files either load, and come back, or are refused in one short sentence with file and line."""
    texts = [render(named_config(name)).encode() for name in random.Random(2).sample(config_names(), 20)]
    sign, path = tmp_path / "was_run", tmp_path / "c.py"
    rng = random.Random(0)
    refused = 0
    for number in range(files):
        text = rng.choice(texts)
        for again in range(rng.randint(1, 3)):
            text = (rng.choice(MUTATIONS) if again else MUTATIONS[number % len(MUTATIONS)])(text, rng)
            if text.count(b" = ") < 2 or text.count(b"\n") < 3:  # nothing left to edit
                break
        path.write_bytes(text.replace(b"%s", str(sign).encode()))
        try:
            config = load(path)
        except InputError as problem:
            refused += 1
            # a setting that must be there and was edited away stands on no line
            said = re.match(rf"{re.escape(str(path))}(?::(\d+))?: ", str(problem))
            assert said and (said[1] or "exactly one of" in str(problem)), problem
            assert 1 <= int(said[1] or 1) <= len(re.split(rb"\r\n|\r|\n", text)) + 1
            assert "\n" not in str(problem) and len(str(problem)) < 700
        else:
            assert load_text(render(config), "c.py") == config
    assert files / 3 < refused < files and not sign.exists()
