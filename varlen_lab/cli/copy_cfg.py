"""``varlen-lab copy-cfg``: step 3, one plain commented file to edit."""

from __future__ import annotations

import argparse
from pathlib import Path

from varlen_lab.cli import output_file
from varlen_lab.config.names import named_config
from varlen_lab.config.text import override, render
from varlen_lab.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Name and folder, as XTuner has them."""
    parser.add_argument("config_name", metavar="CONFIG_NAME", help="a name from list-cfg")
    parser.add_argument("save_dir", metavar="SAVE_DIR", type=Path, help="folder to write into")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings to change on the way: --set use_varlen_attn=True max_length=4096",
    )
    parser.add_argument("--force", action="store_true", help="replace a copy that is already there")


def run(args: argparse.Namespace) -> int:
    """Write the file whole, or not at all."""
    config = override(named_config(args.config_name), args.set, "--set")
    target = args.save_dir / f"{args.config_name}_copy.py"
    # the one file of a person's own that this command could destroy
    if target.exists() and not args.force:
        raise InputError(f"{target} is already there and may hold your edits; pass --force to replace it.")
    with output_file(target, "w", instead="SAVE_DIR") as file:
        file.write(render(config))
    print(f"Copy to {target}")
    return 0
