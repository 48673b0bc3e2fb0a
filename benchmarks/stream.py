"""Memory of a run on a file, and on one ten times as large: ``python -m benchmarks.stream [--full]``.

Each line is a fresh Python with its peak RSS. ``read`` packs a file to its end, ``train`` takes steps from its
beginning, ``resume`` goes on from a checkpoint whose stream stands near its end. The documents are words drawn at
random, of lengths like those of fine-tuning data. ``--full``: 200 MB and 2 GB instead of 20 and 200 MB; reading all of
the larger one takes half an hour.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.process import NotMeasured, last_line
from benchmarks.verdict import verdict

MOST = 1.2  # times the memory of the smaller file
STEPS = 20
MB = 10**6


def dialogues() -> Iterator[dict[str, Any]]:
    """Records without end, the same in every run."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5000)]
    while True:
        said = (" ".join(draw.choices(words, k=int(draw.lognormvariate(about, 0.9)) + 3)) for about in (3.0, 4.5))
        yield {"messages": [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said)]}


def write(path: Path, size: int) -> None:
    """A JSONL file of ``size`` bytes; or a Parquet file of the records of the JSONL file beside it."""
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8", newline="\n") as file:
            records = dialogues()
            while file.tell() < size:
                file.writelines(json.dumps(next(records)) + "\n" for _ in range(500))
        return
    import pyarrow.json
    import pyarrow.parquet

    source = pyarrow.json.open_json(path.with_suffix(".jsonl"))
    with pyarrow.parquet.ParquetWriter(path, source.schema) as writer:
        for batch in source:
            writer.write_batch(batch)


def one(what: str, name: str, folder: str) -> None:
    """In a process of its own: do it, print steps or rows, and the peak."""
    import resource

    from varlen_lab import load_config, train
    from varlen_lab.training.data import load_tokenizer
    from varlen_lab.training.stream import RowStream

    config = load_config("tiny_llama_full_docstrings_e1").with_mode("varlen")
    config = config.replace(
        data_path=name, max_steps=STEPS, pack_strategy="sequential", evaluation_freq=0, device="cpu", work_dir=folder
    )
    if what == "read":
        rows, count = RowStream(config, load_tokenizer(config)), 0
        while rows.read() is not None:
            count += 1
    else:
        if what == "resume":
            forward(config, Path(folder) / f"iter_{STEPS}.pth")
        count = len(train(config, progress=False, resume=what == "resume").records)
    print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def forward(config: Any, path: Path) -> None:
    """Make the checkpoint one of half the steps, whose stream stands where a twentieth of the file is left."""
    from varlen_lab.documents.positions import Named
    from varlen_lab.documents.sources import Position
    from varlen_lab.training.checkpoint import read_checkpoint, save_checkpoint

    state = {key: value for key, value in read_checkpoint(path).items() if key != "format"}
    source, file = state["stream"]["source"], Path(config.data_path)
    with file.open("rb") as opened:
        offset = int(file.stat().st_size * 0.95)
        opened.seek(offset)
        offset += len(opened.readline())
    source["start"] = {**source["start"], "offset": offset}
    source["given"] = 0
    source["facts"] = [Named(config.data_path).facts(Position(**source["start"]))]
    save_checkpoint(path.with_name(f"iter_{STEPS // 2}.pth"), {**state, "step": STEPS // 2})
    path.unlink()


def measure(what: str, path: Path, work: Path) -> float:
    """Peak bytes of one run."""
    try:
        count, peak = map(float, last_line("benchmarks.stream", "--one", what, str(path), str(work)).split())
    except NotMeasured as reason:
        raise SystemExit(f"{what} of {path.name} failed: {reason}") from None
    given = f"{count:,.0f} {'rows' if what == 'read' else 'steps'}"
    size = path.stat().st_size / MB
    print(f"    {what:<8}{path.suffix:<10}{size:>8,.0f} MB{given:>16}{peak / MB:>8,.0f} MB at the peak", flush=True)
    return peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="200 MB and 2 GB")
    parser.add_argument("--small", type=int, metavar="MB", help="size of the smaller file; 20 by default")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return 0
    small = (options.small or (200 if options.full else 20)) * MB
    sizes = (small, 10 * small)
    goals = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for ending, kinds in ((".jsonl", ("train", "resume", "read")), (".parquet", ("train",))):
            peaks: dict[str, list[float]] = {what: [] for what in kinds}
            for number, size in enumerate(sizes):
                path = folder / f"{number}{ending}"
                write(path, size)
                for what in kinds:
                    peaks[what].append(measure(what, path, folder / f"work{number}{ending}"))
            for what, (first, second) in peaks.items():
                ratio = second / first
                text = f"{what}, {ending}: {ratio:.2f} × the memory for ten times the file, goal {MOST} ×"
                goals.append((text, ratio <= MOST))
    return verdict(goals)


if __name__ == "__main__":
    sys.exit(main())
