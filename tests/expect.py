"""What many tests expect: one sentence for people, a limit of CPU time, what a fresh Python prints."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from varlen_lab.errors import InputError


@contextmanager
def refused(message: str) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """The block raises InputError: one line, in which ``message`` (a regular expression) is found."""
    with pytest.raises(InputError, match=message) as caught:
        yield caught
    assert "\n" not in str(caught.value)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block takes this many CPU seconds of our process at the most, however busy the machine is."""
    start = time.process_time()
    yield
    spent = time.process_time() - start
    assert spent <= seconds, f"{spent:.2f} CPU seconds"


def fresh_python(code: str, *words: str, cwd: Path | None = None) -> str:
    """What ``code`` prints in a process of its own; the test fails with its stderr when it does not end well."""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
