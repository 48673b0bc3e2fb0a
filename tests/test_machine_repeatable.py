"""Fresh processes compute the same bits, whichever part of the library they reach first."""

from __future__ import annotations

import importlib

import pytest
from expect import fresh_python

from varlen_lab.machine import repeatable

ROOMS = ["", ".attention", ".documents", ".leaks", ".models", ".packing", ".studies", ".training"]

COMPUTE_NOTHING = {"add_adapter", "open_adapter", "History", "read_checkpoint"}  # though they know torch

# Children of a process that has imported torch and computed nothing are as fresh as new ones, and cost milliseconds.
FORKED = """
import collections, hashlib, importlib, os, sys
import torch

def in_a_child(work):
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(write, str(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    said = os.read(read, 9999).decode()
    os.close(read)
    assert os.waitpid(child, 0)[1] == 0 and said, "a child failed"
    return said
"""

REACH = """
def reach(room, name):
    getattr(importlib.import_module(room), name)
    ours = [module for key, module in sys.modules.items() if key.startswith("varlen_lab") and module is not None]
    computes = any(vars(module).get("torch") is torch for module in ours)
    return computes and "varlen_lab.machine.repeatable" not in sys.modules

for pair in sys.argv[1:]:
    if in_a_child(lambda: reach(*pair.split(":"))) == "True":
        print(pair)
"""

BITS = """
def bits():
    torch.set_num_threads(2)
    import varlen_lab.packing.boundaries
    numbers = torch.linspace(0.01, 9000, 32768)
    small = numbers / 3000
    results = [numbers.cos(), numbers.sin(), small.exp(), small.log(), small.tanh()]
    return hashlib.sha256(b"".join(one.numpy().tobytes() for one in results)).hexdigest()

print(len({in_a_child(bits) for _ in range(40)}))
"""


@pytest.mark.slow
def test_every_name_that_computes_is_warm() -> None:
    pairs = {}  # one of each file: importing it is what counts
    for room in ROOMS:
        face = importlib.import_module(f"varlen_lab{room}")
        for name in set(face.__all__) - COMPUTE_NOTHING:
            pairs[getattr(getattr(face, name), "__module__", name)] = f"varlen_lab{room}:{name}"
    assert len(pairs) > 25
    assert fresh_python(FORKED + REACH, *pairs.values()) == ""


@pytest.mark.slow
@pytest.mark.alone
def test_forty_processes_on_two_threads_have_the_same_bits() -> None:
    assert fresh_python(FORKED + BITS) == "1"


def test_it_draws_no_random_number_and_says_nothing_of_the_same_threads(recwarn: pytest.WarningsRecorder) -> None:
    import torch

    before = torch.get_rng_state()
    importlib.reload(repeatable)
    assert torch.equal(before, torch.get_rng_state())
    repeatable.note_threads(torch.get_num_threads())
    repeatable.note_threads(None)
    assert not recwarn.list
