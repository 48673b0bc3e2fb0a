"""Telling on the way: what a run decides before it is done, such as the backend that it takes."""

from __future__ import annotations

import logging
import sys

from varlen_lab.machine.letters import in_one_line, shown
from varlen_lab.machine.ranks import is_first


def tell(words: str) -> None:
    """``words``: in a notebook a line of its output, elsewhere a record of the logger ``varlen_lab`` (INFO).

    The command shows its records on terminals, above the bar that is being drawn; a pipe has them where it asks for
    them. Of several processes the first speaks.
    """
    if not is_first():
        return
    if type(sys.stderr).__module__.startswith("ipykernel"):  # stdout, for a notebook shows stderr as an error
        print(f"varlen_lab: {in_one_line(shown(words))}")
    else:
        logging.getLogger("varlen_lab").info("%s", words)
