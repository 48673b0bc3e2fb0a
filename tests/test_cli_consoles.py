"""Any console: every verb does the same work with the same exit code, whoever reads it and in whatever it is read.

Laws over verbs and consoles, on data, names and answers that hold a terminal's commands, marks that turn the direction
of writing and characters that few encodings have. The verbs run in copies of one Python (``console_runs.py``).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from console_runs import CLOSED, FULL, GONE, Consoles, Shown
from rich.cells import cell_len
from turns import by_turns

from varlen_lab.cli.registry import VERBS
from varlen_lab.config.names import named_config
from varlen_lab.config.text import render
from varlen_lab.machine import console
from varlen_lab.machine.letters import COMMANDS

pytestmark = pytest.mark.skipif(os.name == "nt", reason="consoles are made with fork and pseudo-terminals")

UGLY = "\x1b[31mRED\x1b[0m \x9b1m \u202e量 ✓ café\tend"
CFG = "mine✓.py"
NAME = "tiny_llama_full_docstrings_e1"
QUICK = {
    "list-cfg": ["list-cfg", "-p", "tiny_llama"],
    "copy-cfg": ["copy-cfg", NAME, "copies✓", "--force"],
    "check-custom-dataset": ["check-custom-dataset", "bad.jsonl"],
    "log-dataset": ["log-dataset", "ugly.jsonl", "--show", "all"],
    "pack-report": ["pack-report", "ugly.jsonl", "-o", "report✓"],
    "masks": ["masks", "--lengths", "7", "3", "--names", "a", UGLY, "-o", "masks✓.png"],
    "check-env": ["check-env"],
}
TRAINED = "runs✓/iter_2.pth"
SLOWER = {
    "train": ["train", CFG, "--work-dir", "again✓"],
    "convert": ["convert", "pth_to_hf", CFG, TRAINED, "folder✓"],
    "audit": ["audit", CFG],
    "compare": ["compare", CFG, "-o", "losses✓"],
    "support": ["support", "--family", "llama"],
    "census": ["census", "llama"],
    "run": ["run", "lesson✓.ipynb", "-o", "done✓.ipynb"],
}
ERRORS = {
    "a verb": ["trian✓\x1b[31m"],
    "an option": ["masks", "--names\x1b[31m✓"],
    "a choice": ["log-dataset", "ugly.jsonl", "--show", "\x1b[31m✓"],
    "a file": ["pack-report", "none\x1b[31m\u202e✓.jsonl"],
    "a config": ["train", "none\x9b31m✓"],
    "a notebook": ["run", "none\x1b[31m✓"],
    "nothing matches": ["list-cfg", "-p", "\x1b[31m✓"],
}
CODES = {"check-custom-dataset": 1, "nothing matches": 1} | dict.fromkeys(list(ERRORS)[:-1], 2)
SAVED = {
    "copy-cfg": [f"copies✓/{NAME}_copy.py"],
    "pack-report": ["report✓/pack_report.json", "report✓/lengths.png", "report✓/rows.png"],
    "masks": ["masks✓.png"],
    "train": ["again✓/iter_2.pth", "again✓/history.jsonl"],
    "convert": ["folder✓/model.safetensors"],
    "compare": ["losses✓/comparison.json", "losses✓/losses.png"],
    "run": ["done✓.ipynb", "done✓.html"],
}
ENCODINGS = ["gbk", "latin-1", "cp1252", "ascii"]
NO_READER = {
    "stdout closed": {"out": CLOSED},
    "stderr closed": {"err": CLOSED},
    "both closed": {"out": CLOSED, "err": CLOSED},
    "a pipe without a reader": {"out": GONE},
    "two pipes without a reader": {"out": GONE, "err": GONE},
    "stderr on a full disk": {"err": FULL},
}
ALL = QUICK | SLOWER | ERRORS
QUICKLY = [pytest.param(name, id=name.replace(" ", "_")) for name in QUICK | ERRORS]
each = [*QUICKLY, *by_turns(SLOWER, always=0)]


@pytest.fixture(scope="module")
def consoles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consoles]:
    """Consoles in a folder with ugly data, a config that trains on it, and a notebook."""
    from nbformat.v4 import new_code_cell
    from test_course_lessons import write_lesson

    folder = tmp_path_factory.mktemp("consoles")
    talk = [{"role": "user", "content": f"What? {UGLY}"}, {"role": "assistant", "content": f"This. {UGLY}\nAnd more."}]
    lines = [json.dumps({"messages": talk})] * 4
    (folder / "ugly.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "bad.jsonl").write_text("\n".join([*lines, json.dumps({UGLY: 1}), "{"]) + "\n")
    config = named_config(NAME).replace(
        data_path="ugly.jsonl", max_length=256, max_steps=2, evaluation_freq=1, evaluation_inputs=[UGLY]
    )
    (folder / CFG).write_text(render(config), encoding="utf-8")
    write_lesson(folder / "lesson✓.ipynb", new_code_cell("print(1)"))
    started = Consoles(folder)
    yield started
    started.close()


@pytest.fixture
def run(consoles: Consoles):
    """Run one of ALL in a console; a checkpoint is there where one is needed."""

    def of(name: str, out: str = "", err: str = "", terminal: int = 0, **environment: str) -> Shown:
        if name == "convert" and not (consoles.folder / TRAINED).exists():
            assert consoles.run("train", CFG, "--work-dir", "runs✓").code == 0
        for file in SAVED.get(name, []):
            (consoles.folder / file).unlink(missing_ok=True)
        shown = consoles.run(*ALL[name], out=out, err=err, terminal=terminal, **environment)
        assert not shown.traceback, shown.err.decode(errors="replace")
        for file in SAVED.get(name, []):
            assert (consoles.folder / file).stat().st_size, file
        return shown

    return of


def test_every_verb_is_asked() -> None:
    """``walkthrough`` is ``run``, lesson by lesson: it takes minutes."""
    assert {words[0] for words in (QUICK | SLOWER).values()} == set(VERBS) - {"walkthrough"}


@pytest.mark.parametrize("name", each)
def test_the_exit_code_is_the_same_in_every_encoding(name: str, run) -> None:
    for encoding in ["utf-8", *ENCODINGS]:
        shown = run(name, PYTHONIOENCODING=encoding)
        assert shown.code == CODES.get(name, 0), (encoding, shown.err.decode(encoding))
        text = shown.out.decode(encoding) + shown.err.decode(encoding)
        assert text.strip() and no_commands(text), encoding


@pytest.mark.parametrize("name", each)
def test_who_reads_it_changes_nothing(name: str, run) -> None:
    for how, streams in NO_READER.items():
        assert run(name, **streams).code == CODES.get(name, 0), how


@pytest.mark.parametrize("name", each)
def test_a_full_disk_behind_stdout_is_a_sentence(name: str, run) -> None:
    shown = run(name, out=FULL)
    if name in ERRORS:  # it has nothing to say there
        assert shown.code == CODES[name]
        return
    last = shown.err.decode().splitlines()[-1]
    assert shown.code == 2 and last.startswith("error: stdout could not be written (No space left on device)")
    assert run(name, out=FULL, err=FULL).code == 2


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("name", each)
def test_no_line_is_longer_than_the_console(name: str, columns: int, run) -> None:
    """In a pipe too, where COLUMNS says so. A terminal gets a word that is longer in one piece, to be copied."""
    for how, shown in (
        ("a pipe", run(name, COLUMNS=str(columns))),
        ("a terminal", run(name, terminal=columns)),
    ):
        text = (shown.out + shown.err).decode()
        for line in re.split(r"[\r\n]+", without_colours(text)):
            one_word = how == "a terminal" and " " not in line.strip()
            assert cell_len(line) <= columns or one_word, (how, line)
        # rich hides the cursor while a bar is there, which may be cut
        assert "…" not in re.sub(r"(?s)\x1b\[\?25l.*?\x1b\[\?25h", "", text), how


@pytest.mark.parametrize("name", each)
@pytest.mark.parametrize(
    "environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}], ids=str
)
def test_a_terminal_obeys_none_of_what_data_say(name: str, environment: dict[str, str], run) -> None:
    shown = run(name, terminal=80, **environment)
    assert shown.code == CODES.get(name, 0)
    text = shown.out.decode()
    assert no_commands(without_colours(text))
    assert "\x1b[31mRED" not in text and "\x1b[31m✓" not in text, "data coloured themselves"
    if "TERM" in environment:
        assert "\x1b" not in text
    if "NO_COLOR" in environment:
        assert not re.search(r"\x1b\[[\d;]*3[1-7]", text)


def test_what_is_trained_on_is_marked_on_a_terminal_alone(run) -> None:
    assert "\x1b[32m" in run("log-dataset", terminal=80).out.decode()
    assert "\x1b" not in run("log-dataset").out.decode()


def without_colours(text: str) -> str:
    """What a terminal shows; our own colours and the bars' commands are obeyed there."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def no_commands(text: str) -> bool:
    """Whether nothing in a text is a command but ends of lines."""
    return not COMMANDS.search(text.replace("\r", "\n"))


# ------------------------------------------------------------------------------------- what the laws would find


def test_planted_faults_are_found(consoles: Consoles, tmp_path: Path) -> None:
    """``print`` in place of our console: another encoding, a gone reader, a terminal's command, each is seen."""
    bare = "import sys; print(sys.argv[1]); sys.stdout.flush()"

    def printed(**how: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, "-c", bare, UGLY], stderr=subprocess.PIPE, check=False, **how)  # type: ignore[call-overload]

    assert printed(stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"}).returncode == 1
    with open(FULL, "wb") as full:
        assert Shown(0, b"", printed(stdout=full).stderr).traceback
    said = printed(stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "utf-8"}).stdout.decode()
    assert not no_commands(said)


def test_tables_are_json_where_a_program_asks(consoles: Consoles) -> None:
    """In ASCII too, and with data that hold commands."""
    for words in (
        ["check-env"],
        ["log-dataset", "ugly.jsonl"],
        ["pack-report", "ugly.jsonl"],
        ["check-custom-dataset", "bad.jsonl"],
    ):
        for encoding in ("utf-8", "ascii"):
            shown = consoles.run(*words, "--json", PYTHONIOENCODING=encoding)
            assert no_commands(shown.out.decode(encoding)) and json.loads(shown.out), words
    environment = json.loads(consoles.run("check-env", "--json").out)
    assert environment["ok"] is True and environment["versions"]["torch"] and environment["rows"]
    row = json.loads(consoles.run("log-dataset", "ugly.jsonl", "--json").out)
    assert UGLY in row["documents"][0]["text"] and len(row["cu_seqlens"]) == 1 + len(row["documents"])
    assert sum(len(one["labels"]) for one in row["documents"]) == row["cu_seqlens"][-1]


def test_bytes_of_a_name_that_are_no_text(consoles: Consoles) -> None:
    """They are written out, and what cannot be put into a config says so."""
    name = os.fsdecode(b"row\xff.png")
    shown = consoles.run("masks", "--lengths", "3", "4", "-o", name)
    assert shown.code == 0 and shown.out == b"wrote row\\xff.png\n"
    shown = consoles.run("pack-report", os.fsdecode(b"data\xff.jsonl"))
    assert shown.code == 2 and b"PYTHONUTF8=1" in shown.err


def test_a_command_is_copied_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is folded, a shell reads on; what is in quotes is not folded."""
    command = "printf '%s|' --force-reinstall \"flash attn [cu13]\" and --more-words and --more"
    monkeypatch.setenv("COLUMNS", "40")
    console.say_command(command)
    printed = capsys.readouterr().out
    assert printed.count("\n") > 1 and max(map(len, printed.splitlines())) <= 40
    ours, theirs = (subprocess.run(["sh", "-c", each], capture_output=True, check=True) for each in (printed, command))
    assert ours.stdout == theirs.stdout


def test_files_are_utf_8_in_every_locale(tmp_path: Path) -> None:
    """A config's text, the report as JSON: not in the encoding of the console or the locale."""
    latin = {**os.environ, "LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = ["copy-cfg", "tiny_llama_full_docstrings_e1", ".", "--set", "prompt_template=tokenizer"]
    done = subprocess.run([sys.executable, "-m", "varlen_lab", *words], cwd=tmp_path, env=latin, capture_output=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / f"{NAME}_copy.py").read_text(encoding="utf-8")


def test_no_home_is_a_sentence(tmp_path: Path) -> None:
    code = """
import os, pwd, sys
os.environ.pop("HOME"); os.environ.pop("VARLEN_LAB_CACHE", None); os.environ.pop("XDG_CACHE_HOME", None)
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
from varlen_lab.cli import main
sys.argv = ["varlen-lab", "check-env"]
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = "error: there is no home folder to keep files in; set VARLEN_LAB_CACHE to a folder."
    assert " ".join(done.stderr.split()).endswith(said)


NAMES = {
    "no file": ["pack-report", "none\nfile.jsonl"],
    "no data": ["check-custom-dataset", "folder\nname"],
    "no ending": ["masks", "--lengths", "3", "-o", "x\ny.foo"],
    "no checkpoint": ["convert", "pth_to_hf", NAME, "a\nb", "c"],
    "no notebook": ["run", "nb\nx.ipynb"],
    "no name": ["run", "05", "-p", "a\nb=3"],
    "no config": ["train", "cfg\nx.py"],
}


def test_a_line_feed_in_a_name_makes_no_second_line(consoles: Consoles) -> None:
    """An error stays one sentence, and a file's name cannot write a line that looks like ours."""
    (consoles.folder / "folder\nname").mkdir()
    (consoles.folder / "nb\nx.ipynb").write_text("{}")
    (consoles.folder / "cfg\nx.py").write_text("nope = 1\n")
    for how, words in NAMES.items():
        shown = consoles.run(*words)
        assert shown.code == 2 and shown.err.count(b"\n") == 1 and b"\\n" in shown.err, (how, shown.err)
    shown = consoles.run("masks", "--lengths", "3", "--names", "a\nb", "-o", "x\nwrote y.png")
    assert shown.code == 0 and shown.out == b"wrote x\\nwrote y.png\n"


@pytest.mark.parametrize(
    "words",
    [["train"], ["compare"], ["pack-report"], ["run"], ["audit", "--model"], ["copy-cfg", NAME], ["run", "05", "-o"]],
    ids=" ".join,
)
def test_a_name_that_is_too_long_is_a_sentence(words: list[str], consoles: Consoles) -> None:
    """Asking the system for it fails in a way of its own."""
    shown = consoles.run(*words, "a" * 5000 + (".ipynb" if "-o" in words else ""))
    assert shown.code == 2 and not shown.traceback and shown.err.startswith(b"error: ")
    assert b"File name too long" in shown.err and shown.err.count(b"\n") == 1 and len(shown.err) < 300


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a path that somebody can choose otherwise is their matter."""
    from varlen_lab import cli

    for problem in (OSError(5, "Input/output error", "x"), OSError(13, "Permission denied"), KeyError("x")):

        def fails(verb: str | None, problem: BaseException = problem) -> None:
            raise problem

        monkeypatch.setattr(cli, "build_parser", fails)
        with pytest.raises(type(problem)):
            cli.main(["check-env"])


def test_a_verdict_of_the_audit_is_not_said_twice_in_ascii(consoles: Consoles) -> None:
    shown = consoles.run("check-env", PYTHONIOENCODING="ascii")
    assert b"\n+ " in shown.out and b"ok ok" not in shown.out
