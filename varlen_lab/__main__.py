"""``python -m varlen_lab`` is the command ``varlen-lab``."""

from __future__ import annotations

import sys

from varlen_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
