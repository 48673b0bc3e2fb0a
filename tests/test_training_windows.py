"""The six steps in a Python that lacks what Windows lacks and whose files behave as there (``windows_lacks.py``)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from expect import fresh_python

from varlen_lab.config.schema import Config
from varlen_lab.config.text import override
from varlen_lab.training.trainer import train

TESTS = Path(__file__).parent
RESERVED = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\..*)?$', re.I)


def on_windows(folder: Path, *words: str, **environment: str) -> str:
    """What ``varlen-lab WORDS`` prints there; the test fails where it does not end well."""
    done = subprocess.run(
        [sys.executable, str(TESTS / "windows_lacks.py"), *words],
        cwd=folder,
        env={**os.environ, "VARLEN_LAB_CACHE": str(folder / "cache"), "PYTHONPATH": str(TESTS.parent), **environment},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert "IN USE" not in done.stderr and "not writable" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_six_steps_come_to_the_same_numbers_and_bytes(small: Config, tmp_path: Path, fresh_cache: Path) -> None:
    assert fresh_cache == tmp_path / "cache"
    on_windows(tmp_path, "copy-cfg", "tiny_llama_full_docstrings_e1", ".")
    config, options = "tiny_llama_full_docstrings_e1_copy.py", [
        *("use_varlen_attn=True", "max_length=128", "max_steps=3", "evaluation_freq=0", "device=cpu"),
        *("save_steps=1", "save_total_limit=1", "work_dir=w", f"data_path={small.data_path}"),
    ]  # fmt: skip
    on_windows(tmp_path, "train", config, "--cfg-options", *options)
    losses = [record["loss"] for record in history(tmp_path / "w")]
    options[6] = "save_total_limit=-1"
    (tmp_path / "w" / "iter_3.pth").unlink()  # of another run: what is newest is gone on from
    on_windows(tmp_path, "train", config, "--cfg-options", *options, "dataloader_num_workers=1")
    options[6] = "save_total_limit=1"
    said = on_windows(tmp_path, "train", config, "--cfg-options", *options, "--resume", str(Path("w") / "iter_2.pth"))
    assert "resumed from step 2: 1 step taken now" in said
    assert [record["loss"] for record in history(tmp_path / "w")] == losses
    assert not (tmp_path / "w" / "iter_2.pth").exists()  # it was gone on from, and could be deleted
    on_windows(tmp_path, "convert", "pth_to_hf", str(Path("w") / config), str(Path("w") / "iter_3.pth"), "hf")

    here = override(small, [*options[:5], f"work_dir={tmp_path / 'here'}"])
    assert train(here, progress=False).losses == losses
    ours = [
        tmp_path / config,
        tmp_path / "w" / config,
        tmp_path / "w" / "history.jsonl",
        tmp_path / "hf" / "varlen_lab.json",
    ]
    for file in (*ours, tmp_path / "hf" / "xtuner_config.py"):
        assert b"\r" not in file.read_bytes(), file
    made = [path.name for path in tmp_path.rglob("*")]
    assert not [name for name in made if RESERVED.search(name) or name.endswith(".partial")]
    for folder in (tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())):
        names = [path.name.lower() for path in folder.iterdir()]
        assert len(names) == len(set(names))  # none differs from another in case alone


def history(work_dir: Path) -> list[dict]:
    lines = (work_dir / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ("import fcntl", "No module named 'fcntl' on Windows"),
        ("import os; os.sched_getaffinity(0)", "no attribute 'sched_getaffinity' on Windows"),
        ("import signal; signal.SIGKILL", "no attribute 'SIGKILL' on Windows"),
        ("windows.WINDOWS = False; replace_one()", "Access is denied"),
        ("opened = open('b'); replace_one()", "cannot access the file"),
        ("opened = open('b'); remove_one()", "IN USE"),
        ("Path('b').write_text('a\\n', encoding='utf-8'); says(Path('b').read_bytes())", "\\r\\n"),
        ("os.fsync(os.open('b', os.O_RDONLY))", "Bad file descriptor"),
        ("os.open('.', os.O_RDONLY)", "Permission denied"),
    ],
)
def test_the_simulation_lacks_it(planted: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"x")
    code = f"""
import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
import os, windows_lacks; windows_lacks.take_away()
from pathlib import Path
import varlen_lab.files.windows as windows, varlen_lab.files.writing as writing
windows.WAITS = (0.0, 0.0)
def replace_one(): Path("a").write_bytes(b"x"); windows.replace(Path("a"), Path("b"))
def remove_one(): writing.remove(Path("b")); print("IN USE" if windows_lacks.IN_USE else "")
def says(what): print(what)
try: exec({planted!r}, {{**globals(), "__name__": "varlen_lab.planted"}})
except Exception as problem: print(problem)
"""
    assert said in fresh_python(code, cwd=tmp_path)
