"""The fault harness sees what it looks for: each planted fault is reported by its own word, and sound code by none."""

from __future__ import annotations

import os
import pickle
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from varlen_lab.errors import InputError
from varlen_lab.files.windows import WINDOWS

if WINDOWS:
    pytest.skip("faults are done to forked processes", allow_module_level=True)

from benchmarks.faults import __main__ as command
from benchmarks.faults import bits, bombs, fields, full, kills, stage
from benchmarks.faults import signals as breaking
from benchmarks.faults.children import in_child, in_children
from benchmarks.faults.operations import FULL, KILL, TORN, counted
from benchmarks.faults.outcomes import Case, Outcome, Tally
from benchmarks.faults.registry import KINDS
from benchmarks.faults.stage import CANARY, Ran, Stage, called, judged
from varlen_lab.files.writing import written_whole

OLD, NEW = b"old" * 4000, b"new" * 4000


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage with nothing on it but a file, and a folder to stand in."""
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "kept.bin").write_bytes(OLD)
    (tmp_path / "case").mkdir()
    monkeypatch.chdir(tmp_path / "case")
    found = Stage(tmp_path / "stage")
    found.chooser.seed(0)
    return found


def in_place() -> None:
    """The planted writer: it has no name of its own, and what was there is gone before what is new is whole."""
    with open("kept.bin", "wb", buffering=0) as file:
        file.write(NEW[:6000])
        file.write(NEW[6000:])


def whole() -> None:
    with written_whole(Path("kept.bin")) as file:
        file.write(NEW)


def writer(act) -> kills.Operation:
    def neither(_: Stage) -> str:
        return "" if Path("kept.bin").read_bytes() in (OLD, NEW) else "neither old nor new"

    return kills.Operation(("kept.bin",), lambda: called(act), neither, neither, cleans=False)


@pytest.mark.parametrize("how", [KILL, TORN])
def test_a_writer_that_is_not_atomic_loses_and_ours_does_not(empty: Stage, how: str) -> None:
    for act, lost in ((in_place, True), (whole, False)):
        seen = kills.moments(empty, writer(act))
        assert "write" in seen and "create" in seen
        words = [kills.killed(empty, writer(act), at, how).word for at in range(1, len(seen) + 1)]
        assert ("lost" in words) is lost, words
        if not lost:
            assert set(words) == {"unharmed"}
            assert {"fsync", "replace"} <= set(seen)


def test_each_operation_is_met_once_and_in_order(empty: Stage) -> None:
    def work() -> list[str]:
        with counted() as found:
            Path("a").mkdir()
            with open("a/b", "w", encoding="utf-8") as file:
                file.write("text")
            os.replace("a/b", "a/c")
            Path("a/c").unlink()
            os.rmdir("a")
            Path("read").exists()
        return found.seen

    assert in_child(work).value == ["mkdir", "create", "write", "replace", "unlink", "rmdir"]


def test_a_full_disk_that_is_not_told_is_a_traceback(empty: Stage) -> None:
    outcomes = {full.filled(empty, writer(in_place), partial(counted, at, FULL)).word for at in (1, 2, 3)}
    assert outcomes == {"traceback", "lost"}  # an OSError as it comes, and half a file


def test_a_reader_without_sums_is_silent(empty: Stage) -> None:
    """The planted reader takes bytes as they are; one that compares them with a sum refuses."""

    def trusting() -> None:
        Path("result").write_bytes(Path("kept.bin").read_bytes())

    def careful() -> None:
        if Path("kept.bin").read_bytes() != OLD:
            raise InputError("kept.bin is damaged; copy it again.")
        trusting()

    def same(_: Stage) -> str:
        return "" if Path("result").read_bytes() == OLD else "other bytes"

    for act, word in ((trusting, "silent"), (careful, "refused")):
        reader = bits.Reader(("kept.bin",), "kept.bin", partial(called, act), same)
        harms = list(bits.harms(len(OLD), 2, empty.chooser))
        assert len(harms) > 20
        found = {bits.damaged(empty, reader, Path("kept.bin"), harm).word for _, harm in harms}
        assert found <= {word, "unharmed"} and word in found  # two pages may be alike


@pytest.mark.parametrize("wrapping", ["pickle", "pickle of protocol 0", "torch", "torch of old", "numpy"])
@pytest.mark.parametrize("bomb", ["os.system", "exec", "open"])
def test_a_reader_that_unpickles_executes(empty: Stage, bomb: str, wrapping: str) -> None:
    """Each bomb goes off in the hands of a reader that trusts it, so none is a dud."""
    import numpy as np
    import torch

    body = bombs.pickles(bombs.bombs()[bomb])[wrapping]
    Path("bomb").write_bytes(body)

    def trusting() -> None:
        if wrapping == "numpy":
            np.load("bomb", allow_pickle=True)
        elif wrapping.startswith("torch"):
            torch.load("bomb", weights_only=False)
        else:
            pickle.loads(body)

    ran = in_child(partial(called, trusting)).value
    assert judged(ran, lambda: True).word == "executed"


def test_code_that_is_imported_executes(empty: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    bombs.code_in(".", "trap_of_a_case")
    in_child(lambda: exec(Path("trap_of_a_case.py").read_text(), {}))
    assert judged(Ran(0, ""), lambda: True).word == "executed"
    Path(CANARY).unlink()
    assert judged(Ran(0, ""), lambda: True).word == "unharmed"


def test_what_a_verb_says_is_judged(empty: Stage) -> None:
    def raises() -> None:
        raise KeyError("a field")

    assert judged(called(raises), lambda: True).word == "traceback"
    assert judged(Ran(2, "error: a sentence."), lambda: True) == Outcome("refused", "error: a sentence.")
    assert judged(Ran(2, ""), lambda: True).word == "traceback"  # exit code 2 and nothing said
    assert judged(Ran(0, "Traceback (most recent call last):\n x"), lambda: True).word == "traceback"
    assert judged(Ran(3, "?"), lambda: True).word == "traceback"
    assert judged(Ran(0, ""), lambda: "another loss") == Outcome("silent", "another loss")
    assert judged(Ran(0, "note: damaged, made again."), lambda: "another loss").word == "refused"


def test_what_hangs_is_ended_and_what_crashes_is_seen(tmp_path: Path) -> None:
    jobs = {
        "hangs": lambda: time.sleep(60),
        "crashes": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "ends": lambda: 7,
        "raises": lambda: 1 / 0,
    }
    ended = dict(in_children(jobs, lambda name: jobs[name], 4, limit=1.0))
    words = {name: command.outcome_of(how).word for name, how in ended.items() if name != "ends"}
    assert words == {"hangs": "hang", "crashes": "traceback", "raises": "traceback"}
    assert ended["ends"].value == 7


def test_a_signal_comes_in_the_call_that_was_asked_for(empty: Stage) -> None:
    quick = kills.Operation((), lambda: called(whole), kills.always, kills.always, cleans=False)
    count = breaking.calls_of(empty, quick)
    assert count > 3
    for at in range(1, count + 1):
        outcome = breaking.interrupted(empty, quick, partial(breaking.Calls, at, signal.SIGINT))
        assert outcome.word in ("refused", "unharmed"), (at, outcome)


def test_fields_are_found_and_changed_at_every_depth() -> None:
    record = {"a": 1, "b": {"c": [1, 2, 3]}}
    places = fields.places(record, depth=3)
    assert places[:3] == [("a",), ("b",), ("b", "c")] and {("b", "c", 0), ("b", "c", 2)} <= set(places)
    assert fields.with_field(record, ("b", "c", 2), "x") == {"a": 1, "b": {"c": [1, 2, "x"]}}
    assert fields.with_field(record, ("a",), fields.ABSENT) == {"b": {"c": [1, 2, 3]}}
    assert record == {"a": 1, "b": {"c": [1, 2, 3]}}


def test_the_table_counts_and_a_failure_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from benchmarks.faults.outcomes import Kind

    def cases(_: Stage):
        for number, word in enumerate(["unharmed", "refused", "silent", "unharmed"]):
            yield Case(f"planted {number}", partial(Outcome, word, "said"))

    monkeypatch.setattr(command, "build", lambda folder, seed: Stage(folder, seed))
    monkeypatch.setitem(KINDS, "planted", Kind("planted", cases))
    monkeypatch.setattr(command, "warm_up", lambda: None)
    assert command.main(["--only", "planted", "-o", str(tmp_path / "all.json")]) == 1
    said = capsys.readouterr().out
    assert "silent: planted 2: said\n  --only planted --case 3" in said
    assert all(len(line) <= 80 for line in said.splitlines()[-4:])
    assert '"what": "planted 1"' in (tmp_path / "all.json").read_text()
    assert command.main(["--only", "planted", "--case", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["planted", "1", "0", "1", "0", "0", "0", "0", "0"] in rows


def test_a_tally_does_not_count_what_was_skipped() -> None:
    tally = Tally("places")
    for number, word in enumerate(["refused", "skipped", "lost"], start=1):
        tally.add(number, "x", Outcome(word))
    assert tally.tried == 2 and len(tally.failures) == 1


def test_the_stage_says_what_a_checkpoint_holds_without_our_reader(tmp_path: Path) -> None:
    import torch

    contents = {name: torch.arange(3.0) for name in stage.COMPARED}
    torch.save({**contents, "meta": {"seconds": 1}}, tmp_path / "a.pth")
    torch.save({**contents, "meta": {"seconds": 2}}, tmp_path / "b.pth")
    torch.save({**contents, "step": torch.arange(4.0)}, tmp_path / "c.pth")
    (tmp_path / "d.pth").write_bytes(b"no checkpoint")
    a, b, c, d = (stage.checkpoint_says(tmp_path / f"{name}.pth") for name in "abcd")
    assert a == b is not None and a != c and d is None
