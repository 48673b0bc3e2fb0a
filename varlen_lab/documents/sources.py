"""Where dialogues come from: the built-in corpus, a file, a saved ``datasets`` folder, or a hub name.

The rule: every record is a good dialogue or is named, with its file and line, and why it is none. By default
the first bad record ends the reading; with ``skip_bad`` bad ones are set aside and their reasons returned.
What a record may look like is in ``records``.
"""

from __future__ import annotations

import os
from pathlib import Path

from varlen_lab.documents.builtin import builtin_dialogues
from varlen_lab.documents.fields import BadRecord
from varlen_lab.documents.files import READERS, Located, first_line, numbered
from varlen_lab.documents.records import dialogue_of
from varlen_lab.documents.templates import Dialogue
from varlen_lab.errors import InputError, nearest

BUILTIN = "builtin:docstrings"


def read_dialogues(
    data_path: str | os.PathLike[str] | list[str],
    *,
    system: str = "",
    map_fn: str = "auto",
    skip_bad: bool = False,
    progress: bool = True,
) -> tuple[list[Dialogue], list[str]]:
    """All dialogues at ``data_path``, and the reasons of the records that were skipped.

    ``data_path``: ``builtin:docstrings``; a .jsonl, .json, .parquet or .csv file; a folder written by
    ``Dataset.save_to_disk``; otherwise a dataset's name on the hub, whose ``train`` split is read; or a list of
    these, read one after the other. ``system`` is put in front of dialogues without a system message. ``map_fn`` says
    how a record is read, if its fields do not tell (see ``records``). Raises InputError for what cannot be found or
    read, a bad record (unless ``skip_bad``), and for no dialogue at all.
    """
    if isinstance(data_path, list):
        parts = [
            read_dialogues(one, system=system, map_fn=map_fn, skip_bad=skip_bad, progress=progress) for one in data_path
        ]
        return [one for found, _ in parts for one in found], [reason for _, reasons in parts for reason in reasons]
    name = os.fspath(data_path)
    dialogues, skipped = [], []
    for place, record in records_at(name, progress):
        try:
            if isinstance(record, BadRecord):
                raise record
            dialogues.append(dialogue_of(record, system, map_fn))
        except BadRecord as reason:
            if not skip_bad:
                raise InputError(f"{place}: {reason}; correct the record, or set skip_bad = True.") from None
            skipped.append(f"{place}: {reason}")
    if not dialogues:
        why = f"; all {len(skipped)} records were skipped, the first: {skipped[0]}" if skipped else ""
        raise InputError(f"{name} holds no dialogue{why}; give it at least one with an assistant turn.")
    return dialogues, skipped


def records_at(name: str, progress: bool = True) -> Located:
    """(where it stands, record) of everything at ``name``."""
    if name.startswith("builtin:"):
        if name != BUILTIN:
            raise InputError(f"there is no built-in dataset {name!r}{nearest(name, [BUILTIN]) or f'; use {BUILTIN}.'}")
        return numbered(({"messages": messages} for messages in builtin_dialogues(progress)), name)
    path = Path(name).expanduser()
    if os.path.isdir(path):  # unlike path.is_dir() it survives a name no file can have
        return saved_dataset(path)
    if os.path.isfile(path):
        return READERS[known_suffix(path)](path)
    if looks_like_a_file(name):
        raise InputError(f"there is no file {name}{nearby(path) or '; check the path.'}")
    return hub_dataset(name)


def known_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in READERS:
        kinds = ", ".join(READERS)
        raise InputError(f"{path} ends in {suffix or 'nothing'!r}, data files end in {kinds}; rename it.")
    return suffix


def looks_like_a_file(name: str) -> bool:
    """Hub names are ``owner/name`` or ``name``: no known ending, no other path."""
    return Path(name).suffix.lower() in READERS or name.startswith((".", "/", "~")) or name.count("/") > 1


def nearby(path: Path) -> str:
    siblings = os.listdir(path.parent) if os.path.isdir(path.parent) else []
    return nearest(path.name, siblings)


# --------------------------------------------------------------------------------------------------- datasets


def saved_dataset(path: Path) -> Located:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except Exception as error:  # datasets has a dozen kinds for "no saved dataset"
        raise InputError(
            f"{path} is a folder but no saved dataset ({first_line(error)}); "
            "name a file in it, or write the folder with Dataset.save_to_disk."
        ) from None
    if isinstance(dataset, DatasetDict):
        if "train" not in dataset:
            raise InputError(f"{path} has splits {', '.join(dataset)} but no train; name one split's folder.")
        dataset = dataset["train"]
    return numbered(dataset, str(path))


def hub_dataset(name: str) -> Located:
    """The ``train`` split of a dataset on the hub, or of one that was downloaded before."""
    from datasets import config, load_dataset
    from huggingface_hub import HfApi

    refusal = None
    try:
        HfApi().dataset_info(name, timeout=10)
    except Exception as error:  # not there, gated, no network: as many kinds as there are layers
        refusal = error
    before = config.HF_HUB_OFFLINE
    try:
        # load_dataset would ask a silent hub six times; after one refusal only what is on disk can help.
        config.HF_HUB_OFFLINE = before or refusal is not None
        dataset = load_dataset(name, split="train")
    except Exception as error:
        raise InputError(
            f"{name!r} is neither a file or folder here nor a dataset the hub gives us "
            f"({first_line(refusal or error)})"
            + (nearby(Path(name)) or f"; check the name and the network, or use {BUILTIN}.")
        ) from None
    finally:
        config.HF_HUB_OFFLINE = before
    return numbered(dataset, name)
