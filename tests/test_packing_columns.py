"""Columns beside input_ids: loss masks are honoured, padding and packed rows refused, everything else named."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from varlen_lab.errors import InputError
from varlen_lab.packing.columns import fold_in
from varlen_lab.packing.readers import PackedStream
from varlen_lab.packing.registry import IGNORE, LOSS_MASKS
from varlen_lab.packing.strategies import pack_dataset

MASK = st.lists(st.booleans(), min_size=1, max_size=9)


def packed(documents: list[dict[str, Any]], streamed: bool, max_length: int = 20, **options: Any) -> list[dict]:
    data = Dataset.from_list(documents)
    if streamed:
        return [
            {name: values.tolist() for name, values in row.items()}
            for row in pack_dataset(data.to_iterable_dataset(), max_length, **options)
        ]
    return pack_dataset(data, max_length, **options).to_list()


def trained(rows: list[dict]) -> set[int]:
    return {label for row in rows for label in row["labels"]} - {IGNORE}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", [int, bool])
def test_the_hand_worked_masks(streamed: bool, kind: type) -> None:
    documents = [
        {"input_ids": [1, 2, 3, 4], "assistant_masks": [1, 0, 1, 1], "completion_mask": [0, 0, 0, 1]},
        {"input_ids": [5], "assistant_masks": [1], "completion_mask": [1]},
        {"input_ids": [6, 7], "assistant_masks": [0, 1], "completion_mask": [1, 1]},
    ]
    for document in documents:
        document.update({name: [kind(value) for value in document[name]] for name in LOSS_MASKS[:2]})
    rows = packed(documents, streamed)
    assert trained(rows) == {4, 7}  # both masks, and no document's first token
    assert sum(map(len, (row["input_ids"] for row in rows))) == 7  # what is masked is read all the same


@pytest.mark.parametrize("streamed", [False, True])
@given(st.lists(st.tuples(MASK, MASK), min_size=1, max_size=6), st.sampled_from(["split", "truncate"]))
@settings(max_examples=15, deadline=None)
def test_a_mask_is_labels_with_its_zeros_away(streamed: bool, masks: list[Any], overlong: str) -> None:
    """Columns of masks and the labels that they mean give the same rows, cut or not."""
    told, meant, next_token = [], [], 1
    for assistant, completion in masks:
        length = min(len(assistant), len(completion))
        ids = list(range(next_token, next_token + length))
        next_token += length
        first, second = assistant[:length], completion[:length]
        told.append({"input_ids": ids, "assistant_masks": first, "completion_mask": second})
        labels = [token if a and b else IGNORE for token, a, b in zip(ids, first, second)]
        meant.append({"input_ids": ids, "labels": labels})
    assert packed(told, streamed, 5, overlong=overlong) == packed(meant, streamed, 5, overlong=overlong)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", LOSS_MASKS)
def test_labels_and_a_mask_are_both_kept(streamed: bool, name: str) -> None:
    rows = packed([{"input_ids": [1, 2, 3, 4], "labels": [1, 2, -100, 4], name: [1, 0, 1, 1]}], streamed)
    assert trained(rows) == {4}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "columns, said",
    [
        ({"assistant_masks": [1, 1]}, "3 input_ids and 2 assistant_masks"),
        ({"completion_mask": [1, 2, 1]}, "completion_mask holds 2"),
        ({"labels": [1, 2]}, "3 input_ids and 2 labels"),
        ({"attention_mask": [1, 1, 0]}, "attention_mask is 0 on padding"),
        ({"seq_lengths": [2, 1]}, "have seq_lengths, so they are packed rows already"),
        ({"cu_seqlens": [0, 2, 3]}, "have cu_seqlens, so they are packed rows already"),
    ],
)
def test_what_cannot_be_honoured_is_one_sentence(streamed: bool, columns: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        packed([{"input_ids": [1, 2, 3], **columns}], streamed)


def test_a_document_of_a_stream_without_its_mask() -> None:
    with pytest.raises(InputError, match="document 1 has 2 input_ids and 0 assistant_masks"):
        list(
            PackedStream(
                [{"input_ids": [1], "assistant_masks": [1]}, {"input_ids": [1, 2], "assistant_masks": None}], 9
            )
        )


@pytest.mark.parametrize(
    "document, said",
    [
        ({"input_ids": [1, 2**31]}, "document 1 has input_ids up to 2147483648, a token is at most 2147483647"),
        ({"input_ids": [1, 2], "labels": [1, 2**32 + 5]}, "document 1 has labels up to 4294967301"),
        ({"input_ids": None}, "document 1 has input_ids that are None"),
        ({"input_ids": "abc"}, "document 1 has input_ids that are 'abc'"),
        ({"input_ids": [[1, 2]]}, "document 1 has input_ids that are not flat"),
        ({"input_ids": [[1, 2], [3]]}, "document 1 has input_ids that are"),
        ({"input_ids": [1, 2], "loss_mask": ["1", "0"]}, "document 1 has loss_mask that are of <U1"),
        ({"input_ids": [1, 2], "loss_mask": [[1, 0]]}, "document 1 has loss_mask that are not flat"),
        ({"input_ids": [1, 2], "loss_mask": [0.5, 1]}, "loss_mask holds 0.5"),
        ({"input_ids": [1, 2], "loss_mask": [None, 1]}, "document 1 has loss_mask that are of object"),
        ({"input_ids": []}, "has 0 input_ids and 0 labels, it needs equally many, at least 1"),
    ],
)
def test_what_a_document_of_a_stream_may_not_hold(document: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        list(PackedStream([{"input_ids": [1]}, document], 9))


@pytest.mark.parametrize("name", ["labels", *LOSS_MASKS])
@pytest.mark.parametrize("left", ["out", "None"])
def test_a_stream_does_not_train_all_of_a_document_that_lost_its_mask(name: str, left: str) -> None:
    masked: dict[str, Any] = {"input_ids": [1, 2], name: [0, 1]}
    with pytest.raises(InputError, match=f"document 1 has 2 input_ids and 0 {name}, they must be equally long"):
        list(PackedStream([masked, {"input_ids": [1, 2]} | ({name: None} if left == "None" else {})], 9))


@pytest.mark.parametrize("streamed", [False, True])
def test_other_columns_are_named_once(streamed: bool) -> None:
    documents = [{"input_ids": [1, 2], "attention_mask": [1, 1], "text": "a", "length": 2}] * 3
    with pytest.warns(UserWarning, match="text, length of the documents are left behind") as warned:
        packed(documents, streamed)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed([{"input_ids": [1, 2], "attention_mask": [1, 1], "labels": [1, 2]}], streamed)


def test_a_cached_file_of_one_mask_is_not_opened_for_another(tmp_path: Any) -> None:
    found = []
    for mask in ([1, 1, 1], [1, 0, 1]):
        Dataset.from_dict({"input_ids": [[1, 2, 3]], "loss_mask": [mask]}).save_to_disk(str(tmp_path / str(mask[1])))
        data = Dataset.load_from_disk(str(tmp_path / str(mask[1])))
        found.append(trained(pack_dataset(data, 9, cache_dir=tmp_path / "packed").to_list()))
    assert found == [{2, 3}, {3}]


def test_the_records_of_masks_are_checked_by_value() -> None:
    import numpy as np

    labels = np.array([5, 6])
    with pytest.raises(InputError, match=r"loss_mask holds 0\.5"):
        fold_in("loss_mask", np.array([0.5, 1.0]), labels)


def test_the_masks_mean_what_trl_makes_of_them(tmp_path: Any) -> None:
    """The labels that SFTTrainer builds from both masks, but for first tokens, which nothing could predict."""
    trl = pytest.importorskip("trl", reason="TRL is not installed; pip install trl", exc_type=ImportError)
    from varlen_lab.documents.builtin import builtin_tokenizer
    from varlen_lab.models.building import tiny

    masks = [([1, 0, 1, 1], [0, 0, 1, 1]), ([1, 1], [0, 1]), ([0, 1, 1], [1, 1, 0])]
    documents = Dataset.from_list(
        [
            {
                "input_ids": [10 * number + at for at in range(len(first))],
                "assistant_masks": first,
                "completion_mask": second,
            }
            for number, (first, second) in enumerate(masks, 1)
        ]
    )
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path), completion_only_loss=True, bf16=False, use_cpu=True, report_to=[]
    )
    trainer = trl.SFTTrainer(tiny("llama"), arguments, train_dataset=documents, processing_class=builtin_tokenizer())
    theirs = [[IGNORE, *row["labels"][1:]] for row in trainer.train_dataset]
    assert (
        pack_dataset(documents, 20, "unpacked")["labels"][:]
        == theirs
        == [[-100, -100, 12, 13], [-100, 21], [-100, 31, -100]]
    )
