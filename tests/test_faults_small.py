"""A few faults of every kind, done to the library: none is lost, executed, a traceback, silent or a hang."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from varlen_lab.files.windows import WINDOWS

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("kill", "bits", "full", "places", "writers", "signals", "bombs", "fields")


@pytest.mark.skipif(WINDOWS, reason="faults are done to forked processes")
@pytest.mark.slow
@pytest.mark.alone
def test_a_few_faults_of_every_kind_do_no_harm() -> None:
    """In a fresh Python: a fork takes one thread along, and a process of tests has more."""
    words = [sys.executable, "-m", "benchmarks.faults", "--small", "--seed", "1"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line}
    assert all(int(rows[kind][1]) >= 4 for kind in KINDS)
