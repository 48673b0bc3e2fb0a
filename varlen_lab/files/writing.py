"""Text that is slow to make is made once and kept in the user's cache folder.

The rule: a reader sees a whole text or none. A file's first line is the SHA-256 of the rest, so a truncated
or edited file is noticed and rebuilt; a file is written under another name and moved into place, so two
processes at once can only overwrite each other with the same thing. A folder that cannot be written costs
time, not the result.

Not here: any notion of age or size. A file's name says what it was made from (``fingerprint``), so it never
expires.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """``$VARLEN_LAB_CACHE``, else ``$XDG_CACHE_HOME/varlen_lab``, else ``~/.cache/varlen_lab``."""
    if chosen := os.environ.get("VARLEN_LAB_CACHE"):
        return Path(chosen).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "varlen_lab"
    return Path("~/.cache").expanduser() / "varlen_lab"


def fingerprint(*facts: object) -> str:
    """Twelve hex digits that change when this Python, this platform or one of ``facts`` does."""
    text = "\n".join([sys.version, platform.platform(), *map(str, facts)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cached_text(name: str, build: Callable[[], str]) -> str:
    """The text kept under ``name`` in ``cache_dir()``; ``build()`` makes it when it is missing or damaged."""
    path = cache_dir() / name
    text = _read(path)
    if text is None:
        text = build()
        try:
            _write(path, text)
        except OSError as error:
            warnings.warn(f"{path} is not writable ({error}); the next run makes it again.", stacklevel=2)
    return text


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _read(path: Path) -> str | None:
    """The text of a whole, undamaged file, else None."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return body.decode() if digest == _digest(body) else None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    body = text.encode()
    # The temporary file lies in the same folder: os.replace is atomic only within one file system.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_digest(body) + b"\n" + body)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
