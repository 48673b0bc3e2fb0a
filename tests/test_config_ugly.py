"""A config that is no config: endless, huge, nested, no file at all. A sentence, in a time that grows with the size."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import varlen_lab
from varlen_lab.config.schema import Config
from varlen_lab.config.text import LARGEST_FILE, load, load_config, load_text, override
from varlen_lab.errors import InputError

LONG_LINES: dict[str, Callable[[int], str]] = {
    "a list of calls": lambda size: f"data_path = [{','.join(['f()'] * (size // 4))}]",
    "an f-string": lambda size: f"SYSTEM = f'{'{a}' * (size // 3)}'",
    "an f-string over lines": lambda size: f"SYSTEM = f'''{'{a}' * (size // 3)}'''",
    "quotes": lambda size: "'" * size,
    "quotes that never end": lambda size: "'''" + "\\'''" * (size // 4),
}
NO_FILES = [
    "pipe.py",
    "folder.py",
    "loop.py",
    "leads_nowhere.py",
    "/dev/zero",
    "a\0b.py",
    "\ud800.py",
    "n" * 300,
    "",
    " ",
]


def sentence(call: Callable[[], object]) -> str:
    """What an InputError says: one line that can be printed."""
    with pytest.raises(InputError) as caught:
        call()
    said = str(caught.value)
    assert said.isprintable() and len(said) < 1000, said
    return said


@pytest.mark.slow
@pytest.mark.parametrize("kind", LONG_LINES)
def test_a_line_of_a_megabyte_is_refused_in_seconds(kind: str) -> None:
    """It took half a minute, an f-string two: what shows a person the line went through it letter by letter."""
    source = LONG_LINES[kind](LARGEST_FILE)
    start = time.process_time()
    assert sentence(lambda: load_text(source, "c.py")).startswith("c.py:1")
    assert time.process_time() - start < 12  # 1 to 3 where nothing else runs


def test_an_f_string_of_a_usual_length_is_named_as_code() -> None:
    assert "SYSTEM is code" in sentence(lambda: load_text("lr = 1.0\nSYSTEM = f'{a}'", "c.py"))
    long = "# it's no string\nlr = 1.0\nSYSTEM = rf'" + "{a}" * 9000 + "'"
    assert sentence(lambda: load_text(long, "c.py")).startswith("c.py:3: an f-string is code")


def test_the_line_that_is_shown_is_the_one_that_is_wrong() -> None:
    """Columns are counted in bytes, and other line ends count, too."""
    assert "`é.ü()` is not" in sentence(lambda: load_text("lr = 1.0; é.ü(); seed = 1\r\n", "c.py"))
    assert "c.py:3: `f(1,` is not" in sentence(lambda: load_text("lr = 1.0\r\n\r\nf(1,\r\n2)", "c.py"))
    assert "'a/b.jsonl'" in sentence(lambda: load_text("# é\rdata_path = a/b.jsonl", "c.py"))


@pytest.mark.parametrize(
    "value", ["(" * 500_000, "[" * 150 + "]" * 150, "-" * 99_999 + "1", "1+" * 99_999 + "1", "a" + ".a" * 99_999]
)
def test_a_deep_nest_is_a_sentence(value: str) -> None:
    sentence(lambda: load_text(f"lr = {value}", "c.py"))


@pytest.mark.parametrize("name", NO_FILES)
@pytest.mark.parametrize("read", [load, load_config])
def test_what_is_no_file_is_a_sentence_and_is_not_waited_for(
    name: str, read: Callable[[str], Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo("pipe.py")
    os.mkdir("folder.py")
    os.symlink("loop.py", "loop.py")
    os.symlink("nothing", "leads_nowhere.py")
    sentence(lambda: read(name))


@pytest.mark.parametrize("body", [b"lr = 1\0", "lr = 1".encode("utf-16"), b"SYSTEM = '\xe9'", b"\x80" * 1000])
def test_what_is_no_text_is_a_sentence(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.py").write_bytes(body)
    sentence(lambda: load(tmp_path / "c.py"))


def test_a_file_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "c.py").open("wb") as file:
        file.truncate(10**8)
    assert "the file has 95.4 MB" in sentence(lambda: load(tmp_path / "c.py"))


ODD_NUMBERS = [10**30, -(10**30), 2**63, 10**4000, float("inf"), float("-inf"), float("nan"), 1e308, 5e-324, -0.0, True]
ODD_TEXTS = ["\ud800", "a\0b", "\x1b[2J", "\u202e", "x" * 10_000, ""]
ODD = st.recursive(
    st.sampled_from([*ODD_NUMBERS, *ODD_TEXTS, None, b"bytes", 1j, ...]) | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(name=st.sampled_from(sorted(Config.__dataclass_fields__)), value=ODD)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_setting_takes_or_refuses_every_value(small: Config, name: str, value: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for change in (lambda: small.replace(**{name: value}), lambda: override(small, [f"{name}={value!r}"])):
            try:
                change()
            except InputError as refused:
                said = str(refused)
                said.encode()  # half a character cannot be printed
                assert "\n" not in said and len(said) < 1500, said


@pytest.mark.parametrize("given", [None, 5, b"tiny", {}, ["tiny"], float("nan"), object()])
@pytest.mark.parametrize("face", ["load_config", "train", "compare", "convert", "load_model", "isolate", "audit"])
def test_what_stands_where_a_config_or_a_model_should_is_a_sentence(face: str, given: Any) -> None:
    more = {"convert": ["a.pth", "out"], "audit": [{}]}.get(face, [])
    with pytest.raises(InputError, match="it must be") as caught:
        getattr(varlen_lab, face)(given, *more)
    assert "\n" not in str(caught.value)


def test_a_name_where_a_config_should_stand_is_told_how_to_become_one() -> None:
    with pytest.raises(InputError, match="load_config makes one"):
        varlen_lab.train("tiny_llama_full_docstrings_e1")  # type: ignore[arg-type]


def test_a_model_of_a_name_without_an_end_is_a_sentence() -> None:
    with pytest.raises(InputError, match="there is no folder") as caught:
        varlen_lab.load_model("a" * 100_000)
    assert len(str(caught.value)) < 500
