"""What GitHub reads in .github/ is only run there, so here it is read with care: syntax, rights, files, commands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from varlen_lab.cli import build_parser
from varlen_lab.cli.registry import VERBS

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
FORMS = sorted(set((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) - {ROOT / ".github/ISSUE_TEMPLATE/config.yml"})
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
each_form = pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)


class Strict(yaml.SafeLoader):
    """YAML as GitHub reads it: ``on`` is a word and no truth value, and a key stands once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(None, None, f"a key stands twice: {keys}", node.start_mark)
        return super().construct_mapping(node, deep)


Strict.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if first not in "oO" or not tag.endswith(":bool")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), Strict)


def faults(workflow: dict[str, Any]) -> list[str]:
    """What GitHub would refuse or run wrongly, and rights that are wider than they need to be."""
    wrong = [f"{name} is missing" for name in ("name", "on", "permissions", "jobs") if name not in workflow]
    if isinstance(workflow.get("permissions"), str):
        wrong.append("permissions are given by the word")
    uploaded: set[str] = set()
    for name, job in workflow.get("jobs", {}).items():
        wrong += [f"{name} has no {key}" for key in ("runs-on", "timeout-minutes", "steps") if key not in job]
        needed = job.get("needs", [])
        unknown = {needed} if isinstance(needed, str) else set(needed)
        wrong += [f"{name} needs {other}, which is no job" for other in unknown - set(workflow["jobs"])]
        for step in job.get("steps", []):
            if ("run" in step) == ("uses" in step):
                wrong.append(f"a step of {name} must have either run or uses")
            if not re.fullmatch(r"[\w.-]+/[\w./-]+@[\w./-]+", step.get("uses", "a/b@v1")):
                wrong.append(f"{name} uses {step['uses']}, which names no version")
            wrong += faults_of_command(name, step.get("run", ""))
            if "upload-artifact" in step.get("uses", ""):
                uploaded.add(step["with"]["name"])
            if "download-artifact" in step.get("uses", "") and step["with"]["name"] not in uploaded:
                wrong.append(f"{name} downloads {step['with']['name']}, which no earlier job uploads")
    return wrong


def faults_of_command(name: str, command: str) -> list[str]:
    """What is wrong with the shell lines of a step."""
    wrong = []
    plain = re.sub(r"\$\{\{.*?\}\}", "x", command)
    if subprocess.run(["bash", "-n", "-c", plain], capture_output=True).returncode:
        wrong.append(f"bash does not read a command of {name}: {command}")
    if "${{" in command:  # whatever a title or a branch holds would be run
        wrong.append(f"a command of {name} is put together by GitHub; hand the value over in env")
    for word in re.findall(r"(?<![\w$/\".-])((?:\.ci|tests|docs|benchmarks)/[\w./-]+|[\w-]+\.txt)", command):
        if not (ROOT / word).exists():
            wrong.append(f"{name} names {word}, which does not exist")
    return wrong


@each_workflow
def test_a_workflow_is_as_github_wants_it(path: Path) -> None:
    assert faults(read(path)) == []


def test_the_workflows_that_must_be_there_are() -> None:
    assert {"ci", "full", "publish"} <= {path.stem for path in WORKFLOWS}


GOOD = """
name: x
on: push
permissions: {}
jobs:
  a: {runs-on: ubuntu-latest, timeout-minutes: 1, steps: [{run: .ci/run}]}
"""


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("on: push\n", "", "on is missing"),
        ("permissions: {}", "permissions: write-all", "permissions are given"),
        ("timeout-minutes: 1, ", "", "no timeout-minutes"),
        ("runs-on", "needs: b, runs-on", "needs b"),
        ("{run: .ci/run}", "{run: .ci/run, uses: a/b@v1}", "either run or uses"),
        ("{run: .ci/run}", "{uses: actions/checkout}", "names no version"),
        ("{run: .ci/run}", "{run: 'if true; echo'}", "bash does not read"),
        ("{run: .ci/run}", "{run: 'echo ${{ github.event.issue.title }}'}", "hand the value over"),
        ("{run: .ci/run}", "{run: python tests/no_such_file.py}", "does not exist"),
        ("{run: .ci/run}", "{uses: actions/download-artifact@v4, with: {name: w}}", "no earlier job uploads"),
    ],
)
def test_a_planted_fault_is_found(was: str, becomes: str, told: str) -> None:
    assert faults(yaml.load(GOOD, Strict)) == []
    assert was in GOOD
    found = faults(yaml.load(GOOD.replace(was, becomes), Strict))
    assert len(found) == 1 and told in found[0]


def test_a_key_that_stands_twice_is_found() -> None:
    with pytest.raises(yaml.YAMLError, match="twice"):
        yaml.load("a: 1\na: 2\n", Strict)


def test_what_is_published_is_the_file_that_was_tested() -> None:
    workflow = read(ROOT / ".github" / "workflows" / "publish.yml")
    wheel, upload = workflow["jobs"]["wheel"], workflow["jobs"]["upload"]
    commands = "\n".join(step.get("run", "") for step in wheel["steps"])
    order = [
        "GITHUB_REF_NAME",
        "pip wheel",
        "pip install -c constraints.txt dist/*.whl",
        "tests/built_wheel.py dist/*.whl",
    ]
    places = [commands.index(part) for part in order]
    assert places == sorted(places), "the version, the build, the install, the test"
    assert "upload-artifact" in wheel["steps"][-1]["uses"] and wheel["permissions"] == {"contents": "read"}
    # The job that may publish runs nothing of its own: what it was handed goes up.
    assert upload["needs"] == "wheel" and upload["permissions"] == {"id-token": "write"}
    assert [step["uses"].partition("@")[0] for step in upload["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
    assert (
        workflow["permissions"] == {} and list(workflow["on"]) == ["push"] and list(workflow["on"]["push"]) == ["tags"]
    )


@each_form
def test_a_form_is_as_github_wants_it(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(ids) == len(set(ids))
    for part in form["body"]:
        assert part["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert part["attributes"]["label"]
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_forms_ask_for_what_a_report_needs() -> None:
    asked = {path.stem: path.read_text(encoding="utf-8") for path in FORMS}
    assert set(asked) == {"bug", "leak", "question"}
    assert all("varlen-lab check-env --json" in text for text in asked.values())
    assert "varlen-lab audit --model MODEL --json" in asked["leak"]


@each_form
def test_commands_of_a_form_are_commands(path: Path) -> None:
    for words in map(shlex.split, re.findall(r"varlen-lab ([a-z-]+(?: (?:--?\w+|[A-Z]+))*)", path.read_text("utf-8"))):
        assert words[0] in VERBS
        build_parser(words[0]).parse_args(words)
