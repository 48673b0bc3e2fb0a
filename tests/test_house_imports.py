"""What an import costs and needs: the package nothing, the core numpy and torch, no verb torch."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from expect import fresh_python

import varlen_lab
from varlen_lab.cli.registry import VERBS

OPTIONAL = [
    "datasets",
    "matplotlib",
    "IPython",
    "jupyter_client",
    "papermill",
    "nbconvert",
    "peft",
    "deepspeed",
]
NOT_CORE = [
    *OPTIONAL,
    "transformers",
    "accelerate",
    "tokenizers",
    "safetensors",
    "rich",
    "scipy",
    "flash_attn",
]

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Block())
"""


def python(code: str, blocked: list[str] | None = None) -> str:
    """What a fresh Python prints; ``blocked`` packages cannot be imported in it."""
    return fresh_python(BLOCK.format(names=set(blocked or [])) + code)


def test_blocking_works() -> None:
    code = "try:\n    import datasets\nexcept ModuleNotFoundError as e: print(e)"
    assert python(code, ["datasets"]) == "datasets is blocked"


@pytest.mark.alone
def test_package_imports_without_anything_in_a_moment() -> None:
    python("import varlen_lab", [*NOT_CORE, "torch", "numpy"])
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import varlen_lab"], check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) <= 0.3


FACE = (
    "audit attend compare convert draw_masks draw_seen explore_masks isolate load_config load_model pack_dataset "
    "pack_lengths register train Boundaries LeakCheck VarlenCollator"
)
ROOMS = [room.name for room in pkgutil.iter_modules(varlen_lab.__path__) if room.ispkg]


def test_the_face_gives_each_name_also_after_every_file_was_imported() -> None:
    everything = (
        "import importlib, pkgutil, varlen_lab\n"
        "for module in pkgutil.walk_packages(varlen_lab.__path__, 'varlen_lab.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
    )
    for before in ("", everything):
        for name in FACE.split():
            before += f"from varlen_lab import {name}\nassert callable({name}), {name}\n"
        python(before)


def test_an_editor_and_a_running_python_see_the_same_names() -> None:
    tree = ast.parse(Path(varlen_lab.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = sorted(alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names)
    assert typed == sorted(varlen_lab.__all__) == sorted(FACE.split())
    assert set(FACE.split()) <= set(dir(varlen_lab))


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_bears_the_name_of_something_exported(room: str) -> None:
    package = importlib.import_module(f"varlen_lab.{room}")
    files = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert room == "cli" or not files & set(FACE.split())
    assert room not in FACE.split()
    for name in getattr(package, "__all__", []):
        assert name not in files and not isinstance(getattr(package, name), types.ModuleType)


@pytest.mark.parametrize("module", ["packing.readers", "packing.strategies", "packing.collators", "attention.dispatch"])
def test_core_needs_only_numpy_and_torch(module: str) -> None:
    python(f"import varlen_lab.{module}", NOT_CORE)


@pytest.mark.parametrize("module", ["config.names", "errors", "course.pages.index", "machine.environment"])
def test_settings_and_pages_import_without_torch(module: str) -> None:
    python(f"import varlen_lab.{module}", [*OPTIONAL, "torch", "transformers"])


@pytest.mark.parametrize("name", ["load_model", "train", "compare", "convert", "draw_masks", "audit"])
def test_library_imports_without_optional_packages(name: str) -> None:
    python(f"from varlen_lab import {name}", [one for one in OPTIONAL if one != "matplotlib"])


@pytest.mark.parametrize("verb", VERBS)
def test_verb_imports_without_torch_and_plots(verb: str) -> None:
    python(f"import varlen_lab.cli.{VERBS[verb].module}", [*OPTIONAL, "torch", "transformers", "numpy"])


def test_help_imports_no_verb() -> None:
    code = (
        "from varlen_lab.cli import main; main([]);"
        "print([m for m in sys.modules if m.startswith('varlen_lab.cli.') or m in ('torch', 'rich')])"
    )
    assert python(code).splitlines()[-1] == "['varlen_lab.cli.registry']"


@pytest.mark.parametrize(
    "path", sorted(Path(varlen_lab.__file__).parent.rglob("registry.py")), ids=lambda p: p.parent.name
)
def test_a_registry_imports_nothing_of_the_library_but_errors(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert {name.split(".")[0] for name in imported} <= {*sys.stdlib_module_names, "varlen_lab"}
    assert {name for name in imported if name.startswith("varlen_lab")} <= {"varlen_lab.errors"}
