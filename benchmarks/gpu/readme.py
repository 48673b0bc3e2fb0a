"""The GPU block of both READMEs, from the newest folder of ``benchmarks/results``; a test holds them together.

python -m benchmarks.gpu.readme     write it into README.md and README_zh.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.gpu.figures import shown
from benchmarks.gpu.goals import SMALL, ok
from benchmarks.gpu.report import caption_of, table
from benchmarks.gpu.store import newest, read

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
OPEN, CLOSE = "<!-- gpu -->", "<!-- /gpu -->"
ROW = 16384
WORDS: dict[str, dict[str, Any]] = {
    "README.md": {
        "none": "**CUDA has not been run.** `python -m benchmarks.gpu --minutes 9 -o DIR` measures kernels, whole "
        "training, peers and three losses in one call; its numbers will stand here. "
        "`--rehearse` runs all of it in miniature on a CPU.",
        "head": [f"{SMALL}, rows of 16k", "real tokens/s", "MFU", "peak memory", "varlen is"],
        "modes": {
            "D varlen": "varlen",
            "C packed": "packed, seams ignored (another training)",
            "B grouped": "padded, grouped by length",
            "A padded": "padded, random batches",
        },
        "again": {"cheap": ", cheap activations recomputed", "all": ", all activations recomputed"},
        "caption": "`python -m benchmarks.gpu`: {}. Everything it found: [report]({}).",
    },
    "README_zh.md": {
        "none": "**尚未在 CUDA 上运行过。**`python -m benchmarks.gpu --minutes 9 -o DIR` "
        "一条命令测量算子、完整训练、同类工具与三条损失曲线，结果会写在这里；"
        "`--rehearse` 在 CPU 上把每一部分缩小跑一遍。",
        "head": [f"{SMALL}，每行 16k", "真实 token/s", "MFU", "峰值显存", "varlen 的倍数"],
        "modes": {
            "D varlen": "varlen",
            "C packed": "拼接，忽略接缝（另一种训练）",
            "B grouped": "填充，按长度分组",
            "A padded": "填充，随机分批",
        },
        "again": {"cheap": "，重算廉价的激活", "all": "，重算全部激活"},
        "caption": "`python -m benchmarks.gpu`：{}。全部结果：[报告]({})。",
    },
}


def newest_folder(results: Path = RESULTS) -> Path | None:
    """The folder whose last call was started last, rehearsals not counted; None when there is none."""
    found = {}
    for path in results.glob("*/results.json"):
        last = read(path)["runs"][-1]
        if not last.get("rehearsal"):
            found[last["started"]] = path.parent
    return found[max(found)] if found else None


def block(readme: str, folder: Path | None) -> str:
    """What stands between the marks of one README."""
    words = WORDS[readme]
    if folder is None:
        return f"{OPEN}\n{words['none']}\n{CLOSE}"
    content = read(folder / "results.json")
    cells = newest(content)
    rates = {mode: ok(cells, "training", f"{SMALL} | {mode} | rows of {ROW:,}") for mode in words["modes"]}
    peers = [cell for (section, _), cell in cells.items() if section == "peers" and cell["status"] == "ok"]
    mine = rates["D varlen"]
    lines = []
    for name, cell in [
        *(
            (words["modes"][mode] + words["again"].get(cell["recomputed"], ""), cell)
            for mode, cell in rates.items()
            if cell is not None
        ),
        *((cell["cell"], cell) for cell in peers),
    ]:
        rate, mfu, peak = cell["tokens_per_second"], cell.get("mfu"), cell.get("peak_gib")
        times = f"{mine['tokens_per_second'] / rate:.2f}×" if mine is not None and cell is not mine else ""
        lines.append([name, shown(rate), f"{mfu:.0%}" if mfu else "", f"{peak:.0f} GiB" if peak else "", times])
    where = f"{folder.relative_to(ROOT).as_posix()}/report.md" if folder.is_relative_to(ROOT) else "report.md"
    caption = words["caption"].format(caption_of(content), where)
    return f"{OPEN}\n{table(words['head'], lines)}\n\n<sub>{caption}</sub>\n{CLOSE}"


def main() -> None:
    for name in WORDS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        start, end = text.index(OPEN), text.index(CLOSE) + len(CLOSE)
        path.write_text(text[:start] + block(name, newest_folder()) + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
