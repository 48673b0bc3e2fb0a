"""Compressed files, tables with tabs, Arrow: the same dialogues; what breaks off says up to where it was read."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from varlen_lab.cli import main
from varlen_lab.documents.reading import read_dialogues
from varlen_lab.documents.sources import ending_of, locate
from varlen_lab.errors import InputError

DIALOGUE = [{"role": "user", "content": "2+2? é"}, {"role": "assistant", "content": "4"}]
LINE = json.dumps({"messages": DIALOGUE}, ensure_ascii=False) + "\n"


def zstd(content: bytes) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS = {".gz": gzip.compress, ".zst": zstd}


@pytest.mark.parametrize("packed", COMPRESS)
def test_a_compressed_file_is_read_as_the_file_in_it(packed: str, tmp_path: Path) -> None:
    for name, content in (
        ("a.jsonl", LINE * 3),
        ("a.JSON", f"[{LINE},{LINE},{LINE}]"),
        ("a.b.csv", 'question,answer\n"2+2? é",4\n' + '"2+2? é",4\n' * 2),
        ("a.tsv", "question\tanswer\n" + "2+2? é\t4\n" * 3),
        ("mark.jsonl", "\ufeff" + LINE * 3),
    ):
        path = tmp_path / (name + packed)
        path.write_bytes(COMPRESS[packed](content.encode()))
        assert read_dialogues(path, progress=False).dialogues == [DIALOGUE] * 3
        assert locate(str(path)) == ("file", path) and ending_of(path).endswith(packed)


@pytest.mark.parametrize("packed", COMPRESS)
def test_a_compressed_file_that_breaks_off_says_where(packed: str, tmp_path: Path) -> None:
    noise = random.Random(0)
    lines = [json.dumps({"question": str(noise.random()), "answer": str(noise.random())}) for _ in range(9000)]
    whole = COMPRESS[packed]("\n".join(lines).encode())
    path = tmp_path / f"cut.jsonl{packed}"
    path.write_bytes(whole[: len(whole) // 2])
    for skip_bad in (False, True):
        with pytest.raises(InputError, match=rf"cut\.jsonl{packed} breaks off or is damaged behind line \d{{4}} "):
            read_dialogues(path, skip_bad=skip_bad, progress=False)
    path.write_bytes(b"no such thing")
    with pytest.raises(InputError, match="damaged at its beginning"):
        read_dialogues(path, progress=False)
    path.write_bytes(COMPRESS[packed](LINE.encode("utf-16")))
    with pytest.raises(InputError, match="not UTF-8"):
        read_dialogues(path, progress=False)


def test_tabs_part_cells_and_a_bad_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('question\tanswer\n2, and 2?\t4\n"two\nlines"\t"a\ttab"\na\tb\tc\n')
    reading = read_dialogues(path, skip_bad=True, progress=False)
    assert [[m["content"] for m in one] for one in reading.dialogues] == [["2, and 2?", "4"], ["two\nlines", "a\ttab"]]
    assert reading.skipped == [f"{path}:5: the row has 3 cells, there are 2 column names; quote the separators"]


def test_arrow_files_and_streams_are_read(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist([{"question": "2+2? é", "answer": "4", "id": number} for number in range(1500)])
    for name, writer in (("file.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        path = tmp_path / name
        with writer(str(path), table.schema) as file:
            file.write_table(table, max_chunksize=1200)
        reading = read_dialogues(path, progress=False)
        assert reading.dialogues == [DIALOGUE] * 1500 and reading.counted == {"id": 1500}
        assert reading.dialogues[-1].place == f"{path}, record 1500"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(InputError, match=r"stream\.arrow is no readable Arrow file"):
        read_dialogues(path, progress=False)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.zip", "unpack it"),
        ("a.tar.gz", "unpack it"),
        ("a.xlsx", "save it as .csv"),
        ("a.jsonl.bz2", "compress it with gzip"),
        ("a.gz", "rename it"),
        ("a.parquet.gz", "rename it"),
        ("a.txt", "dataset_map_fn = 'pretrain'"),
    ],
)
def test_another_ending_gets_the_right_advice(name: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError) as caught:
        read_dialogues(tmp_path / name, progress=False)
    assert advice in str(caught.value) and name in str(caught.value)


def test_the_commands_know_compressed_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(LINE.encode()))
    assert main(["check-custom-dataset", str(path)]) == 0
    assert "1 good record, 0 bad" in capsys.readouterr().out
