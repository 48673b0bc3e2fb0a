"""From documents to batches: tokens survive, labels never cross a seam, and all collators train on the same."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from varlen_lab.errors import InputError
from varlen_lab.packing.collators import PackedCollator, PaddedCollator, VarlenCollator
from varlen_lab.packing.strategies import pack_dataset

DOCUMENTS = st.lists(st.integers(1, 30), min_size=1, max_size=25)


def dataset(lengths: list[int], labels: bool = True) -> Dataset:
    """Documents whose every token is unique, so that it can be followed."""
    ids, first = [], 0
    for length in lengths:
        ids.append(list(range(first, first + length)))
        first += length
    columns = {"input_ids": ids}
    if labels:
        columns["labels"] = [[-100 if token % 3 == 0 else token for token in document] for document in ids]
    return Dataset.from_dict(columns)


@given(DOCUMENTS, st.integers(30, 60), st.booleans())
@settings(max_examples=40)
def test_every_token_arrives_once_and_no_label_crosses(lengths: list[int], max_length: int, labels: bool) -> None:
    documents = dataset(lengths, labels)
    rows = pack_dataset(documents, max_length)
    assert rows.column_names == ["input_ids", "labels", "seq_lengths"]
    assert sorted(token for row in rows for token in row["input_ids"]) == list(range(sum(lengths)))
    firsts = {document[0] for document in documents["input_ids"]}
    for row in rows:
        assert sum(row["seq_lengths"]) == len(row["input_ids"]) == len(row["labels"]) <= max_length
        for token, label in zip(row["input_ids"], row["labels"]):
            masked = token in firsts or (labels and token % 3 == 0)
            assert label == (-100 if masked else token)


def test_a_hand_worked_row() -> None:
    rows = pack_dataset(Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5]]}), 8)
    assert rows[0] == {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, 3, -100, 5], "seq_lengths": [3, 2]}


def test_concat_cuts_are_seams_too() -> None:
    rows = pack_dataset(Dataset.from_dict({"input_ids": [[1, 2, 3, 4, 5]]}), 3, "concat")
    assert [row["labels"] for row in rows] == [[-100, 2, 3], [-100, 5]]


@given(DOCUMENTS)
@settings(max_examples=30)
def test_rows_in_one_batch_equal_one_longer_row(lengths: list[int]) -> None:
    """Two rows of 2k are one row of 4k: flattening makes batch size a matter of taste."""
    documents = dataset(lengths)
    apart = VarlenCollator()(list(pack_dataset(documents, 30, "unpacked")))
    together = VarlenCollator()(list(pack_dataset(documents, sum(lengths), "concat")))
    assert apart.keys() == together.keys()
    assert all(torch.equal(torch.as_tensor(apart[k]), torch.as_tensor(together[k])) for k in apart)


def test_a_hand_worked_batch() -> None:
    rows = list(pack_dataset(Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5], [6]]}), 5))
    batch = VarlenCollator()(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100, 5, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 6] and batch["cu_seq_lens_q"].dtype == torch.int32
    assert batch["max_length_q"] == batch["max_length_k"] == 3 and isinstance(batch["max_length_q"], int)


@given(DOCUMENTS)
@settings(max_examples=30)
def test_all_collators_train_on_the_same_tokens(lengths: list[int]) -> None:
    rows = list(pack_dataset(dataset(lengths), 40))
    batches = [VarlenCollator()(rows), PackedCollator()(rows), PaddedCollator()(rows)]
    trained = [sorted(batch["labels"][batch["labels"] != -100].tolist()) for batch in batches]
    assert trained[0] == trained[1] == trained[2]
    padded = batches[2]
    assert padded["input_ids"].shape == (len(lengths), max(lengths))
    assert padded["attention_mask"].sum(-1).tolist() == [n for row in rows for n in row["seq_lengths"]]


def test_padding_is_one_inert_segment() -> None:
    row = pack_dataset(Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5]]}), 5)[0]
    batch = VarlenCollator(pad_to_multiple_of=8, pad_token_id=9)([row])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 9, 9, 9]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 8]
    assert batch["labels"][0, 5:].tolist() == [-100] * 3
    exact = VarlenCollator(pad_to_multiple_of=5)([row])
    assert exact["cu_seq_lens_q"].tolist() == [0, 3, 5]


def test_the_number_of_each_tokens_document_comes_when_asked() -> None:
    from varlen_lab.models.building import tiny

    rows = [{"input_ids": [5, 6, 7, 8], "seq_lengths": [3, 1]}, {"input_ids": [9, 10], "seq_lengths": [2]}]
    assert "seq_idx" not in VarlenCollator()(rows)
    batch = VarlenCollator(return_seq_idx=True)(rows)
    assert batch["seq_idx"].tolist() == [[0, 0, 0, 1, 2, 2]] and batch["seq_idx"].dtype == torch.int32
    padded = VarlenCollator(return_seq_idx=True, keep_rows=True)(rows)
    assert padded["seq_idx"].tolist() == [[0, 0, 0, 1], [2, 2, 3, 3]]
    model = tiny("llama")
    assert torch.equal(model(**batch).logits, model(**VarlenCollator()(rows)).logits)


@pytest.mark.parametrize("collate", [VarlenCollator(), PackedCollator(), PaddedCollator()])
def test_a_row_that_was_cut_names_trls_setting(collate) -> None:
    row = {"input_ids": [1, 2, 3], "labels": [1, 2, 3], "seq_lengths": [3, 2]}
    with pytest.raises(InputError, match=r"SFTConfig\(max_length=None\)"):
        collate([row])


def test_a_row_without_seams_names_the_trainers_setting() -> None:
    with pytest.raises(InputError, match="remove_unused_columns=False"):
        VarlenCollator()([{"input_ids": [1], "labels": [1]}])


def test_bad_datasets_are_one_sentence() -> None:
    with pytest.raises(InputError, match="did you mean 'input_id'"):
        pack_dataset(Dataset.from_dict({"input_id": [[1]]}), 8)
    with pytest.raises(InputError, match="no documents"):
        pack_dataset(dataset([1]).select([]), 8)
    with pytest.raises(InputError, match="document 1 has length 0"):
        pack_dataset(Dataset.from_dict({"input_ids": [[1], []]}), 8)
    with pytest.raises(InputError, match="equally long"):
        pack_dataset(Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[1]]}), 8)


def test_a_selected_and_shuffled_dataset_packs_what_it_shows() -> None:
    documents = dataset([3, 4, 5, 6]).shuffle(seed=0).select([0, 2])
    rows = pack_dataset(documents, 16)
    assert sorted(t for row in rows for t in row["input_ids"]) == sorted(t for d in documents["input_ids"] for t in d)
