"""Records that lie in columns, one at a time: Parquet and Arrow files, a saved dataset folder, a dataset of the hub.

As in ``formats``, a row that cannot be read comes as a ``BadRecord`` in its place, and reading goes on behind it; only
a file whose next rows cannot be had ends in an InputError.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varlen_lab.documents.dialogues import BadRecord
from varlen_lab.documents.reading import Records
from varlen_lab.documents.sources import BUILTIN, Position, similar_name
from varlen_lab.errors import InputError, first_line
from varlen_lab.files.reading import refuse_pipe

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_AT_ONCE = 1000  # of a file, in memory together
BUFFER_BYTES = 1 << 20  # of a column of a Parquet file


def parquet_records(path: Path, at: Position | None = None) -> Records:
    """(place, record) of every row behind the position; InputError for a file that is damaged.

    A thousand rows are in memory at a time. Row groups that lie before the position are not read.
    """
    import pyarrow.parquet as pq

    def batches(skip: int) -> Iterator[Any]:
        # without a buffer a column is read for a whole row group at once, and one may be the whole file
        with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            groups = range(file.num_row_groups)
            while groups and (rows := file.metadata.row_group(groups[0]).num_rows) <= skip:
                groups, skip = groups[1:], skip - rows
            if groups:
                yield from without_first(file.iter_batches(ROWS_AT_ONCE, row_groups=groups), skip)

    at = at or Position()
    return rows_at(path, batches(at.record), "Parquet", at)


def arrow_records(path: Path, at: Position | None = None) -> Records:
    """(place, record) of every row of an Arrow file or stream behind the position; or InputError.

    As ``datasets`` keeps them. It is read and not mapped: mapped pages count as memory of the process.
    """
    import pyarrow as pa

    def batches() -> Iterator[Any]:
        with pa.OSFile(str(path)) as file:
            try:
                reader = pa.ipc.open_stream(file)
            except pa.ArrowInvalid:
                whole = pa.ipc.open_file(file)
                reader = map(whole.get_batch, range(whole.num_record_batches))
            for batch in reader:
                batch.validate(full=True)  # or offsets that point nowhere would be followed, out of this memory
                for start in range(0, len(batch), ROWS_AT_ONCE):
                    yield batch.slice(start, ROWS_AT_ONCE)

    at = at or Position()
    return rows_at(path, without_first(batches(), at.record), "Arrow", at)


def without_first(batches: Iterator[Any], skip: int) -> Iterator[Any]:
    """The record batches without their first ``skip`` rows."""
    for batch in batches:
        if skip < len(batch):
            yield batch.slice(skip)
        skip = max(0, skip - len(batch))


def rows_at(path: Path, batches: Iterator[Any], kind: str, at: Position) -> Records:
    """(place, record) of every row of these record batches, which lie behind the position; it moves along.

    InputError where the next cannot be had.
    """
    try:
        for batch in batches:
            for record in rows_of(batch):
                at.record += 1
                yield f"{path}, record {at.record}", record
    # whoever reads has seen enough and closes us: no fault of the file
    except GeneratorExit:
        raise
    except Exception as error:  # what a damaged file raises depends on where the damage is
        after = f" after record {at.record}" if at.record else ""
        raise InputError(f"{path} is no readable {kind} file{after} ({first_line(error)}); write it again.") from None


def rows_of(batch: Any) -> Iterator[Any]:
    """The rows of a record batch as dicts; one that holds what Python has no value for is a BadRecord."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # a text that is not UTF-8, a date after the year 9999
        for number in range(len(batch)):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except (ValueError, OverflowError) as error:
                yield BadRecord(f"the row cannot be read ({first_line(error)})")


def saved_dataset(path: Path) -> Dataset:
    """The dataset, or its ``train`` split, that ``save_to_disk`` wrote into a folder."""
    from datasets import DatasetDict, load_from_disk

    for file in (*path.glob("*.arrow"), *path.glob("*/*.arrow")):
        refuse_pipe(file, "write the folder again with Dataset.save_to_disk")
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
    check_columns(dataset, f"{path} is a damaged dataset", "write it again")
    return dataset.with_format(None)  # it keeps the format that somebody gave it: tensors


def check_columns(dataset: Dataset, what: str, instead: str) -> None:
    """InputError for a dataset that is mapped and damaged: offsets that point nowhere would be followed by Arrow."""
    try:
        for batch in dataset.data.table.to_batches():
            batch.validate(full=True)
    except Exception as error:  # pyarrow has several kinds
        raise InputError(f"{what} ({first_line(error)}); {instead}.") from None


def hub_dataset(name: str) -> Dataset:
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
            + (similar_name(Path(name)) or f"; check the name and the network, or use {BUILTIN}.")
        ) from None
    finally:
        config.HF_HUB_OFFLINE = before
    check_columns(dataset, f"the copy of {name} that datasets keeps here is damaged", "delete it, and load it anew")
    return dataset
