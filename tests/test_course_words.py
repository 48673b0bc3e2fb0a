"""Words and shares that lesson 00 shows."""

from __future__ import annotations

import torch
from expect import refused

from varlen_lab.course import moved, next_word, next_words


class Letters:
    """A tokenizer of one letter a token."""

    def decode(self, ids: list[int]) -> str:
        return "".join(" abc"[number] for number in ids)


def test_next_words_are_a_table_of_words_and_chances() -> None:
    logits = torch.log(torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.05, 0.7, 0.2, 0.05]]))
    table = next_words({"alone": logits, "packed": logits[0]}, Letters(), count=2)
    assert table.loc["alone"].tolist() == ["a, 70 %", "b, 20 %"]
    assert table.loc["packed"].iloc[0] == "(space), 97 %"
    assert next_word(logits, Letters()) == "a"


def test_equal_bits_move_by_exactly_nothing_and_shares_are_counted() -> None:
    before = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    after = torch.log(torch.tensor([[0.5, 0.5], [0.6, 0.4]]))
    shares = moved(before, after)
    assert shares[0] == 0 and abs(shares[1] - 0.3) < 1e-6
    with refused("token by token"):
        moved(before, after[:1])
