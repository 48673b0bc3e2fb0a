"""The lists of packages agree: pyproject says what is needed, the other files repeat it without drifting."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TOP_LEVEL = [*PROJECT["dependencies"], *EXTRAS["notebooks"], *EXTRAS["dev"]]
CONDA_NAMES = {"torch": "pytorch", "xxhash": "python-xxhash"}
COMES_WITH = {  # what is imported as a part of a package that is declared
    "huggingface-hub": "transformers",
    "ipython": "ipykernel",
    "jupyter-client": "ipykernel",
    "markupsafe": "jinja2",
    "pyarrow": "datasets",
    "pygments": "rich",
    "traitlets": "ipykernel",
}
OPTIONAL = {"kernels"}  # check-env names it as a route to a kernel


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): Version(version) for name, version in pins}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_environment_yml_equals_pyproject() -> None:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = {Requirement(line) for line in listed if isinstance(line, str) and line != "pip"}
    renamed = {re.sub(r"^[\w-]+", lambda name: CONDA_NAMES.get(name[0], name[0]), line) for line in TOP_LEVEL}
    assert conda == {Requirement(line) for line in [*renamed, f"python{PROJECT['requires-python']}"]}
    assert listed[-1] == {"pip": ["-e ."]}


def test_every_constraint_is_one_exact_public_version() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"]
    wrong = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)]
    assert wrong == []
    assert len(lines) == len({canonical(line.split("==")[0]) for line in lines})


@pytest.mark.parametrize("line", TOP_LEVEL)
def test_constraints_pin_what_pyproject_asks_for(line: str) -> None:
    wanted = Requirement(line)
    assert constraints()[canonical(wanted.name)] in wanted.specifier


def imported(source: str) -> Iterator[str]:
    """Top-level names of the packages that a module imports, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        yield from (name.partition(".")[0] for name in names)


def undeclared(names: set[str]) -> set[str]:
    """Packages behind imported names that pyproject does not name, and no package that it names brings."""
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    declared = {canonical(Requirement(line).name) for line in lines} | OPTIONAL
    brought = {
        name
        for name, other in COMES_WITH.items()
        if other in declared and name in {canonical(Requirement(line).name) for line in requires(other) or ()}
    }
    known = packages_distributions()
    packages = {name: {canonical(one) for one in known.get(name, [name])} for name in names}
    return {name for name, found in packages.items() if not found & (declared | brought)}


def test_what_the_library_imports_is_declared() -> None:
    files = (ROOT / "varlen_lab").rglob("*.py")
    names = {name for file in files for name in imported(file.read_text(encoding="utf-8"))}
    assert undeclared(names - sys.stdlib_module_names - {"varlen_lab"}) == set()
    assert undeclared(set(imported("def f():\n    from sympy.core import S\n    import bs4\n"))) == {"sympy"}


def test_hooks_use_the_versions_of_the_constraints() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    used = {dependency for hook in hooks for dependency in hook["additional_dependencies"]}
    pins = {canonical(Requirement(line).name): str(Requirement(line).specifier)[2:] for line in used}
    assert "ruff" in pins
    assert {name: Version(pin) for name, pin in pins.items() if name in constraints()} == {
        name: constraints()[name] for name in pins if name in constraints()
    }


def test_hooks_let_no_large_file_through() -> None:
    assert "--maxkb=400" in (ROOT / ".pre-commit-config.yaml").read_text()


def test_ci_calls_the_same_command_as_a_laptop() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step.get("run") for step in workflow["jobs"]["all"]["steps"]]
    assert [step for step in steps if step] == [".ci/run"]
