"""Several processes asked for by a program that is not ready for them: one sentence that says what to write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from datasets import Dataset
import pytest

from varlen_lab.packing import pack_dataset

rows = Dataset.from_dict({{"input_ids": [[1, 2, 3]] * 9}})
print(len(pack_dataset(rows, max_length=6, num_proc=2, cache_dir={folder!r})))
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_what_to_write(tmp_path: Path) -> None:
    script = tmp_path / "pack.py"
    script.write_text(PROGRAM.format(folder=str(tmp_path / "rows")))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1  # the script's own
    assert "num_proc = 2: a process ended" in done.stderr and 'if __name__ == "__main__":' in done.stderr


@pytest.mark.slow
def test_a_program_in_no_file_is_told_so(tmp_path: Path) -> None:
    program = PROGRAM.format(folder=str(tmp_path / "rows"))
    done = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1
    assert "num_proc = 2 needs a program that lies in a file" in done.stderr
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "5\n"


STARTER = (
    "import sys\nfrom varlen_lab.machine.launch import start_processes\nsys.exit(start_processes(1, ['--version']))"
)


@pytest.mark.parametrize("flag", ["-P", None])
def test_processes_import_from_the_current_folder_only_if_their_starter_does(flag: str | None, tmp_path: Path) -> None:
    """The command does not, and what it started ran a module that lay beside somebody's model."""
    (tmp_path / "secrets.py").write_text("open('ran', 'w').close()\nfrom random import SystemRandom")
    root = Path(__file__).parents[1]
    words = [sys.executable, *([flag] if flag else []), "-c", STARTER]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}
    )
    assert (tmp_path / "ran").exists() is (flag is None), done.stderr
    assert flag is None or done.returncode == 0
