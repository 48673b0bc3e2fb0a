"""What a page may do, said in itself: show what is inside it, run the scripts it was made with, ask for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

ROW_TYPE = "application/vnd.varlen-lab.row+json"  # an output that the explorer's script may draw: row_data of a row
NOTHING = "'none'"
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; form-action 'none'"
)


def csp(scripts: Sequence[str] = ()) -> str:
    """The Content-Security-Policy of a page that runs ``scripts`` and no other.

    A browser runs a script when the text between its tags, character by character, is one of ``scripts``.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii") for script in scripts]
    runs = " ".join(f"'sha256-{one}'" for one in hashes)
    return f"{POLICY}; script-src {runs or NOTHING}"
