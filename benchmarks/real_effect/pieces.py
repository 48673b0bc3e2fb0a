"""What was measured, a file a piece: a kill loses at most the piece that was being measured, a second start goes on.

arm-0-varlen.json        one arm of one seed
forward-NAME.json        the forward-only table of one data file
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import commit
from varlen_lab.errors import InputError
from varlen_lab.files.writing import written_whole


def written(path: Path, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The piece in ``path``, measured now unless it is there; InputError where it was measured with other settings."""
    if path.exists():
        piece = read_piece(path)
        for name, value in settings.items():
            if piece["settings"].get(name) != value:
                raise InputError(
                    f"{path} was measured with {name} = {piece['settings'].get(name)!r} and this run has {value!r}; "
                    "give another folder with -o."
                )
        return piece
    begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    command = shlex.join(["python", "-m", "benchmarks.real_effect", *sys.argv[1:]])
    facts = {"command": command, "commit": commit(), "begun": begun}
    # through JSON once, so that a piece is the same whether it was measured now or read
    piece = json.loads(json.dumps({"settings": settings, **facts, **measure()}))
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, "w") as file:
        json.dump(piece, file, indent=1)
    return piece


def read_piece(path: Path) -> dict[str, Any]:
    """A piece; InputError where the file is none."""
    try:
        piece = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise InputError(f"{path} cannot be read ({problem}); remove it, and it is measured again.") from None
    if not isinstance(piece, dict) or "settings" not in piece:
        raise InputError(f"{path} is no piece of a measurement; remove it, and it is measured again.")
    return piece
