"""The wheel holds the library and nothing else, and it works where there is no clone and no extra.

python tests/built_wheel.py                               builds it into dist/ and looks at it
python tests/built_wheel.py FILE                          looks at a wheel that is built already
python tests/built_wheel.py FILE --installed-in VENV      runs the verbs where pip has installed it

Without ``--installed-in`` the verbs run in an environment that is made in seconds: its packages are links to those
beside this Python, and only to those that the wheel names as its dependencies. So a package that is merely installed
here is missing there, as it would be for a newcomer. ``.ci/run`` and the workflow that publishes call this file.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "tiny_llama_full_docstrings_e1"
RECORD = {"messages": [{"role": "user", "content": "Why pack?"}, {"role": "assistant", "content": "Rows are full."}]}
NOTEBOOK = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
TINY = "from varlen_lab.models import tiny; tiny('llama').save_pretrained('model')"
# where the code comes from, and which packages a newcomer would not have
ORIGIN = """
import importlib.util, json, varlen_lab
extras = ("papermill", "nbconvert", "anywidget", "peft", "gguf", "tensorboard", "pytest")
print(json.dumps([varlen_lab.__file__, [name for name in extras if importlib.util.find_spec(name)]]))
"""


class Says(NamedTuple):
    """A command, the exit code it must end with, a part of what it must say, and a file it must leave."""

    words: str
    code: int = 0
    part: str = ""
    leaves: str = ""


# Each list is walked in order, in one empty folder that all share; the lists run beside each other.
WALKS = (
    (
        Says("python tiny.py", leaves="model/config.json"),
        Says("audit --model model", 0, "ok: 8 documents"),
        Says("audit --model model --attn sdpa", 1, "cache"),
        Says("check-env", 0, "Ready. Next: varlen-lab audit --model MODEL"),
        Says("masks --lengths 70 300 180 -o m.png", leaves="m.png"),
        Says("masks --lengths 70 300 180 --html m.html", leaves="m.html"),
        Says("run lesson.ipynb", 2, "pip install 'varlen_lab[notebooks]'"),
        Says("run 05", 2, "no notebooks here"),
        Says("walkthrough", 2, "no notebooks here"),
        Says(f"train {CONFIG} --cfg-options method=lora", 2, "pip install 'varlen_lab[peft]'"),
    ),
    (
        Says("list-cfg -p tiny_llama", 0, CONFIG),
        Says(f"copy-cfg {CONFIG} .", leaves=f"{CONFIG}_copy.py"),
        Says(f"train {CONFIG}_copy.py --cfg-options max_steps=2", leaves=f"work_dirs/{CONFIG}_copy/iter_2.pth"),
        Says(f"convert pth_to_hf {CONFIG}_copy.py work_dirs/{CONFIG}_copy/iter_2.pth hf", leaves="hf/tokenizer.json"),
        Says("pack-report chat.jsonl", 0, "packs"),
        Says("check-custom-dataset chat.jsonl", 0, "1 good record"),
    ),
)


def build(folder: Path) -> Path:
    """The wheel of this clone, built into ``folder``."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", str(ROOT), "-w", str(folder)],
        check=True,
        stderr=subprocess.DEVNULL if os.environ.get("CI") is None else None,
    )
    return max(folder.glob("varlen_lab-*.whl"), key=lambda path: path.stat().st_mtime)


def version() -> str:
    """As ``varlen_lab/__init__.py`` says it, without an import."""
    source = (ROOT / "varlen_lab" / "__init__.py").read_text(encoding="utf-8")
    return str(ast.literal_eval(re.findall(r"^__version__ = (.*)$", source, re.M)[0]))


def faults(wheel: Path) -> list[str]:
    """What is wrong with the wheel's contents, a sentence each: files too many, files missing, another version."""
    listed = subprocess.run(["git", "ls-files", "-z", "varlen_lab"], cwd=ROOT, capture_output=True, check=True)
    wanted = {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).exists()}
    with zipfile.ZipFile(wheel) as archive:
        about = f"varlen_lab-{version()}.dist-info/"
        inside = {name for name in archive.namelist() if not name.startswith(about)}
        wrong = [f"{name} is missing in the wheel" for name in sorted(wanted - inside)]
        wrong += [
            f"{name} is in the wheel and not in the repository: git add it, or remove it"
            for name in sorted(inside - wanted)
        ]
        if f"{about}METADATA" not in archive.namelist():
            return [*wrong, f"the wheel's version is not {version()}"]
        if not any(name.startswith(f"{about}licenses/") for name in archive.namelist()):
            wrong.append("LICENSE is missing in the wheel")
        if b"varlen-lab = varlen_lab.cli:main" not in archive.read(f"{about}entry_points.txt"):
            wrong.append("the command varlen-lab is missing in the wheel")
    return wrong


def dependencies(wheel: Path) -> list[str]:
    """The distributions that the wheel needs, and those that these need, extras left out unless they ask for them."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    found: dict[tuple[str, str], None] = {}

    def follow(lines: Iterable[str], extra: str) -> None:
        for wanted in map(Requirement, lines):
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
                continue
            for asked in ("", *wanted.extras):
                if (wanted.name.lower(), asked) not in found:
                    found[wanted.name.lower(), asked] = None
                    follow(importlib.metadata.requires(wanted.name) or (), asked)

    follow(lines, "")
    return list(dict.fromkeys(name for name, _ in found))


def environment(folder: Path, wheel: Path) -> Path:
    """The Python of a new environment in ``folder`` that holds the wheel and links to its dependencies."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = python_of(folder)
    here, there = (Path(sysconfig.get_path("purelib", vars=base)) for base in ({}, paths_of(folder)))
    for name in dependencies(wheel):
        files = importlib.metadata.distribution(name).files or ()
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (there / top).exists():
                (there / top).symlink_to(here / top)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    return python


def python_of(folder: Path) -> Path:
    """The interpreter of the environment in ``folder``; its path is not resolved, or it would be that of another."""
    return folder.absolute() / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def paths_of(folder: Path) -> dict[str, str]:
    """What ``sysconfig`` must know to name the folders of the environment in ``folder``."""
    return dict.fromkeys(("base", "platbase", "installed_base", "installed_platbase"), str(folder))


def walk(python: Path, folder: Path, steps: Iterable[Says]) -> list[str]:
    """Run the commands in ``folder``; what is wrong, a paragraph each. No variable tells them of a clone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VARLEN_LAB"))}
    kept |= {"VARLEN_LAB_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = python.with_name("varlen-lab" + python.suffix)
    wrong = []
    for step in steps:
        first, *rest = step.words.split()
        words = [str(python), *rest] if first == "python" else [str(command), first, *rest]
        piped = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}  # a pipe on Windows is cp1252
        done = subprocess.run(words, cwd=folder, env=kept, timeout=300, **piped)  # type: ignore[call-overload]
        said = done.stdout + done.stderr
        sentence = done.returncode != 2 or (not done.stdout and len(done.stderr.strip().splitlines()) == 1)
        left = not step.leaves or (folder / step.leaves).exists()
        if done.returncode != step.code or step.part not in said or "Traceback" in said or not sentence or not left:
            wrong.append(f"{step}: exit code {done.returncode}\n{said}")
    return wrong


def run_verbs(python: Path) -> list[str]:
    """What is wrong with the verbs of the varlen_lab that ``python`` imports, in a folder with three small files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "chat.jsonl").write_text(json.dumps(RECORD) + "\n", encoding="utf-8")
        (folder / "lesson.ipynb").write_text(json.dumps(NOTEBOOK), encoding="utf-8")
        (folder / "tiny.py").write_text(TINY, encoding="utf-8")
        asked = subprocess.run([python, "-I", "-c", ORIGIN], cwd=folder, capture_output=True, text=True, check=True)
        origin, extras = json.loads(asked.stdout)
        if not Path(origin).is_relative_to(python.parent.parent):
            return [f"the code comes from {origin}, not from the wheel"]
        if extras:
            return [f"{', '.join(extras)} can be imported: this environment shows nothing about one without extras"]
        with ThreadPoolExecutor() as several:
            return [fault for found in several.map(lambda steps: walk(python, folder, steps), WALKS) for fault in found]


def main() -> int:
    """0 when nothing is wrong; each fault on stderr."""
    parser = argparse.ArgumentParser(description="Look at the built wheel, and run its verbs without a clone.")
    parser.add_argument("wheel", nargs="?", type=Path, help="the file; without it one is built into dist/")
    parser.add_argument("--installed-in", type=Path, metavar="VENV", help="an environment that has that file already")
    args = parser.parse_args()
    wheel = args.wheel or build(ROOT / "dist")
    wrong = faults(wheel)
    with tempfile.TemporaryDirectory() as folder:
        there = args.installed_in
        wrong = wrong or run_verbs(python_of(there) if there else environment(Path(folder), wheel))
    print("\n".join(wrong), file=sys.stderr, end="\n" * bool(wrong))
    if not wrong:
        print(f"{wheel.name}: {wheel.stat().st_size // 1024} kB, {sum(map(len, WALKS))} commands as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
