"""Which files of a site are ours, so that a walk into a folder of a person's writes over nothing else."""

from __future__ import annotations

from pathlib import Path

from varlen_lab.errors import InputError
from varlen_lab.language.saying import TAGS

# how each page of the site begins, those of the functions too
BEGINS = (
    b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy"'
)
OURS = tuple(BEGINS.replace(b'"en"', f'"{tag}"'.encode()) for tag in TAGS.values())
RAN = b'"papermill"'  # in the metadata of an executed copy


def is_page(path: Path) -> bool:
    """Whether a file is a page of a site of ours."""
    with path.open("rb") as file:
        return file.read(len(BEGINS) + 32).replace(b"\r\n", b"\n").startswith(OURS)


def refuse_others(path: Path) -> None:
    """InputError where a page or an executed copy would take the place of a file that is none."""
    if not path.is_file() or not path.stat().st_size:
        return
    if not (is_page(path) if path.suffix == ".html" else RAN in path.read_bytes()):
        raise InputError(f"{path} was not written by a walk and would be lost; move it away, or choose another -o.")


def pages_in(folder: Path) -> set[str]:
    """The names of all our pages in a folder and below, seen from there; what else lies there is a person's."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.html")
        if path.is_file() and not path.is_symlink() and is_page(path)
    }
