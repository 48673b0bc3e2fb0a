"""Six verbs at 80 and at 40 columns, in a pipe and on a terminal: no line is longer, no column is cut.

What is measured is stubbed: long names, every verdict, a leak. The slow tests run the command on a pseudo-terminal.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.cells import cell_len

from varlen_lab.cli import audit as audit_verb
from varlen_lab.cli import main, to_paste
from varlen_lab.config.names import named_config
from varlen_lab.leaks import rows as leak_rows
from varlen_lab.leaks.measure import Parity
from varlen_lab.leaks.report import AuditReport, Finding
from varlen_lab.machine.tables import print_table
from varlen_lab.models.building import tiny
from varlen_lab.models.registry import FAMILIES
from varlen_lab.studies import census as census_room
from varlen_lab.studies import comparison, support
from varlen_lab.studies.one_class import EXACT, LEAKS, NOT_BUILT, RAISES, REFUSED, SILENT, Outcome
from varlen_lab.studies.registry import STYLES
from varlen_lab.studies.support import Support
from varlen_lab.studies.verdict import Comparison, FirstStep
from varlen_lab.training import trainer
from varlen_lab.training.history import History

CONFIG = "tiny_llama_full_docstrings_e1"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def faults(text: str, columns: int) -> list[str]:
    """The lines that are longer than the console, but for one word that a terminal may break; and what was cut."""
    lines = ANSI.sub("", text).replace("\r", "\n").splitlines()
    return [
        line
        for line in lines
        if (cell_len(line.rstrip()) > columns and len(line.split()) > 1) or re.search(r"\w…|…\s*$", line)
    ]


def test_the_law_finds_a_long_line_and_a_cut_column() -> None:
    assert faults("a word " * 12, 80) and faults("unpac…  7.6", 80) and faults("x\r" + "ab " * 30, 80)
    assert not faults("\x1b[1m" + "x" * 80 + "\x1b[0m\n" + "n" * 90, 80)
    assert faults("✅" * 20 + " a", 40)  # two columns each


# ------------------------------------------------------------------------------------------------- what is measured

FINDING = Finding("attention ignores the seams", "Gemma2Attention of layers 0-25", "it " * 40, "say so " * 20, "9 of 9")


def report(documents: int, leak: float) -> AuditReport:
    leaks = np.tril(np.full((documents, documents), leak), -1)
    parity = Parity(0.5 if leak else 2e-7, 1e-7, 1e-8, 3.0, 0.1, torch.float32)
    found = (FINDING,) if leak else ()
    return AuditReport(leaks, 0.0, parity, found, ("a note " * 30,), (1234,) * documents, "varlen", "train")


def meta(mode: str) -> dict[str, Any]:
    told = {"backend": "transformers sdpa" if mode != "varlen" else "torch_varlen", "device": "cpu (x86_64)"}
    return told | {"config": CONFIG, "mode": mode, "dtype": "fp32", "seed": 0, "torch": torch.__version__} | NUMBERS


NUMBERS = {"processes": 1, "engine": "ddp", "data_report": "8,475 documents, " * 9, "operations_per_second": 1e9}
RECORD = {
    "loss": 7.25,
    "lr": 1e-3,
    "tokens": 2048,
    "trained_tokens": 2000,
    "padded_tokens": 2048,
    "seconds": 0.1,
    "cpu_seconds": 0.1,
    "mfu": 0.4,
}


def history(mode: str, steps: int = 3) -> History:
    return History(meta(mode), [RECORD | {"step": number} for number in range(1, steps + 1)])


def compared(steps: int = 3) -> Comparison:
    histories = {mode: history(mode, steps) for mode in ("unpacked", "packed", "varlen")}
    return Comparison(histories, dict.fromkeys(histories, 1.0), None, FirstStep(2e-7, 1e-8, 1, 1024, True))


def trained(config: Any, *, on_start: Any, on_step: Any, **others: Any) -> History:
    on_start(SimpleNamespace(lines=lambda: ["a sentence of the outlook " * 8], documents=9, rows=3))
    on_step({"step": 1, "held_out_loss": 2.5, "samples": ["a long answer " * 20]})
    return history("packed")


def outcomes() -> Iterator[list[Outcome]]:
    for number, verdict in enumerate((EXACT, REFUSED, LEAKS, RAISES, NOT_BUILT, SILENT)):
        kinds, layers = (("window missing",), ("SomeAttention of layers 0-40",)) if verdict == LEAKS else ((), ())
        isolated = ("layers.0.mixer",) * 20 if number == 0 else ()
        yield [
            Outcome("gemma4_unified_assistant", style, verdict, 0.5, "words " * 30, kinds, layers, "varlen", isolated)
            for style in STYLES
        ]


def measured(family: str, variant: str) -> Support:
    bad = family == "gemma"
    found = (str(FINDING),) if bad else ()
    return Support(family, variant, "DeepseekMoeForCausalLM", "reference", 2e-7, 1e-7, 1e-8, 0.25 * bad, found)


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured and nothing trained."""
    monkeypatch.setattr(support, "measure", measured)
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: compared())
    monkeypatch.setattr(trainer, "train", trained)
    monkeypatch.setattr(census_room, "census", lambda *_, **__: outcomes())
    monkeypatch.setattr(audit_verb, "from_name", lambda *_, **__: (torch.nn.Linear(1, 1), ["a note"]))
    monkeypatch.setattr(torch.nn.Linear, "device", SimpleNamespace(type="cpu"), raising=False)
    leaky = {"few": report(4, 0.5), "many": report(12, 0.5), "right": report(8, 0.0)}
    waiting = iter(leaky.values())
    monkeypatch.setattr(leak_rows, "audit_model", lambda *_, **__: next(waiting))


VERBS: dict[str, tuple[list[list[str]], list[int]]] = {
    "support": ([["support"]], [1]),
    "compare": ([["compare", CONFIG], ["compare", CONFIG, "--seeds", "2"]], [0, 0]),
    "list-cfg": ([["list-cfg"], ["list-cfg", "-p", "internlm7", "oasst"], ["list-cfg", "-p", "zzqq"]], [0, 0, 1]),
    "audit": ([["audit", "--model", "some/where/a_model_of_a_name"]] * 3, [1, 1, 0]),
    "train": ([["train", CONFIG]], [0]),
    "census": ([["census", "--causes"], ["census", "llama", "--batch", "ours"]], [1, 1]),
}


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.filterwarnings("ignore:this run is NOT varlen")
def test_no_line_is_longer_and_nothing_is_cut(
    verb: str, columns: int, terminal: bool, stubs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for words, code in zip(*VERBS[verb], strict=True):
        out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert main(words) == code
        assert not faults(out.getvalue(), columns) and len(out.getvalue() + err.getvalue()) > 50
        assert not faults(err.getvalue() if not terminal else "", columns)  # a bar draws over itself
        assert terminal or "\x1b" not in out.getvalue()


@pytest.mark.parametrize("verb", ["", *VERBS, "convert", "masks", "check-env", "run"])
@pytest.mark.parametrize("columns", [80, 40, 5])
def test_help_fits(
    verb: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as stop:
        main([*([verb] if verb else []), "--help"])
    assert stop.value.code == 0
    assert not faults(capsys.readouterr().out.replace("...", ""), max(columns, 20))


# ------------------------------------------------------------------------------------------------- what a table says


def lines_of(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    main(list(words))
    return capsys.readouterr().out.splitlines()


def test_support_shows_our_mark_first_and_which_leak(stubs: None, capsys: pytest.CaptureFixture[str]) -> None:
    head, *lines = lines_of(capsys, "support")
    assert head.split()[:3] == ["ours", "model", "XTuner"]
    marks = {
        record.title: (line[0], "✅" if record.on_page else "❌")
        for record in FAMILIES.values()
        for line in lines
        if line[1:].strip().startswith(f"{record.title} ")
    }
    assert len(marks) == 11
    for title, (ours, _) in marks.items():
        assert ours == ("❌" if title == "gemma" else "✅")
    at = head.index("XTuner") - 1  # a mark before it is two columns wide
    for record in FAMILIES.values():
        line = next(line for line in lines if line[1:].strip().startswith(f"{record.title} "))
        assert line[at:].strip() == ("✅" if record.on_page else "❌")
    below = [lines[n + 1] for n, line in enumerate(lines) if line.startswith("❌     gemma")]
    assert len(below) == 4 and all("attention ignores the seams, Gemma2Attention" in line for line in below)
    assert any(line.startswith("38 variants in 11 families") for line in lines)
    assert any(line.startswith("1 variant in 1 family:") for line in lines_of(capsys, "support", "--family", "yi"))


def test_a_name_is_never_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from varlen_lab.config.names import config_names

    for columns in ("20", "40", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        words = " ".join(lines_of(capsys, "list-cfg")).split()
        assert set(config_names()) <= set(words)


def test_who_hears_whom_is_a_matrix_or_words(stubs: None, capsys: pytest.CaptureFixture[str]) -> None:
    few, many, right = (lines_of(capsys, "audit", "--model", "m") for _ in range(3))
    at = next(n for n, line in enumerate(few) if line.startswith("who hears whom"))
    assert few[at + 1].split() == ["↓", "hears", "→", "1", "2", "3", "4"]
    assert few[at + 3].split() == ["2", "(1234)", "5e-01", "·", "·", "·"]
    assert any(line.startswith("  3 (1234) hears 1 (1234) by 5e-01, 2 (1234)") for line in many)
    assert not any("hears" in line for line in right)


def test_a_report_is_a_line_to_paste(stubs: None, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [lines_of(capsys, "audit", "--model", "some/folder/m")[-1] for _ in range(3)]
    assert lines[0].startswith("audit not ok: m, attention ignores the seams, logits 5e-01, leak 5e-01, fp32")
    assert lines[2].startswith("audit ok: m, logits 2e-07, fp32, cpu, 8 documents, 9,872 tokens")
    last = lines_of(capsys, "compare", CONFIG, "--seeds", "2")[-2:]
    assert last[0].startswith(f"compare ok: {CONFIG}, loss 0e+00, fp32, cpu, 3 steps")
    assert all(len(line) <= 80 for line in lines + last)
    assert to_paste(["a" * 90, "b"]) == "a" * 90
    alone = Comparison({"varlen": history("varlen")})
    assert alone.in_brief()[0] == f"compare proves nothing: {CONFIG}"


def test_one_of_each_is_singular(
    stubs: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: compared(1))
    monkeypatch.setattr(trainer, "train", lambda config, **_: history("varlen", 1))
    said = [*lines_of(capsys, "compare", CONFIG), *lines_of(capsys, "train", CONFIG)]
    said.append(str(replace(report(2, 0.5), lengths=(1,))))
    wrong = [
        line for line in said if re.search(r"\b(?<![\d,.])1 (documents|steps|tokens|rows|variants|families)\b", line)
    ]
    assert not wrong


def test_json_is_one_document(stubs: None, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["compare", CONFIG], ["support"], ["audit", "--model", "m"], ["census"], ["list-cfg"]):
        main([*words, "--json"])
        found = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert found
    main(["compare", CONFIG, "--json", "--seeds", "2"])
    assert [one["keeps_apart"] for one in json.loads(capsys.readouterr().out)] == [True, True]


# ------------------------------------------------------------------------------------------------- on a real terminal


def on_terminal(columns: int, *words: str, cwd: Path, **variables: str) -> tuple[int, str]:
    """Exit code and all that a pseudo-terminal of this width is sent; stdout and stderr are one there."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM")}
    command = [sys.executable, "-m", "varlen_lab", *words]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=kept | {"TERM": "xterm"} | variables
    )
    os.close(theirs)
    sent = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not piece:
            break
        sent += piece
    os.close(ours)
    return process.wait(), sent.decode("utf-8", "replace")


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["plain", "NO_COLOR", "dumb"])
@pytest.mark.parametrize("columns", [80, 40])
def test_a_terminal_says_how_wide_it_is(columns: int, variables: dict[str, str], tmp_path: Path) -> None:
    code, sent = on_terminal(columns, "list-cfg", "-p", "internlm7", "oasst", cwd=tmp_path, **variables)
    assert code == 0 and "internlm_7b_full_oasst1_e3" in sent and not faults(sent, columns)
    assert ("\x1b[" in sent) == (variables.get("TERM") != "dumb") and "\x1b[3" not in sent


FOREIGN = ("Loading weights", "Writing model shards", "it/s]", "FutureWarning", "UserWarning", "Map:", "Generating")


@pytest.mark.slow
def test_no_bar_or_warning_of_another_library_is_seen(tmp_path: Path, dialogues: Path) -> None:
    """A run from training to the audit of what it made, with our bars: a count, a time to go."""
    tiny("mistral").save_pretrained(tmp_path / "m")
    options = ["--cfg-options", f"data_path={dialogues}", "max_length=128", "max_steps=3", "evaluation_freq=2"]
    runs: list[tuple[list[str], Callable[[str], bool]]] = [
        (["train", CONFIG, "--work-dir", "w", *options], lambda sent: "3/3" in sent and "ETA 00:0" in sent),
        (["convert", "pth_to_hf", CONFIG, "w/iter_3.pth", "hf"], lambda sent: "All done!" in sent),
        (["audit", "--model", "m"], lambda sent: "audit ok: m" in sent),
        (["compare", CONFIG, *options], lambda sent: "compare ok" in sent),
        (["support", "--family", "yi"], lambda sent: "1/1" in sent),
    ]
    for columns in (80, 40):
        for words, right in runs:
            code, sent = on_terminal(columns, *words, cwd=tmp_path)
            assert code == 0 and right(sent), sent
            assert not [word for word in FOREIGN if word in sent], sent
            assert not faults(sent, columns), faults(sent, columns)
        (tmp_path / "hf").rename(tmp_path / f"hf{columns}")


def test_a_narrow_bar_leaves_facts_out_and_cuts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from varlen_lab.training.monitoring import progress_bar

    facts = "loss 7.629, lr 2.0e-08, 11,270 tok/s, sdpa"
    for columns, shown in ((80, facts), (60, "loss 7.629, lr 2.0e-08"), (30, "")):
        monkeypatch.setenv("COLUMNS", str(columns))
        err = Terminal()
        monkeypatch.setattr(sys, "stderr", err)
        with progress_bar("train", 1200, 7, True) as bar:
            bar.set_postfix_str(facts, refresh=False)
            bar.refresh()
            last = err.getvalue().rsplit("\r", 1)[-1]
        assert last.startswith("train 7/1200 ") and "ETA" in last and cell_len(last) < columns
        assert last.partition("ETA ")[2].partition(", ")[2] == shown
    with progress_bar("train", 3, 0, True) as bar:
        bar.update()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar("train", 3, 0, True) as bar:
        bar.update()
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_a_cut_table_would_be_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The planted fault: rich's table, which cuts what does not fit."""
    from rich.console import Console
    from rich.table import Table

    monkeypatch.setenv("COLUMNS", "40")
    names, cells = ["mode", "first loss", "a very long name", "backend"], ["unpacked", "7.6332", "0.0e+00", "sdpa"]
    print_table(names, [cells])
    assert not faults(capsys.readouterr().out, 40)
    table = Table(*names, box=None, width=24)
    table.columns[0].no_wrap = True
    table.add_row(*cells)
    Console(width=24).print(table)
    assert faults(capsys.readouterr().out, 24)


def test_the_config_that_these_tests_name_exists() -> None:
    assert named_config(CONFIG).name == CONFIG
