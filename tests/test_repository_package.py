"""What a package says of itself: its version, and links only where the one setting names a repository."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import varlen_lab
from varlen_lab.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """hatch_build.py; its base class lives where packages are built, and a stand-in does here."""
    interface = SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", interface)  # type: ignore[arg-type]
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_version_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"varlen-lab {varlen_lab.__version__}\n"
    assert "version" in SETTINGS["project"]["dynamic"] and "version" not in SETTINGS["project"]


def test_no_repository_no_links(hook: ModuleType) -> None:
    assert hook.urls("") == {}
    assert hook.with_whole_links(README, "") == README


def test_a_repository_gives_links_that_resolve_anywhere(hook: ModuleType) -> None:
    assert hook.urls("someone/varlen_lab")["Issues"] == "https://github.com/someone/varlen_lab/issues"
    text = hook.with_whole_links(README, "someone/varlen_lab")
    assert "](docs/" not in text and "](notebooks/" not in text and 'src="docs/' not in text
    assert "https://raw.githubusercontent.com/someone/varlen_lab/main/docs/masks.png" in text
    assert "https://github.com/someone/varlen_lab/blob/main/README_zh.md" in text
    assert text.count("https://xtuner.readthedocs.io") == README.count("https://xtuner.readthedocs.io")


@pytest.mark.parametrize("wrong", ["varlen_lab", "https://github.com/someone/varlen_lab", "a/b/c", "some one/x"])
def test_what_is_no_owner_and_name_is_refused(hook: ModuleType, wrong: str) -> None:
    with pytest.raises(ValueError, match="owner/name"):
        hook.urls(wrong)


def test_the_setting_is_empty_or_owner_and_name(hook: ModuleType) -> None:
    hook.urls(SETTINGS["tool"]["varlen_lab"]["repository"])
