"""Bits that turned over, pages of zeros, files cut short, too long or mixed up: of everything that is read back.

Damage is told, or does not matter; another result with nothing said is the one thing that must not be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.faults import kills
from benchmarks.faults import stage as world
from benchmarks.faults.outcomes import Case, Outcome
from benchmarks.faults.stage import STEPS, Ran, Stage, verb

PAGE = 4096
EDGE = 64  # bytes at both ends of a file, where formats keep what they need to be read at all


@dataclass(frozen=True)
class Reader:
    """A file and a command that reads it. ``same``: what is wrong with the result; ``tries``: of each kind of harm."""

    needs: tuple[str, ...]
    file: str  # a pattern, of which the first file is damaged
    act: Callable[[], Ran]
    same: Callable[[Stage], str]
    tries: int = 6
    cache: bool = False


def harms(size: int, tries: int, chooser: random.Random) -> Iterator[tuple[str, Callable[[bytearray], bytearray]]]:
    """What is done to a file of ``size`` bytes: in words, and to its bytes."""
    for _ in range(5 * tries):
        at, bit = chooser.randrange(size), chooser.randrange(8)
        yield f"bit {bit} of byte {at}", partial(flipped, at=at, bit=bit)
    edge = sorted({*range(min(EDGE, size)), *range(max(0, size - EDGE), size)})
    for at in chooser.sample(edge, min(len(edge), 3 * tries)):
        yield f"byte {at} inverted", partial(flipped, at=at, bit=None)
    for _ in range(tries):
        page = chooser.randrange(-(-size // PAGE)) * PAGE
        yield f"zeros from byte {page}", partial(zeroed, at=page)
        length = chooser.randrange(size)
        yield f"cut to {length} bytes", partial(cut, length=length)
    if size > 2 * PAGE:
        for _ in range(tries // 2):
            one, two = chooser.sample(range(size // PAGE), 2)
            yield f"pages {one} and {two} exchanged", partial(exchanged, one=one * PAGE, two=two * PAGE)
    for extra in (b"\0", b"more", bytes(PAGE)):
        yield f"{len(extra)} bytes behind it", partial(longer, extra=extra)
    for length in (0, 1, size - 1):
        yield f"cut to {length} bytes", partial(cut, length=length)


def flipped(body: bytearray, at: int, bit: int | None) -> bytearray:
    body[at] ^= 0xFF if bit is None else 1 << bit
    return body


def zeroed(body: bytearray, at: int) -> bytearray:
    body[at : at + PAGE] = bytes(len(body[at : at + PAGE]))
    return body


def cut(body: bytearray, length: int) -> bytearray:
    return body[:length]


def longer(body: bytearray, extra: bytes) -> bytearray:
    return body + extra


def exchanged(body: bytearray, one: int, two: int) -> bytearray:
    body[one : one + PAGE], body[two : two + PAGE] = body[two : two + PAGE], body[one : one + PAGE]
    return body


def damages(stage: Stage) -> Iterator[Case]:
    """Every harm to every file."""
    for name, reader in READERS.items():
        found = sorted(stage.folder.glob(reader.file))
        if not found:
            continue  # another way to keep it, or a kind this machine cannot write
        file = found[0].relative_to(stage.folder)
        for words, harm in harms(found[0].stat().st_size, reader.tries, stage.chooser):
            yield Case(f"{name}: {words} of {file}", partial(damaged, stage, reader, file, harm))


def damaged(stage: Stage, reader: Reader, file: Path, harm: Callable[[bytearray], bytearray]) -> Outcome:
    """One case: the file is damaged and then read."""
    stage.bring(*reader.needs)
    if reader.cache:
        stage.own_cache()
    body = file.read_bytes()
    harmed = bytes(harm(bytearray(body)))
    if harmed == body:
        return Outcome("unharmed", "the same bytes")
    file.write_bytes(harmed)
    return world.judged(reader.act(), lambda: reader.same(stage) or True)


def resume(config: str, folder: str) -> Callable[[], Ran]:
    """Go on from step 2 of a finished run."""

    def act() -> Ran:
        Path(folder, f"iter_{STEPS}.pth").unlink()
        return verb("train", config, "--quiet", "--resume")

    return act


def lora_again() -> Ran:
    """The LoRA run anew, from its base."""
    return verb("train", "lora.py", "--quiet", "--work-dir", "again")


def lora_same(stage: Stage) -> str:
    says, whole = (world.history_says(Path(p, "history.jsonl")) for p in ("again", stage.folder / "lora_run"))
    return "" if says == whole else "another run"


def logged() -> Ran:
    """What the rows of the data say, and a digest of them all."""

    def work() -> None:
        from varlen_lab.cli import open_rows, read_config
        from varlen_lab.training.checkpoint import data_fingerprint

        Path("rows.txt").write_text(data_fingerprint(open_rows(read_config("c.py"))[0]))

    return world.called(work)


def rows_same(stage: Stage) -> str:
    """The fingerprint of the rows is the one in the history of the undisturbed run."""
    import json

    meta = json.loads((stage.folder / "run/history.jsonl").read_text().splitlines()[0])["meta"]
    return "" if Path("rows.txt").read_text() == meta["data"] else "other rows"


def compared() -> Ran:
    return verb("compare", "c.py", "--from", "run/iter_2.pth", "--quiet", "--json", "--cfg-options", "max_steps=1")


def opened(folder: str) -> Callable[[], Ran]:
    """Train from a model folder that convert wrote."""
    return lambda: verb("train", "c.py", "--quiet", "--work-dir", "again", "--cfg-options", "model_config=None",
                        f"pretrained_model_name_or_path='{folder}'", "max_steps=1", "save_steps=1")  # fmt: skip


TRAIN = ("c.py", "data.jsonl")
BASE = ("base", "adapter")
merge = partial(kills.merge, "new")
merge_same = partial(kills.folder_whole, folder="new", like="merged", may_lack=False)
convert_same = partial(kills.folder_whole, folder="new", like="base", may_lack=False)

READERS: dict[str, Reader] = {
    "resume": Reader(("run", *TRAIN), "run/iter_2.pth", resume("c.py", "run"), kills.run_ended, tries=8),
    "convert": Reader(("run", "c.py"), f"run/iter_{STEPS}.pth", partial(kills.convert, "new"), convert_same, tries=4),
    "history": Reader(("run", *TRAIN), "run/history.jsonl", resume("c.py", "run"), kills.run_ended, tries=4),
    "resume lora": Reader(
        ("lora_run", "base", "lora.py", "data.jsonl"),
        "lora_run/iter_2.pth",
        resume("lora.py", "lora_run"),
        partial(kills.run_ended, folder="lora_run"),
        tries=3,
    ),
    "base of lora": Reader(
        ("lora_run", "base", "lora.py", "data.jsonl"),
        "base/model.safetensors",
        resume("lora.py", "lora_run"),
        partial(kills.run_ended, folder="lora_run"),
        tries=3,
    ),
    "documents": Reader(TRAIN, "cache/documents-*.arrow", logged, rows_same, tries=8, cache=True),
    "rows": Reader(TRAIN, "cache/packed-*", logged, rows_same, tries=8, cache=True),
    "tokenizer": Reader(TRAIN, "cache/tokenizer-*", logged, rows_same, tries=6, cache=True),
    "merge base": Reader(BASE, "base/model.safetensors", merge, merge_same, tries=2),
    "merge adapter": Reader(BASE, "adapter/adapter_model.safetensors", merge, merge_same, tries=3),
    "adapter config": Reader(BASE, "adapter/adapter_config.json", merge, merge_same, tries=2),
    "adapter manifest": Reader(BASE, "adapter/varlen_lab.json", merge, merge_same, tries=2),
    "base config": Reader(BASE, "base/config.json", merge, merge_same, tries=2),
    "base manifest": Reader(BASE, "base/varlen_lab.json", merge, merge_same, tries=2),
    "base settings": Reader(BASE, "base/generation_config.json", merge, merge_same, tries=1),
    "base tokenizer": Reader(BASE, "base/tokenizer.json", merge, merge_same, tries=2),
    "base tokenizer config": Reader(BASE, "base/tokenizer_config.json", merge, merge_same, tries=1),
    "config anew": Reader(("base", "lora.py", "data.jsonl"), "base/config.json", lora_again, lora_same, tries=1),
    "tokenizer anew": Reader(("base", "lora.py", "data.jsonl"), "base/tokenizer.json", lora_again, lora_same, tries=1),
    "lora anew": Reader(("base", "lora.py", "data.jsonl"), "base/model.safetensors", lora_again, lora_same, tries=3),
}
