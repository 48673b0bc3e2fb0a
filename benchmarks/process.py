"""A measurement in a fresh Python, which finds neither the memory nor the threads of another one."""

from __future__ import annotations

import os
import subprocess
import sys


class NotMeasured(Exception):
    """Why a process gave no figures: the last line of what it said."""


def last_line(module: str, *words: str, timeout: float | None = None, **environment: str) -> str:
    """What ``python -m module words`` printed last; NotMeasured where it fails. ``environment``: put over ours."""
    command, env = [sys.executable, "-m", module, *words], os.environ | environment
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"not done in {timeout} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}, perhaps for its memory"]
        raise NotMeasured(said[-1])
    return done.stdout.strip().splitlines()[-1]
