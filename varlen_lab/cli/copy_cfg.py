"""``varlen-lab copy-cfg``: step 3, one plain commented file to edit."""

from __future__ import annotations

import argparse
from pathlib import Path

from varlen_lab.cli import output_file
from varlen_lab.config.names import config_names, named_config
from varlen_lab.config.schema import Config
from varlen_lab.config.text import override, render
from varlen_lab.errors import InputError
from varlen_lab.files.places import check_file, there
from varlen_lab.machine import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Name and folder, as XTuner has them; or a model in place of the name."""
    parser.add_argument("config_name", metavar="CONFIG_NAME", nargs="?", help="a name from list-cfg")
    parser.add_argument("save_dir", metavar="SAVE_DIR", nargs="?", help="folder to write into")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="in place of CONFIG_NAME: a model folder, hub name, .gguf file or pip:PACKAGE to write a config for",
    )
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
    config, notes, folder = chosen(args)
    config = override(config, args.set, "--set")
    settled = [word.partition("=")[0].strip() for word in args.set]
    notes = [note for note in notes if note.partition(" = ")[0] not in settled]  # what was found is not what is written
    target = folder / f"{config.name}_copy.py"
    check_file(target, "SAVE_DIR")
    # the one file of a person's own that this command could destroy
    if there(target) and not args.force:
        raise InputError(f"{target} is already there and may hold your edits; pass --force to replace it.")
    with output_file(target, "w", instead="SAVE_DIR") as file:
        file.write("".join(f"# {note}\n" for note in notes) + render(config))
    for said in (*notes, f"Copy to {target}"):
        console.say(said, hang=2)
    return 0


def chosen(args: argparse.Namespace) -> tuple[Config, list[str], Path]:
    """The config that was asked for, what there is to say of it, and the folder to write into."""
    if args.model is None:
        if args.save_dir is None:
            missing = "CONFIG_NAME, SAVE_DIR" if args.config_name is None else "SAVE_DIR"
            raise InputError(f"copy-cfg lacks {missing}; for example: varlen-lab copy-cfg CONFIG_NAME ./configs.")
        if Path(args.config_name).is_dir() or args.config_name.lower().endswith(".gguf"):
            raise InputError(f"{args.config_name} is a model and no config; say --model {args.config_name}.")
        return named_config(args.config_name), [], Path(args.save_dir)
    if args.save_dir is not None or args.config_name in config_names():
        raise InputError(
            f"--model stands in place of CONFIG_NAME and {args.config_name!r} was given too; leave one of the two out."
        )
    from varlen_lab.training.own_model import config_of_model

    config, notes = config_of_model(args.model)
    return config, notes, Path(args.config_name or ".")
