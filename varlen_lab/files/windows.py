"""What Windows does otherwise, as far as files go: where a step differs there, it asks ``WINDOWS``.

A file that somebody has open, or that is mapped into memory, cannot be replaced or deleted there; text is written with
other line ends unless it is said which; a folder cannot be opened, and what is open for reading cannot be synced.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

WINDOWS = os.name == "nt"
WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # seconds between tries to move a file: a scanner looks at every new one


def replace(source: Path, target: Path) -> None:
    """Move ``source`` to ``target``, whose place it takes; on Windows it waits for who has one of them open for now."""
    for wait in WAITS if WINDOWS else ():
        try:
            return os.replace(source, target)
        except PermissionError:
            time.sleep(wait)
    return os.replace(source, target)


def flags_to_sync(path: Path) -> int:
    """How ``path`` is opened to bring it down to the disk."""
    return os.O_RDWR if WINDOWS and path.is_file() else os.O_RDONLY
