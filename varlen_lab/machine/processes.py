"""Processes that are begun anew (``spawn``) import the script that asked for them: it has to be ready for that."""

from __future__ import annotations

import os
import sys
from multiprocessing import current_process

from varlen_lab.errors import InputError

GUARD = 'put what your script does under if __name__ == "__main__":'


def refuse_unguarded(setting: str, count: int) -> None:
    """Come back only where such processes can be begun; ``setting = count`` is what asked for them.

    InputError where the program lies in no file, as one that is typed into ``python -``. A process that is still
    importing the script, and was sent here by it, ends without a word: whoever began it says why (``broken``).
    """
    if getattr(current_process(), "_inheriting", False):
        raise SystemExit(1)
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file and getattr(main, "__spec__", None) is None and not os.path.exists(file):
        raise InputError(
            f"{setting} = {count} needs a program that lies in a file, {file} is none; write 1, or a file."
        )


def broken(setting: str, count: int) -> InputError:
    """The error to raise when one of these processes ended before its work was done."""
    return InputError(
        f"{setting} = {count}: a process ended before its work was done, out of memory perhaps or for want of a guard; "
        f"{GUARD}, or write a smaller number."
    )
