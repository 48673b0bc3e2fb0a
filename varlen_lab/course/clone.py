"""Files of the repository that lessons read, from whichever folder a notebook runs in."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]


def in_clone(path: str | Path) -> str:
    """``path`` where it is there as it stands, else the same file in a folder above this one, or in our own clone.

    A path that is nowhere comes back as it is: who opens it says so.
    """
    if Path(path).exists():
        return str(path)
    for folder in (*Path.cwd().parents, HERE):
        if (folder / path).is_file():
            with suppress(ValueError):  # another drive
                return os.path.relpath(folder / path)  # short, and no name of a machine in what a lesson shows
            return str(folder / path)
    return str(path)
