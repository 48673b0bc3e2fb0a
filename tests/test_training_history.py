"""Histories: strict lines that know their sum, whatever a disk, a kill or a person makes of them."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import pytest

from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.files.windows import WINDOWS
from varlen_lab.training.history import History
from varlen_lab.training.trainer import train

META = {"mode": "varlen", "backend": "sdpa"}


def record(step: int, **others: object) -> dict[str, object]:
    return {
        "step": step,
        "loss": 1 / max(step, 1),
        "tokens": 30,
        "padded_tokens": 40,
        "seconds": 2.0,
        "lr": 1e-5,
        **others,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    history = History(META, path=tmp_path / "history.jsonl")
    history.start()
    for step in (1, 2, 3):
        history.add(record(step, samples=["räume"]))
    return tmp_path / "history.jsonl"


def test_a_line_ends_with_the_sum_of_what_stands_before(path: Path) -> None:
    for line in path.read_text().splitlines():
        value = json.loads(line)
        digits = value.pop("crc32")
        assert line == json.dumps(value)[:-1] + f', "crc32": "{digits}"}}'
        assert digits == f"{zlib.crc32(json.dumps(value).encode()):08x}"
    assert History.read(path).records == [record(step, samples=["räume"]) for step in (1, 2, 3)]
    assert History.read(path).meta == META


def test_every_flipped_bit_is_found_and_its_line_is_named(path: Path) -> None:
    """All but those of the file's last line feed, without which the last line is whole all the same."""
    body = path.read_bytes()
    for place in range(len(body)):
        path.write_bytes(body[:place] + bytes([body[place] ^ 1 << place % 8]) + body[place + 1 :])
        line = body[:place].count(b"\n") + 1
        with pytest.raises(InputError, match=rf"history\.jsonl(:{line} | is no UTF-8| does not begin| has the format)"):
            History.read(path)


def test_only_a_last_line_may_be_cut(path: Path) -> None:
    body = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(body) if byte == 10]
    for size in range(ends[0], len(body) + 1):
        path.write_bytes(body[:size])
        whole = sum(end - 1 <= size for end in ends) - 1  # a line is there when all but its line feed is
        assert len(History.read(path).records) == whole
    path.write_bytes(body[: ends[1] - 9] + body[ends[1] - 1 :])
    with pytest.raises(InputError, match=r"history\.jsonl:2 is damaged"):
        History.read(path)


CRAFTED = {
    "no UTF-8": b"\xff\xfe\x00",
    "empty": b"",
    "no line feed": b"{}",
    "a list": b"[]\n",
    "meta a list": b'{"meta": []}\n',
    "meta missing": b'{"step": 1}\n',
    "a format of text": b'{"meta": {"format": "3"}}\n',
    "a format of truth": b'{"meta": {"format": true}}\n',
    "a format of lists": b'{"meta": {"format": [3]}}\n',
    "a format to come": b'{"meta": {"format": 4}}\n',
    "a format without sums": b'{"meta": {"format": 3}}\n',
    "nested": b'{"meta": ' + b'{"a":' * 100_000 + b"\n",
    "a nested line": b'{"meta": {}}\n' + b"[" * 100_000 + b"\n",
    "a huge line": b'{"meta": {}}\n' + b"1" * 10**6 + b"\n",
    "no step": b'{"meta": {}}\n{"loss": 1.0}\n',
    "a step of text": b'{"meta": {}}\n{"step": "1", "loss": 1, "tokens": 1, "padded_tokens": 1, "seconds": 1}\n',
    "a step of truth": b'{"meta": {}}\n{"step": true, "loss": 1, "tokens": 1, "padded_tokens": 1, "seconds": 1}\n',
    "a negative step": b'{"meta": {}}\n{"step": -1, "loss": 1, "tokens": 1, "padded_tokens": 1, "seconds": 1}\n',
    "a loss of text": b'{"meta": {}}\n{"step": 1, "loss": "x", "tokens": 1, "padded_tokens": 1, "seconds": 1}\n',
    "a number of 400 digits": b'{"meta": {}}\n{"step": 1, "loss": 1, "tokens": 1'
    + b"0" * 400
    + b', "padded_tokens": 1, '
    b'"seconds": 1}\n',
    "no tokens": b'{"meta": {}}\n{"step": 1, "loss": 1}\n',
    "samples of a number": b'{"meta": {}}\n{"step": 1, "loss": 1, "tokens": 1, "padded_tokens": 1, "seconds": 1, '
    b'"samples": 3}\n',
    "no step at all": b'{"meta": {}}\n3\n',
    "an empty line": b"\n\n\n",
}


@pytest.mark.parametrize("body", CRAFTED.values(), ids=CRAFTED.keys())
def test_a_crafted_history_is_one_sentence(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "history.jsonl").write_bytes(body)
    with pytest.raises(InputError, match=r"history\.jsonl"):
        History.read(tmp_path / "history.jsonl")


@pytest.mark.parametrize("order", [(2, 1), (1, 1), (1, 2, 2), (0, 1)])
def test_steps_come_in_their_order_and_once(tmp_path: Path, order: tuple[int, ...]) -> None:
    history = History(META, path=tmp_path / "history.jsonl")
    history.start()
    for step in order:
        history.add(record(step, loss=1.0))
    with pytest.raises(InputError, match=r"history\.jsonl:\d has step \d after step \d; put it back"):
        History.read(tmp_path / "history.jsonl")


def test_a_history_that_is_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").mkdir()
    with pytest.raises(InputError, match=r"history\.jsonl"):
        History.read(tmp_path / "history.jsonl")
    with pytest.raises(InputError, match=r"history\.jsonl"):
        History({}, path=tmp_path / "history.jsonl").start()


def test_what_is_no_number_is_null_in_the_file_and_comes_back_as_nan(tmp_path: Path) -> None:
    history = History({"speed": math.inf}, path=tmp_path / "history.jsonl")
    history.start()
    history.add(record(1, loss=math.nan, norms=[math.inf, 1.0]))

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines[0]["meta"]["speed"] is None and lines[1]["loss"] is None and lines[1]["norms"] == [None, 1.0]
    again = History.read(tmp_path / "history.jsonl")
    assert math.isnan(again.losses[0])
    text = (tmp_path / "history.jsonl").read_text()
    sentence = r"history\.jsonl:2 is "
    (tmp_path / "history.jsonl").write_text(text.replace('"loss": null', '"loss": NaN'))
    with pytest.raises(InputError, match=sentence):
        History.read(tmp_path / "history.jsonl")


def test_earlier_histories_have_no_sums_and_say_nan(tmp_path: Path) -> None:
    lines = [{"meta": {"format": 2, **META}}, record(1, loss=math.nan), record(2)]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = History.read(tmp_path / "history.jsonl")
    assert math.isnan(again.losses[0]) and again.losses[1] == 0.5 and again.meta == META


@pytest.mark.skipif(WINDOWS, reason="there is no limit to the size of a file")
def test_a_full_disk_leaves_no_half_line_to_be_glued_to_the_next(path: Path) -> None:
    import resource

    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    history = History.read(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, limits[1]))  # 40 bytes of the next line fit
    try:
        with pytest.raises(InputError, match=r"history\.jsonl could not be written .*make room"):
            history.add(record(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    history.add(record(5))
    assert [one["step"] for one in History.read(path).records] == [1, 2, 3, 5]


def test_a_history_that_lacks_steps_of_its_checkpoint_is_said(
    small: Config, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Lines that are gone whole leave no trace in those that stay: the checkpoint knows how many there were."""
    config = small.with_mode("varlen").replace(max_steps=2, save_steps=1, work_dir=str(tmp_path / "w"))
    train(config, progress=False)
    (tmp_path / "w" / "iter_2.pth").unlink()
    path = tmp_path / "w" / "history.jsonl"
    whole = path.read_text()
    for lines, said in ((3, False), (1, True)):
        path.write_text("".join(whole.splitlines(keepends=True)[:lines]))
        recwarn.clear()
        train(config, progress=False, resume=True)
        (tmp_path / "w" / "iter_2.pth").unlink()
        assert any("had 0 steps and" in str(one.message) for one in recwarn) is said


def test_the_half_written_copy_of_a_config_is_gone_after_the_next_run(small: Config, tmp_path: Path) -> None:
    """A kill left it under the name of this run's config, whatever signs are in that; other drafts stay."""
    config = small.replace(name="c[1]", max_steps=1, work_dir=str(tmp_path / "w"))
    (tmp_path / "w").mkdir()
    left, other = (tmp_path / "w" / f".{name}-0123456789ab.partial" for name in ("c[1].py", "mine.py"))
    left.write_text("half")
    other.write_text("half")
    train(config, progress=False)
    assert not left.exists() and other.exists()
