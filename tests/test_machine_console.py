"""The console: words fold, tables lose nothing, plain letters, shown commands, streams that are gone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from varlen_lab.errors import plural
from varlen_lab.machine import letters
from varlen_lab.machine.console import as_said, print_json, say, say_spans, tell, track, width
from varlen_lab.machine.folding import Cell, folded
from varlen_lab.machine.letters import shown
from varlen_lab.machine.tables import laid_out, print_table

WORDS = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=30)


class Stream(io.StringIO):
    """A stream of an encoding, seen by a person or not."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = False) -> None:
        super().__init__()
        self.of, self.terminal = encoding, terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.of

    def isatty(self) -> bool:
        return self.terminal


# ------------------------------------------------------------------------------------------------- width


def test_a_pipe_has_a_width_only_where_columns_gives_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert width(Stream()) is None and width(Stream(terminal=True)) == 80
    for given_, expected in (("40", 40), ("3", 20), ("0", None), ("", None), ("-5", None), ("wide", None)):
        monkeypatch.setenv("COLUMNS", given_)
        assert width(Stream()) == expected
    closed = Stream()
    closed.close()
    monkeypatch.delenv("COLUMNS", raising=False)
    assert width(closed) is None


# ------------------------------------------------------------------------------------------------- folding


@given(st.lists(WORDS, max_size=12), st.integers(20, 90), st.integers(0, 30), st.integers(0, 60))
def test_folding_keeps_every_word_and_no_line_is_longer(words: list[str], columns: int, hang: int, indent: int) -> None:
    line = " " * indent + " ".join(words)
    for whole in (False, True):
        pieces = folded(line, columns, hang, whole)
        assert "".join("".join(pieces).split()) == "".join("".join(words).split())
        if whole:
            assert " ".join(pieces).split() == " ".join(words).split()
        for piece in pieces:
            assert cell_len(piece.rstrip()) <= columns or (whole and len(piece.split()) == 1)


def test_a_sentence_in_a_pipe_is_one_line_and_folds_where_a_width_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "a sentence that grep looks for " * 9
    monkeypatch.delenv("COLUMNS", raising=False)
    assert as_said(sentence, Stream()) == f"{sentence}\n"
    monkeypatch.setenv("COLUMNS", "40")
    lines = as_said(f"{sentence}\n  {sentence}", Stream(), hang=2).splitlines()
    assert max(map(len, lines)) <= 40 and len(lines) > 10 and lines[1].startswith("  ")
    assert as_said("", Stream()) == "\n"


def test_a_long_path_is_whole_on_a_terminal_and_fits_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    path = "/a/very/long/path" * 5
    assert path in as_said(f"saved {path}", Stream(terminal=True))
    assert max(map(len, as_said(f"saved {path}", Stream()).splitlines())) == 40


def test_a_tab_counts_as_the_columns_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(cell_len, as_said("a\tb " * 9, Stream()).splitlines())) <= 40


# ------------------------------------------------------------------------------------------------- tables


def table(
    capsys: pytest.CaptureFixture[str], head: Sequence[str], rows: Sequence[Sequence[Cell]], *right: str
) -> list[str]:
    print_table(head, rows, right=right)
    return capsys.readouterr().out.splitlines()


def test_a_table_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert table(capsys, ["name", "loss"], [["a", "1.5"], [("longer", "red"), "10.25"]], "loss") == [
        "name     loss",
        "a         1.5",
        "longer  10.25",
    ]


def test_columns_that_do_not_fit_move_below(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    head, row = ["name", "first", "second"], ["a name of 16 let", "0123456789", "abc"]
    assert table(capsys, head, [row]) == [
        "name              first",
        "    second",
        "a name of 16 let  0123456789",
        "    abc",
    ]
    head, row = ["name", "first"], ["✅" * 9, "0123456789abc"]  # two columns each
    assert table(capsys, head, [row])[-1] == "    0123456789abc"


def test_a_row_of_one_cell_runs_across_and_folds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    lines = table(capsys, ["a", "b"], [["1", "2"], ["    why it is so, in a long sentence"], ["3", "4"]])
    assert lines == ["a  b", "1  2", "    why it is so, in a long", "      sentence", "3  4"]
    assert table(capsys, [], [["1", "2"]]) == ["1  2"] and table(capsys, ["a", "b"], []) == ["a  b"]
    assert table(capsys, ["only"], [["one"]]) == ["only", "one"]


@given(st.data(), st.integers(1, 7), st.integers(20, 100))
def test_no_cell_is_cut_whatever_the_width(data: st.DataObject, count: int, columns: int) -> None:
    rows = data.draw(st.lists(st.lists(WORDS, min_size=count, max_size=count), min_size=1, max_size=4))
    spans = [[(cell, "") for cell in row] for row in rows]
    lines = ["".join(text for text, _ in line) for line in laid_out(spans[0], spans[1:], [], columns)]
    assert " ".join(lines).split() == [word for row in rows for cell in row for word in cell.split()]
    assert all(cell_len(line) <= columns or len(line.split()) == 1 for line in lines)


def test_a_cell_is_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert table(capsys, ["a", "b"], [["x\ny", "\x1b[31mred"]])[1] == "x\\ny  \\x1b[31mred"


# ------------------------------------------------------------------------------------------------- letters, commands


def test_a_terminals_commands_are_shown_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b]0;title\x07b\u202ec\u2028d\x9bm"
    assert shown(hostile) == "a\\x1b]0;title\\x07b\\u202ec\\u2028d\\x9bm"
    say(hostile, "red", mark=("\x1b[2J", "bold"), hang=2)
    print_table([hostile], [[hostile]])
    print_json({hostile: hostile})
    out = capsys.readouterr().out
    assert not letters.COMMANDS.search(out) and len(out.splitlines()) == 6
    assert json.loads("".join(out.splitlines()[3:])) == {hostile: hostile}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "gbk", "utf-8"])
def test_every_mark_of_ours_has_plain_letters(encoding: str) -> None:
    text = shown("".join(letters.PLAIN) + "中\udcff", Stream(encoding))
    text.encode(encoding, "strict")
    if encoding == "ascii":
        assert text.count("?") == 1 and text.endswith("?\\xff")  # 中 alone is not known


def test_an_encoding_error_that_is_none_of_ours_stays_one() -> None:
    problem = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")
    with pytest.raises(UnicodeDecodeError):
        letters.in_plain_letters(problem)


# ------------------------------------------------------------------------------------------------- JSON


def test_json_holds_what_json_can_hold(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"nan": float("nan"), "all": [float("inf"), -1.5, (True, None)], "中": "\x85\ud800"}
    print_json(value)
    kept = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert kept == {"nan": None, "all": [None, -1.5, [True, None]], "中": "\x85\ud800"}
    ascii_only = Stream("ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    print_json(value, indent=None)
    assert ascii_only.getvalue().isascii() and ascii_only.getvalue().count("\n") == 1


# ------------------------------------------------------------------------------------------------- bars


@pytest.mark.parametrize(
    ("terminal", "term", "drawn"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_a_bar_is_for_people(terminal: bool, term: str, drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "40")
    err = Stream(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", err)
    assert list(track(iter("abc"), "reading", 3)) == ["a", "b", "c"]
    assert bool(err.getvalue().strip()) == drawn and ("3/3" in err.getvalue()) == drawn


# ------------------------------------------------------------------------------------------------- streams


SAYS = "from varlen_lab.machine import console; console.prepare(); console.say('Σ ≤ ✓ done'); print('end')"


def python(
    code: str, prepare: Callable[[], None] | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, env=os.environ | variables, preexec_fn=prepare, timeout=60)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "utf-8"])
def test_any_encoding_is_written_to(encoding: str) -> None:
    done = python(SAYS, PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and done.stderr == b""
    text = done.stdout.decode(encoding)
    assert "done" in text and ("sum  <= + done" in text) == (encoding in ("ascii", "latin-1"))


@pytest.mark.skipif(os.name == "nt", reason="a process cannot be started without streams there")
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_stream_that_is_closed_is_no_fault_and_its_number_is_taken(closed: tuple[int, ...]) -> None:
    code = f"{SAYS}; f = open({os.devnull!r}); import os; os._exit(0 if f.fileno() > 2 else 3)"
    done = python(code, lambda: [os.close(number) for number in closed] and None)  # type: ignore[func-returns-value]
    assert done.returncode == 0, done.stderr


def test_plural() -> None:
    assert [plural(count, "row") for count in (0, 1, 2, 1000)] == ["0 rows", "1 row", "2 rows", "1,000 rows"]


# ------------------------------------------------------------------------------------------------- one line


def test_a_line_feed_that_came_with_a_name_makes_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Or a file's name could write what looks like a line of ours. What has lines by itself is said as spans."""
    name = "data\nerror: all is lost"
    say(name)
    assert capsys.readouterr().out == "data\\nerror: all is lost\n"
    assert as_said(name) == "data\\nerror: all is lost\n"
    say_spans([("a text\nof two lines", "")])
    assert capsys.readouterr().out == "a text\nof two lines\n"


def test_what_is_told_on_the_way_is_no_error_in_a_notebook(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "varlen_lab")
    tell("isolated: \x1b[31m\n1 layer")
    assert caplog.messages == ["isolated: \x1b[31m\n1 layer"] and capsys.readouterr() == ("", "")
    kernel = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    monkeypatch.setattr(sys, "stderr", kernel())
    tell("isolated: \x1b[31m\n1 layer")
    assert capsys.readouterr().out == "varlen_lab: isolated: \\x1b[31m\\n1 layer\n"
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    tell("of the second process")
    assert capsys.readouterr().out == ""
