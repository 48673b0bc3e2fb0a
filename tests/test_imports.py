"""What an import costs and needs: the package nothing, the core numpy and torch, no verb torch."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from varlen_lab.cli import VERBS

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
    program = BLOCK.format(names=set(blocked or [])) + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_blocking_works() -> None:
    code = "try:\n    import datasets\nexcept ModuleNotFoundError as e: print(e)"
    assert python(code, ["datasets"]) == "datasets is blocked"


def test_package_imports_without_anything_in_a_moment() -> None:
    python("import varlen_lab", [*NOT_CORE, "torch", "numpy"])
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import varlen_lab"], check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) <= 0.3


def test_package_exports_no_name_of_a_module() -> None:
    code = (
        "import pkgutil, varlen_lab; public = [n for n in vars(varlen_lab) if not n.startswith('_')];"
        "print(sorted(set(public) & {m.name for m in pkgutil.iter_modules(varlen_lab.__path__)}))"
    )
    assert python(code) == "[]"


@pytest.mark.parametrize("module", ["packing", "attention"])
def test_core_needs_only_numpy_and_torch(module: str) -> None:
    python(f"import varlen_lab.{module}", NOT_CORE)


@pytest.mark.parametrize("module", ["config", "recipes", "errors", "lessons", "environment", "notebooks", "pages"])
def test_settings_and_pages_import_without_torch(module: str) -> None:
    python(f"import varlen_lab.{module}", [*OPTIONAL, "torch", "transformers"])


@pytest.mark.parametrize("module", ["models", "train", "compare", "convert", "documents", "viz"])
def test_library_imports_without_optional_packages(module: str) -> None:
    python(f"import varlen_lab.{module}", OPTIONAL)


@pytest.mark.parametrize("verb", VERBS)
def test_verb_imports_without_torch_and_plots(verb: str) -> None:
    python(f"import varlen_lab.cli.{VERBS[verb][0]}", [*OPTIONAL, "torch", "transformers", "numpy"])


def test_help_imports_no_verb() -> None:
    code = (
        "from varlen_lab.cli import main; main([]);"
        "print([m for m in sys.modules if m.startswith('varlen_lab.cli.') or m in ('torch', 'rich')])"
    )
    assert python(code).splitlines()[-1] == "[]"
