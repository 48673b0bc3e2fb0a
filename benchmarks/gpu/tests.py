"""The repository's own GPU tests on this device: ``pytest -m gpu`` in a process that is ended at its limit.

First whole models and training, then kernels one by one; what waits for a compiler comes last (``tests/conftest.py``).
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.runner import end_of, end_with_parent
from benchmarks.gpu.store import Cell

ROOT = Path(__file__).resolve().parents[2]
CLOSING = 6.0  # seconds in which an interrupted pytest writes what it knows
HANGS = 30  # seconds after which pytest prints where a test stands
# Pytest's handler of logs makes torch write thousands of records for each kernel that it compiles.
PYTEST = [sys.executable, "-m", "pytest", "-vv", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:logging"]


def measure(bench: Bench) -> Iterator[Cell]:
    """A cell of counts, then one for every test that failed, with what it said."""
    yield from outcome(files_of(ROOT / "tests"), max(1.0, bench.left() - CLOSING))


def files_of(folder: Path) -> list[str]:
    """The files with GPU tests, those of most worth first."""
    files = [path for path in folder.glob("test_*.py") if "mark.gpu" in path.read_text("utf-8")]
    rank = lambda path: (not path.stem.startswith("test_machine_cuda"), "backends" in path.stem, path.name)  # noqa: E731
    return list(map(str, sorted(files, key=rank)))


def outcome(files: list[str], seconds: float) -> Iterator[Cell]:
    """Run these files and read pytest's report; interrupted, it still tells of the tests it has run."""
    with tempfile.TemporaryDirectory() as folder:
        report, log = Path(folder) / "junit.xml", Path(folder) / "log"
        command = [*PYTEST, f"--junitxml={report}", "-o", f"faulthandler_timeout={HANGS}", *files]
        trouble = ""
        way = {"cwd": ROOT, "preexec_fn": interruptible}
        with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file, **way) as process:
            for seconds_left, word in ((seconds, signal.SIGINT), (CLOSING - 1, signal.SIGKILL)):
                try:
                    process.wait(seconds_left)
                    break
                except subprocess.TimeoutExpired:
                    trouble = f"it was ended at its limit of {seconds:.0f} s"
                    process.send_signal(word)
        # one that was running when it was ended has no name in the report; where it stood is in the log
        cases = ElementTree.parse(report).getroot().iter("testcase") if report.exists() else ()
        found = [case for case in cases if case.get("name")]
        trouble = trouble or ("" if found else f"it reported no test (exit code {process.returncode})")
        words = log.read_text(errors="replace")
        wanted = max(map(int, re.findall(r"collected .*?(\d+) (?:selected|items?)$", words, re.M)), default=0)
        if trouble and wanted > len(found):
            trouble += f"; {wanted - len(found)} of {wanted} tests were not finished"
        said = {"status": "failed", "why": trouble, "traceback": end_of(words)}
        bad = [cell for case in found if (cell := failed(case))]
        skips = Counter(one.get("message", "") for case in found for one in case.iter("skipped"))
        counts = {"passed": len(found) - len(bad) - skips.total(), "failed": len(bad), "skipped": skips.total()}
        yield {"cell": "pytest", **counts, "skips": dict(skips), **(said if trouble else {})}
        yield from bad


def interruptible() -> None:
    """In a child: it ends with its parent, and SIGINT interrupts it though a shell's background job ignores that."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def failed(case: ElementTree.Element) -> Cell | None:
    """The cell of a test that failed; None for another."""
    for problem in (child for child in case if child.tag in ("failure", "error")):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        why = " ".join(problem.get("message", "").split())[:300]
        return {"cell": name, "status": "failed", "why": why, "traceback": end_of(problem.text or "")}
    return None
