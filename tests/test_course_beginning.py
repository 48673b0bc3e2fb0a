"""A lesson's kernel computes on one thread that sleeps while it waits; what a person has set stands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LESSON = """
from varlen_lab.course.beginning import begin_lesson

begin_lesson()
import os, torch

print(torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("said", "threads"), [({}, 1), ({"OMP_NUM_THREADS": "2"}, 2), ({"MKL_NUM_THREADS": "2"}, 2)])
def test_threads_of_a_lesson(said: dict[str, str], threads: int) -> None:
    unset = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
    env = {name: value for name, value in os.environ.items() if name not in unset} | said
    done = subprocess.run([sys.executable, "-c", LESSON], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(threads), "PASSIVE"]


def test_a_lesson_hears_nothing_of_kernels_that_it_does_not_use() -> None:
    """bitsandbytes, which peft imports where it is installed, warns on some processors of a kernel that it misses."""
    code = (
        "import logging, sys\nfrom varlen_lab.course.beginning import begin_lesson\n"
        "if sys.argv[1:]: begin_lesson()\nlogging.getLogger('bitsandbytes.backends.cpu.ops').warning('Failed to load')"
    )
    said = [
        subprocess.run([sys.executable, "-c", code, *more], capture_output=True, text=True, check=True).stderr
        for more in ([], ["lesson"])
    ]
    assert said == ["Failed to load\n", ""]
