"""A real browser, and a JupyterLab with its own settings in it: what tests marked ``browser`` start from."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

CELL = "from varlen_lab.viz import explore_masks\n\nexplore_masks()"
CANVAS = "canvas.varlen-canvas"
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
SETTINGS = {  # every cell stays in the page, and nothing asks or fetches
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


def chromium() -> str:
    """The installed browser; skips, or fails where one is required, with what is missing."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        import playwright  # noqa: F401
    except ModuleNotFoundError:
        found, missing = None, "playwright is not installed (pip install varlen_lab[browser])"
    else:
        missing = "no chromium on this machine"
    if found is None:
        (pytest.fail if os.environ.get("VARLEN_LAB_BROWSER") == "1" else pytest.skip)(missing)
    return str(found)


@contextmanager
def started() -> Iterator[Any]:
    """That browser, as playwright has it; one at a time in a process."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def watched(browser: Any, errors: list[str], mine: Callable[[str], bool], **how: Any) -> Any:
    """A new page; into ``errors`` goes what it says of an error, and every request that is not ``mine``."""
    page = browser.new_page(**how)
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
    page.on("request", lambda asked: None if mine(asked.url) else errors.append(asked.url))
    return page


@contextmanager
def served(home: Path) -> Iterator[str]:
    """The address of a JupyterLab with its own settings, serving a notebook with the explorer from ``home``."""
    chromium()
    nbformat.write(new_notebook(cells=[new_code_cell(CELL)], metadata=KERNEL), home / "masks.ipynb")
    (home / "settings").mkdir()
    (home / "settings" / "overrides.json").write_text(json.dumps(SETTINGS))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    options = [
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={home}",
        f"--LabApp.app_settings_dir={home / 'settings'}",
        "--LabApp.extension_manager=readonly",
    ]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env={**os.environ, **{name: str(home / name.lower()) for name in folders}},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, (home / "log").read_text()[-2000:]
            time.sleep(0.2)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def choose_theme(home: Path, name: str) -> None:
    """From now on the JupyterLab that is ``served`` from ``home`` opens in the theme of this name."""
    chosen = home / "jupyter_config_dir/lab/user-settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings"
    chosen.parent.mkdir(parents=True, exist_ok=True)
    chosen.write_text(json.dumps({"theme": name}))


def running(browser: Any, server: str, name: str, size: tuple[int, int]) -> tuple[Any, list[str], list[str]]:
    """A page on which all cells of a notebook are running; its errors so far, and its requests to elsewhere."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(60_000)
    errors: list[str] = []
    abroad: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: abroad.append(request.url) if leaves(request.url, server) else None)
    page.goto(f"{server}/lab/tree/{name}?reset")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # "Run All Cells" before the kernel is there is lost
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    return page, errors, abroad


@contextmanager
def opened(server: str) -> Iterator[SimpleNamespace]:
    """The notebook, run to its end in the browser: ``page``, and what went wrong in it so far."""
    with started() as browser:
        page, errors, abroad = running(browser, server, "masks.ipynb", (1300, 1100))
        page.locator(f"{CANVAS}[data-state]").scroll_into_view_if_needed()
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.wait_for_timeout(1000)
        yield SimpleNamespace(page=page, canvas=page.locator(CANVAS), errors=errors, abroad=abroad)


def leaves(url: str, server: str) -> bool:
    """Does a request go to another machine?"""
    return not url.startswith((server, server.replace("http", "ws"), "data:", "blob:", "about:"))
