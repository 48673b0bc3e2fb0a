"""axe-core, the checker of what people with other senses and other hands meet, at one pinned version.

Its text is no part of the repository. It comes from the npm registry, by ``npm pack`` or by a plain download, is
compared with the digest below, and is kept in pytest's cache. Without a network a test that needs it is skipped, where
``VARLEN_LAB_BROWSER=1`` says that nothing may be missing it fails.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

VERSION = "4.14.1"
INTEGRITY = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="  # sha512
ADDRESS = f"https://registry.npmjs.org/axe-core/-/axe-core-{VERSION}.tgz"
KEPT = Path(__file__).parents[1] / ".pytest_cache" / f"axe-core-{VERSION}.tgz"
RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "rules": {"target-size": {"enabled": True}},  # of WCAG 2.2, which axe leaves out unless it is asked
    "resultTypes": ["violations"],
}
LINES = """async ([within, rules]) => {
    const { violations } = await axe.run(within || document, rules);
    return violations.flatMap(({ id, help, nodes }) => nodes.map(({ target, any, all, none }) => {
        const why = [...any, ...all, ...none].map((check) => check.message)[0] || help;
        return `${id} at ${target.flat().join(" ")}: ${help} (${why})`;
    }));
}"""


def violations(page: Any, within: str | None = None, only: tuple[str, ...] = ()) -> list[str]:
    """What axe finds against WCAG 2.2 A and AA and its own best practice, a line each: rule, place, what is wrong.

    ``within``: a CSS selector of the part that is looked at; None: the whole page. ``only``: names of rules; none: all.
    """
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(script())  # not as a script element, which the page's own policy would refuse
    rules = {"runOnly": list(only), "resultTypes": ["violations"]} if only else RULES
    return page.evaluate(LINES, [within, rules])


@cache
def script() -> str:
    """The text of ``axe.min.js``; skips or fails where it cannot be had."""
    data = KEPT.read_bytes() if KEPT.is_file() else b""
    if not genuine(data):
        try:
            data = packed() or downloaded()
        except (OSError, HTTPException, subprocess.TimeoutExpired) as problem:
            missing(f"axe-core {VERSION} is not kept here and cannot be fetched ({problem})")
        if not genuine(data):
            pytest.fail(f"what the registry gave as axe-core {VERSION} has another digest than the one pinned here")
        KEPT.parent.mkdir(exist_ok=True)
        draft = KEPT.with_suffix(f".{os.getpid()}")  # another worker may write it in the same moment
        draft.write_bytes(data)
        draft.replace(KEPT)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        text = archive.extractfile("package/axe.min.js")
        assert text is not None
        return text.read().decode("utf-8")


def genuine(data: bytes) -> bool:
    """Whether the archive is the pinned one, to the byte."""
    return base64.b64encode(hashlib.sha512(data).digest()).decode("ascii") == INTEGRITY


def packed() -> bytes:
    """The archive as npm fetches it, from the registry a person has set up; b'' without npm or where it fails."""
    if (npm := shutil.which("npm")) is None:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"axe-core@{VERSION}", "--silent", "--fetch-retries=0", "--pack-destination", folder]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120)
        files = list(Path(folder).glob("*.tgz"))
        return files[0].read_bytes() if done.returncode == 0 and files else b""


def downloaded() -> bytes:
    """The archive from the public registry."""
    with urllib.request.urlopen(ADDRESS, timeout=60) as answer:
        return answer.read()


def missing(why: str) -> None:
    """End the test: a failure where everything must be there, else a skip."""
    (pytest.fail if os.environ.get("VARLEN_LAB_BROWSER") == "1" else pytest.skip)(why)
