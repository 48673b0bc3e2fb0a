"""The GPU block of both READMEs, from the newest folder of ``benchmarks/results``; a test holds them together.

python -m benchmarks.gpu.readme     write it into README.md and README_zh.md
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.gpu.report import HEADS, caption_of, goals_table
from benchmarks.gpu.store import newest, read

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
OPEN, CLOSE = "<!-- gpu -->", "<!-- /gpu -->"
FIRST, SECOND = "python -m benchmarks.gpu --minutes 6 -o DIR", "python -m benchmarks.gpu --minutes 3 -o DIR --sections"
# README -> what it says without results; the head of its table of goals; the line below it
WORDS = {
    "README.md": (
        "**The GPU figures are still to come**: no number here was measured on CUDA. On one GPU of 24 GB or more, "
        f"`{FIRST}` measures correctness, parity, kernels, training, peers and masks, and "
        f"`{SECOND} tests lessons` runs the GPU tests and lessons "
        "([how to read results](benchmarks/results/README.md)). `--rehearse` runs the first in miniature on a CPU.",
        HEADS,
        "`{}`: {}; the goals are an H100's, nothing is scaled. Everything it found: [report]({}).",
    ),
    "README_zh.md": (
        f"**GPU 数据尚待补充**：这里没有任何数字是在 CUDA 上测得的。在一块 24 GB 以上的 GPU 上，`{FIRST}` "
        f"测量正确性、损失一致性、内核、训练、同类工具与掩码，`{SECOND} tests lessons` 运行 GPU 测试与课程"
        "（[如何阅读结果](benchmarks/results/README.md)）。`--rehearse` 在 CPU 上把前者缩小跑一遍。",
        ("", "实测", "最低 / 目标 / 理想", "达到", "依据"),
        "`{}`：{}；目标以一块 H100 为准，未作换算。全部结果：[报告]({})。",
    ),
}


def newest_folder(results: Path = RESULTS) -> Path | None:
    """The folder whose last call was started last, rehearsals not counted; None when there is none."""
    files = [path for path in results.glob("*/results.json") if "real-effect" not in path.parent.name]
    found = {call["started"]: path.parent for path in files if not (call := read(path)["runs"][-1]).get("rehearsal")}
    return found[max(found)] if found else None


def block(readme: str, folder: Path | None) -> str:
    """What stands between the marks of one README: the picture of training, the goals, on what they were measured."""
    none, heads, below = WORDS[readme]
    if folder is None:
        return f"{OPEN}\n{none}\n{CLOSE}"
    content = read(folder / "results.json")
    where = folder.relative_to(ROOT).as_posix() if folder.is_relative_to(ROOT) else folder.name
    caption = caption_of(content, newest(content).values())
    picture = f"![{caption}]({where}/training.png)\n\n" if (folder / "training.png").exists() else ""
    words = below.format(FIRST, caption, f"{where}/report.md")
    return f"{OPEN}\n{picture}{goals_table(newest(content), heads)}\n\n<sub>{words}</sub>\n{CLOSE}"


def main() -> None:
    for name in WORDS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        start, end = text.index(OPEN), text.index(CLOSE) + len(CLOSE)
        path.write_text(text[:start] + block(name, newest_folder()) + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
