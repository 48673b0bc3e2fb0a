"""tests/built_wheel.py, which .ci/run and the publishing workflow trust: it finds what it is there to find."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import built_wheel
import pytest
from built_wheel import CONFIG, WALKS, Says, dependencies, faults, run_verbs, version, walk

from varlen_lab.cli import main
from varlen_lab.cli.registry import VERBS

ROOT = Path(__file__).resolve().parent.parent
ABOUT = f"varlen_lab-{version()}.dist-info/"
METADATA = 'Metadata-Version: 2.4\nName: varlen_lab\nRequires-Dist: rich>=13\nRequires-Dist: peft; extra == "peft"\n\n'


@pytest.fixture
def contents() -> dict[str, str]:
    """What belongs into the wheel: a file's name and text."""
    listed = subprocess.run(["git", "ls-files", "varlen_lab"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone: nothing says which files belong to the library")
    about = {"METADATA": METADATA, "entry_points.txt": "varlen-lab = varlen_lab.cli:main", "licenses/LICENSE": ""}
    return dict.fromkeys(listed.stdout.split(), "") | {ABOUT + name: text for name, text in about.items()}


def wheel_of(contents: dict[str, str], folder: Path) -> Path:
    path = folder / f"varlen_lab-{version()}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
    return path


def test_the_library_and_nothing_else_is_right(contents: dict[str, str], tmp_path: Path) -> None:
    assert {"varlen_lab/viz/explorer.js", "varlen_lab/config/recipes.toml", "varlen_lab/py.typed"} <= set(contents)
    assert faults(wheel_of(contents, tmp_path)) == []


@pytest.mark.parametrize(
    "missing", ["varlen_lab/viz/explorer.js", "varlen_lab/documents/templates.toml", f"{ABOUT}licenses/LICENSE"]
)
def test_a_missing_file_is_named(contents: dict[str, str], tmp_path: Path, missing: str) -> None:
    del contents[missing]
    assert [fault.split()[0] for fault in faults(wheel_of(contents, tmp_path))] == [missing.rpartition("licenses/")[2]]


@pytest.mark.parametrize(
    "extra", ["tests/test_x.py", "notebooks/05_train.ipynb", "varlen_lab/scratch.py", "docs/a.png"]
)
def test_a_file_too_many_is_named(contents: dict[str, str], tmp_path: Path, extra: str) -> None:
    found = faults(wheel_of({**contents, extra: ""}, tmp_path))
    assert len(found) == 1 and found[0].startswith(f"{extra} is in the wheel and not in the repository")


def test_another_version_and_a_missing_command_are_named(contents: dict[str, str], tmp_path: Path) -> None:
    older = {name.replace(version(), "0.0.1"): text for name, text in contents.items()}
    assert f"the wheel's version is not {version()}" in faults(wheel_of(older, tmp_path))
    contents[f"{ABOUT}entry_points.txt"] = ""
    assert faults(wheel_of(contents, tmp_path)) == ["the command varlen-lab is missing in the wheel"]


def test_dependencies_follow_what_is_asked_for_and_no_extra(contents: dict[str, str], tmp_path: Path) -> None:
    found = dependencies(wheel_of(contents, tmp_path))
    assert found[0] == "rich" and "pygments" in found and "peft" not in found


def command(folder: Path, source: str) -> Path:
    """A Python with a command varlen-lab beside it that is ``source``."""
    python, script = folder / "python", folder / "varlen-lab"
    python.symlink_to(sys.executable)
    script.write_text(f"#!{sys.executable}\n{source}", encoding="utf-8")
    script.chmod(0o755)
    return python


@pytest.mark.parametrize(
    "source",
    [
        "raise SystemExit(1)",
        "raise ValueError('said')",
        "import sys; sys.exit('said\\nsaid again')",
        "print('said'); raise SystemExit(2)",
        "print('something else')",
    ],
)
@pytest.mark.parametrize("step", [Says("verb", 0, "said"), Says("verb", 2, "said")])
def test_a_command_that_does_not_do_as_it_should_is_told(tmp_path: Path, source: str, step: Says) -> None:
    """Another code, a traceback, more than a sentence, other words: none of them is as it should be."""
    assert len(walk(command(tmp_path, source), tmp_path, [step])) == 1


def test_a_sentence_and_a_file_that_were_to_come_are_right(tmp_path: Path) -> None:
    python = command(tmp_path, "open('m', 'w'); import sys; sys.stderr.write('error: said'); raise SystemExit(2)")
    assert walk(python, tmp_path, [Says("verb", 2, "said", "m")]) == []
    assert len(walk(python, tmp_path, [Says("verb", 2, "said", "n")])) == 1


def test_nothing_of_the_clone_reaches_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("VARLEN_LAB_ALL", "1")
    source = "import json, os; print(json.dumps(dict(os.environ)))"
    told = walk(command(tmp_path, source), tmp_path, [Says("verb", 1)])[0]
    environment = json.loads(told[told.index("\n") :])
    assert "PYTHONPATH" not in environment and "VARLEN_LAB_ALL" not in environment


def test_code_of_a_clone_and_extras_at_hand_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """This very Python has both, so it is a wrong environment twice."""
    python = Path(sys.executable)
    assert "can be imported" in run_verbs(python)[0] or "not from the wheel" in run_verbs(python)[0]
    monkeypatch.setattr(built_wheel, "ORIGIN", f"import json; print(json.dumps([{str(ROOT / 'x.py')!r}, []]))")
    assert "not from the wheel" in run_verbs(python)[0]
    here = str(python.parent / "x.py")
    monkeypatch.setattr(built_wheel, "ORIGIN", f"import json; print(json.dumps([{here!r}, ['peft']]))")
    assert run_verbs(python)[0].startswith("peft can be imported")


def test_the_walks_try_what_a_newcomer_tries() -> None:
    tried = {step.words.split()[0] for steps in WALKS for step in steps} - {"python"}
    assert tried <= set(VERBS)
    assert {"audit", "masks", "pack-report", "check-env", "train", "run", "walkthrough", "copy-cfg"} <= tried
    assert all(CONFIG in step.leaves for step in WALKS[1] if step.words.startswith("train"))


def test_a_notebook_without_jupyter_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find_spec(name: str, *given: Any) -> Any:
        return None if name in ("nbformat", "papermill") else real(name, *given)

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setitem(sys.modules, "papermill", None)  # type: ignore[arg-type]
    notebook = tmp_path / "mine.ipynb"
    notebook.write_text(json.dumps(built_wheel.NOTEBOOK), encoding="utf-8")
    assert main(["run", str(notebook)]) == 2
    assert "pip install 'varlen_lab[notebooks]'" in capsys.readouterr().err
