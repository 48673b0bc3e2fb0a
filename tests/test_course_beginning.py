"""A lesson's kernel computes on one thread, and on all cores once a real model speaks; what a person has set stands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LESSON = """
from varlen_lab.course.beginning import begin_lesson, use_all_cores

begin_lesson()
import os, torch

print(torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"])
use_all_cores()
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(("said", "small", "real"), [({}, 1, None), ({"OMP_NUM_THREADS": "2"}, 2, 2)])
def test_threads_of_a_lesson(said: dict[str, str], small: int, real: int | None) -> None:
    from varlen_lab.machine.environment import cores

    unset = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "VARLEN_LAB_LESSON")
    env = {name: value for name, value in os.environ.items() if name not in unset} | said
    done = subprocess.run([sys.executable, "-c", LESSON], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(small), "PASSIVE", str(real or cores())]
