"""Cells of the GPU benchmark on the disk: nothing is lost, calls are merged, cards are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.__main__ import kept
from benchmarks.gpu.store import Store, newest, occupy, read
from varlen_lab.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
MACHINE = {"device": "NVIDIA H100", "torch": "2.11.0+cu130", "kernels": [], "packages": {}, "driver": "580"}


def run(**changes: Any) -> dict[str, Any]:
    base = {"command": "python -m benchmarks.gpu", "commit": "abc", "started": "now", "machine": MACHINE}
    return {**base, "rehearsal": False, **changes}


def test_calls_are_merged_and_other_cards_are_not(tmp_path: Path) -> None:
    first = Store(tmp_path, run())
    first.add("kernels", {"cell": "a", "value": 1})
    first.add("kernels", {"cell": "b", "value": 2})
    other = Store(tmp_path, run(machine={**MACHINE, "device": "NVIDIA H200"}))
    other.add("kernels", {"cell": "a", "value": 99})
    again = Store(tmp_path, run())
    again.add("kernels", {"cell": "a", "value": 3})
    again.add("kernels", {"cell": "b", "status": "not reached", "why": ""})
    content = read(tmp_path / "results.json")
    assert len(content["runs"]) == 3
    assert {cell["cell"]: cell["value"] for cell in newest(content).values()} == {"a": 3, "b": 2}
    again.add("kernels", {"cell": "b", "status": "wrong", "why": "leaks", "value": 4})  # that is news
    assert newest(again.content)["kernels", "b"]["value"] == 4
    rehearsed = Store(tmp_path, run(rehearsal=True))
    rehearsed.add("kernels", {"cell": "a", "value": 0})
    assert [cell["value"] for cell in newest(rehearsed.content).values()] == [0]


def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", "{}", '{"runs": 1, "cells": []}'):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(InputError, match="is no results file"):
            Store(tmp_path, run())
    assert (tmp_path / "results.json").read_text() == text
    with pytest.raises(InputError, match="cannot be a folder"):
        occupy(tmp_path / "results.json")


WRONG = [
    {"runs": [], "cells": []},
    {"runs": [{**MACHINE}], "cells": []},
    {"runs": [{"machine": MACHINE, "sections": []}], "cells": []},
    {"runs": [{"machine": MACHINE, "sections": {"smoke": "done"}}], "cells": []},
    {"runs": [{"machine": MACHINE, "sections": {}}], "cells": [{"run": 0}]},
    {"runs": [{"machine": MACHINE, "sections": {}}], "cells": ["text"]},
    {"runs": ["text"], "cells": []},
]


@pytest.mark.parametrize("content", WRONG)
def test_a_file_of_the_right_shape_and_wrong_content_is_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="is no results file"):
        read(tmp_path / "results.json")


@pytest.mark.skipif(sys.platform == "win32", reason="locks")
def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    hold = "import sys, pathlib; from benchmarks.gpu.store import occupy; occupy(pathlib.Path(sys.argv[1])); "
    words = [sys.executable, "-c", hold + "print('mine', flush=True); input()", str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout and first.stdout.readline() == b"mine\n"
        with pytest.raises(InputError, match="another run is writing to"):
            occupy(tmp_path)
        first.kill()  # the lock dies with its process
    occupy(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cell_that_failed_on_the_newest_call_is_told(tmp_path: Path) -> None:
    first = Store(tmp_path, run())
    first.add("kernels", {"cell": "a", "value": 1})
    again = Store(tmp_path, run())
    again.add("kernels", {"cell": "a", "status": "failed", "why": "CUDA error"})
    assert newest(again.content)["kernels", "a"]["status"] == "failed"
    third = Store(tmp_path, run())
    third.add("kernels", {"cell": "a", "status": "not reached", "why": ""})  # says nothing about it
    assert newest(third.content)["kernels", "a"]["status"] == "failed"


def test_a_failed_test_that_is_mended_is_gone(tmp_path: Path) -> None:
    def called(how: str, *cells: dict[str, Any]) -> dict[Any, Any]:
        store = Store(tmp_path, run())
        for cell in cells:
            store.add("tests", cell)
        store.run["sections"]["tests"] = {"how": how, "seconds": 1.0, "limit": 2.0, "traceback": ""}
        store.flush()
        return newest(read(store.path))

    bad = {"cell": "test_x::test_y", "status": "failed", "why": "leaks"}
    assert len(called("done", {"cell": "pytest", "failed": 1}, bad)) == 2
    assert called("its process died (SIGSEGV)")["tests", "test_x::test_y"]["status"] == "failed"  # nobody knows
    assert list(called("done", {"cell": "pytest", "failed": 0})) == [("tests", "pytest")]


def test_what_json_does_not_know_and_a_full_disk_do_not_end_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, run())
    kept(store, "kernels", {"cell": "a", "value": torch.ones(2), ("x", 1): 2, "what": {1, 2}})
    assert read(store.path)["cells"][0]["value"] == "tensor([1., 1.])"

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.gpu.store.written_whole", full)
        kept(store, "kernels", {"cell": "b", "value": 1.0})
    assert "b: value 1; " in capsys.readouterr().out and len(read(store.path)["cells"]) == 1
    kept(store, "kernels", {"cell": "c", "value": 1.0})
    assert [cell["cell"] for cell in read(store.path)["cells"]] == ["a", "b", "c"]  # there is room again


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("benchmarks.gpu.store.written_whole", forbidden)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\); give another folder"):
        Store(tmp_path, run())
