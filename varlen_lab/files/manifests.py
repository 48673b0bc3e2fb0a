"""What a folder of ours lists: ``varlen_lab.json``, how it was made, and the digest of every file that was written.

The list has a digest of its own. A folder that a version without lists wrote says how it was made and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from varlen_lab.errors import InputError
from varlen_lab.files.checksums import DIGITS, check_listed, digest_text, listed
from varlen_lab.files.reading import read_json
from varlen_lab.files.strict import strict_json
from varlen_lab.files.writing import written_whole

MANIFEST = "varlen_lab.json"  # marks a folder as a conversion of ours
FILES, DIGEST = "files", "digest"  # of a manifest: its list, and the digest of all else that it says


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """List every file of a folder that is now whole, beside ``facts``."""
    values = {**facts, FILES: listed(folder)}
    with written_whole(folder / MANIFEST, "w") as file:
        file.write(strict_json({**values, DIGEST: digest_of_values(values)}, indent=1))


def read_manifest(folder: Path, instead: str) -> dict[str, Any]:
    """What the manifest of a folder says; {} without one. InputError, which ``instead`` ends, for a damaged one.

    One of a version without lists has no ``FILES``.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    values: dict[str, Any] = read_json(path, instead)
    if FILES not in values and DIGEST not in values:
        return values
    digests, whole = values.get(FILES), False
    with contextlib.suppress(RecursionError):
        whole = values.pop(DIGEST, None) == digest_of_values(values)
    if not whole or not isinstance(digests, dict):
        raise InputError(f"{path} is damaged, it does not say what was written there; {instead}.")
    for name, digest in digests.items():
        if not re.fullmatch(rf"[0-9a-f]{{{DIGITS}}}", str(digest)) or not inside(name):
            raise InputError(f"{path} lists {name!r}, which is no file of a conversion; {instead}.")
    return values


def check_whole(folder: Path, instead: str) -> dict[str, Any]:
    """As ``read_manifest``, and InputError when a file of the folder is not there, or not as it was written."""
    values = read_manifest(folder, instead)
    check_listed(folder, values.get(FILES, {}), instead)
    return values


def inside(name: str) -> bool:
    """Whether a name stays in the folder that it is looked up in, on every system."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not {"..", "/"} & set(parts) and not re.search(r"[\\:\0]", name)


def digest_of_values(values: Mapping[str, Any]) -> str:
    """Of plain values, in whatever order and layout they are written."""
    return digest_text(json.dumps(values, sort_keys=True, default=repr))
