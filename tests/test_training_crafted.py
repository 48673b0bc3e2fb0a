"""Checkpoints that nobody's run wrote are refused in a sentence, or do no harm."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from crafted_checkpoints import crafted, outcome, standing_run, tiny_run

from varlen_lab.config.schema import Config
from varlen_lab.files.writing import remove
from varlen_lab.training.checkpoint import read_checkpoint

CONVERTED = ("config is", "model", "a weight", "no ")  # how names begin of what a conversion reads


def tried(config: Config, tmp_path: Path, *, convert: bool) -> dict[str, str]:
    """What became of crafted checkpoints; fails with the tracebacks of those that had one."""
    config, whole = tiny_run(config)
    state, run = read_checkpoint(whole), standing_run(config, tmp_path / "standing")
    path, folder, executed = tmp_path / "iter_3.pth", tmp_path / "hf", tmp_path / "executed"
    said, failed = dict[str, str](), list[str]()
    for name, make in crafted(state, executed):
        if convert and not name.startswith(CONVERTED):
            continue
        try:
            said[name] = outcome(make, path, run, config, folder if convert else None)
        except Exception:
            failed.append(f"{name}: {traceback.format_exc(limit=-4)}")
        for one in (path, folder):
            remove(one)
    assert not failed, f"{len(failed)} of {len(said) + len(failed)}\n" + "\n".join(failed)
    assert not executed.exists()
    return said


@pytest.mark.slow
def test_a_crafted_checkpoint_is_refused_or_does_no_harm(small: Config, tmp_path: Path) -> None:
    said = tried(small.replace(save_steps=9), tmp_path, convert=False)
    assert len(said) > 350 and list(said.values()).count("refused") > 330
    assert said["a weight that is NaN"] == said["a generator of zeros"] == said["model runs"] == "refused"


@pytest.mark.slow
def test_a_crafted_checkpoint_is_converted_or_refused(small: Config, tmp_path: Path) -> None:
    tried(small.replace(save_steps=9), tmp_path, convert=True)
