"""The command: a process for every setting, since stacks patch what they import; then the table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import benchmarks.stacks as package
from benchmarks.stacks.page import PAGE, RECORD, measurements, paste, table

WAIT = 300  # seconds for one setting
WITH = ("torch", "transformers")
RESULT = "measured: "


def number_of(package: str) -> str | None:
    """The version that is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def one(number: int) -> None:
    """Measure the setting with this number, in this process, and print what was found as the last line."""
    from benchmarks.stacks.settings import SETTINGS

    setting = SETTINGS[number]
    if setting.package == "unsloth":
        __import__("unsloth")  # wants to be imported before transformers
    from benchmarks.stacks.corpus import prepare
    from benchmarks.stacks.seen import OWN, FirstCall
    from varlen_lab import LeakCheck

    first, check = FirstCall(), LeakCheck(receipt=None, on_leak="warn")
    found: dict[str, Any] = {"what": setting.what}
    said: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                setting.start(Path(folder), [first, check])
        except Exception as problem:  # every stack refuses in its own way
            found["said"] = " ".join(str(problem).split())[:200]
    if first.seen is None:
        found["verdict"] = "refuses" if is_refusal(found) else "not reached"
    else:
        found |= {"attention": first.seen.attention, "verdict": first.seen.verdict}
        found["logits"] = float(f"{first.seen.logits:.0e}")
        if first.seen.attention != OWN:
            found["leak_check"] = said_by(check, [str(one.message) for one in said])
    print(RESULT + json.dumps(found))


def is_refusal(found: dict[str, Any]) -> bool:
    """Whether a stack said that it does not pack with this attention, and did not merely fail."""
    return "attention implementation" in found.get("said", "")


def said_by(check: Any, warned: list[str]) -> str:
    """The receipt of a run in a few words."""
    if any("cannot be checked" in one for one in warned):
        return "cannot check"
    if check.receipt is None or not check.receipt.checked:
        return "nothing to check"  # no batch that tells of two documents in a row
    names = [finding.name for finding in check.receipt.findings]
    return "ok" if check.receipt.ok else ", ".join(dict.fromkeys(names))


def measure(only: str | None) -> dict[str, dict[str, Any]]:
    """What is installed here: stack -> version, with, settings. Prints what is not."""
    from benchmarks.stacks.settings import SETTINGS

    found: dict[str, dict[str, Any]] = {}
    for number, setting in enumerate(SETTINGS):
        if only not in (None, setting.stack):
            continue
        if (installed := number_of(setting.package)) is None:
            if found.setdefault(setting.stack, {}) == {}:
                print(f"{setting.stack}: not installed (pip install {setting.package}); what is known of it is cited")
                found[setting.stack] = {"missing": True}
            continue
        done = in_a_process(number)
        print(f"{setting.stack} {installed}, {setting.what}: {done['verdict']} {done.get('said', '')}")
        entry = found.setdefault(setting.stack, {"version": installed, "settings": []})
        entry["with"] = {name: number_of(name) for name in WITH}
        entry["settings"].append(done)
    return {stack: entry for stack, entry in found.items() if "missing" not in entry}


def in_a_process(number: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.stacks", "--setting", str(number)]
    kept = {**os.environ, "AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, env=kept)
    except subprocess.TimeoutExpired:
        return {"what": "", "verdict": "not reached", "said": f"took more than {WAIT} s"}
    lines = [line for line in ran.stdout.splitlines() if line.startswith(RESULT)]
    if not lines:
        return {"what": "", "verdict": "not reached", "said": (ran.stderr.strip().splitlines() or ["no output"])[-1]}
    result: dict[str, Any] = json.loads(lines[-1].removeprefix(RESULT))
    return result


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stacks",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="STACK", help="one stack, by its name in the table")
    parser.add_argument("--save", action="store_true", help="write docs/stacks.json and docs/stacks.md")
    parser.add_argument("--setting", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.setting is not None:
        one(args.setting)
        return 0
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    names = [stack["name"] for stack in record["stacks"]]
    if args.only not in (None, *names):
        print(f"error: there is no stack {args.only!r}; take one of {', '.join(names)}.", file=sys.stderr)
        return 2
    measured = measure(args.only)
    for stack in record["stacks"]:
        stack |= measured.get(stack["name"], {})
    print(f"\n{table(record)}\n\n{measurements(record)}")
    if args.save:
        RECORD.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        PAGE.write_text(paste(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
