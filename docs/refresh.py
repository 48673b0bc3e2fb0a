"""Run the notebooks and keep their outputs in them, as readers see them on GitHub: ``make notebooks``.

    python docs/refresh.py              all of them and their twins, some twenty minutes on a CPU
    python docs/refresh.py 07 zh/07     these; zh: all twins

Cells, metadata and ids stay as they are; only outputs and execution counts are written. What would differ from run to
run, or tell of a machine, is not kept: bars, log lines of other libraries, the outputs of cells tagged ``machine``.
A notebook whose outputs would not do (a failing cell, words on stderr, a path of this machine, over 250 kB) stays as it
was, and the reason is said.
"""

from __future__ import annotations

import base64
import getpass
import io
import os
import re
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
LIMIT = 250_000  # bytes of a notebook
COLOURS = 32  # of a kept picture; our figures are flat colours
WIDGET = "application/vnd.jupyter.widget-view+json"
LOG_LINE = re.compile(r"^\[?\d{4}-\d\d-\d\d \d\d:\d\d.*\n?", re.MULTILINE)
STYLED = re.compile(r"T_[0-9a-f]{5}")  # pandas' name of a table, drawn at random
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def cleaned(kept: Any, executed: Any) -> Any:
    """``kept`` with the outputs of ``executed``: notebooks as nbformat reads them, their cells found by id."""
    again = {cell.id: cell for cell in executed.cells}
    count = 0
    for cell in kept.cells:
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = []
        if "machine" in cell.metadata.get("tags", []):
            continue
        for output in again[cell.id].outputs:
            output = clean_output(output, cell.id)
            if output is None:
                continue
            if "execution_count" in output:
                output.execution_count = count
            last = cell.outputs[-1] if cell.outputs else None
            if last and output.output_type == last.output_type == "stream" and output.name == last.name:
                last.text += output.text
            else:
                cell.outputs.append(output)
    for name in ("papermill", "widgets"):
        kept.metadata.pop(name, None)
    nbformat.validate(kept)
    return kept


def clean_output(output: Any, cell: str) -> Any:
    """One output as it is kept, or None; ``cell`` is the id of its cell."""
    if output.output_type == "stream":
        output.text = LOG_LINE.sub("", output.text.replace("\r\n", "\n"))
        return output if output.text else None
    data = output.get("data")
    if not data:
        return output
    if data.pop(WIDGET, None) is not None and set(data) <= {"text/plain"}:
        return None  # a bar, or controls without a kernel
    for kind, text in data.items():
        if isinstance(text, str) and kind.startswith("text/"):
            data[kind] = ADDRESS.sub("", STYLED.sub(f"T_{cell}", text))
    if "image/png" in data:
        data["image/png"] = few_colours(data["image/png"])
    return output


def few_colours(png: str) -> str:
    """A picture, base64 in and out, with a palette."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    small = io.BytesIO()
    small_palette = picture.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small_palette.save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode("ascii")


def unfit(notebook: Any) -> list[str]:
    """What in the outputs of a notebook must not be kept, a sentence each."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        where = f"cell [{cell.execution_count}]"
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{where} fails: {output.ename}: {output.evalue}")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"{where} writes to stderr, a pink box in JupyterLab: {output.text[:80]!r}")
            text = str(output.get("text", "")) + " ".join(
                str(text) for kind, text in output.get("data", {}).items() if not kind.startswith("image/")
            )
            found += [f"{where} tells of a machine: {word!r}" for word in of_a_machine(text)]
    size = len(nbformat.writes(notebook).encode())
    if size > LIMIT:
        found.append(f"it would have {size:,} bytes, at most {LIMIT:,} are kept")
    return found


def of_a_machine(text: str) -> list[str]:
    """Paths, names and dates in ``text`` that belong to one machine or one day."""
    here = (tempfile.gettempdir(), socket.gethostname(), str(FOLDER.parent), sys.prefix)
    words = {re.escape(word) for word in here if len(word) > 3}
    if getpass.getuser() != "root":
        words.add(re.escape(getpass.getuser()))
    patterns = [
        r"(?<![\w.])/(?:root|home|Users|tmp|usr|private|var)/[^\s'\"]*",
        r"\b[A-Z]:\\[^\s'\"]+",
        r"\b20[23]\d-[01]\d-[0-3]\d[ T]\d\d:\d\d",
        *(rf"\b{word}\b" if word[:1].isalnum() else word for word in words),
    ]
    return [found[0] for pattern in patterns for found in re.finditer(pattern, text)]


def refresh(path: Path, folder: Path) -> list[str]:
    """Run the notebook at ``path`` and keep its outputs; what is wrong with them, and then it is left as it was."""
    from varlen_lab.course import run_notebook
    from varlen_lab.files.writing import written_whole

    outcome = run_notebook(path, folder / path.name)
    print(f"{path.stem:<24} {outcome.seconds:6.1f} s", flush=True)
    if outcome.error:
        return [outcome.error]
    kept = cleaned(nbformat.read(path, as_version=4), nbformat.read(folder / path.name, as_version=4))
    if wrong := unfit(kept):
        return wrong
    with written_whole(path, "w") as file:
        nbformat.write(kept, file)
    return []


def main(words: list[str]) -> int:
    """Refresh the notebooks that ``words`` name by the beginning of their names, or all; 1 where one was left."""
    paths = [*sorted(FOLDER.glob("*.ipynb")), *sorted(FOLDER.glob("zh/*.ipynb"))]
    paths = [path for path in paths if not words or str(path.relative_to(FOLDER)).startswith(tuple(words))]
    wrong = 0
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "80"}  # as on any machine
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            for sentence in refresh(path, Path(folder)):
                print(f"  {path.name} is left as it was: {sentence}", file=sys.stderr)
                wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
