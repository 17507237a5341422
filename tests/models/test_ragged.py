"""Rows of like length, and from packed to padded, against plain Python."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_qbert.common.ragged import by_length, pad_rows, rows_of_like_length


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 70), min_size=1, max_size=40))
def test_rows_of_like_length(lengths: list[int]) -> None:
    """Each row once, shorter groups first, no row half as short as another of its group."""
    groups = [rows.tolist() for rows in rows_of_like_length(torch.tensor(lengths))]
    assert sorted(row for rows in groups for row in rows) == list(range(len(lengths)))
    longest = 0
    for rows in groups:
        own = [lengths[row] for row in rows]
        assert rows == sorted(rows)
        assert min(own) > longest or longest == 0
        assert max(own) < 2 * max(1, min(own))
        longest = max(own)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 70), min_size=1, max_size=40))
def test_results_by_length_are_in_the_order_of_the_rows(lengths: list[int]) -> None:
    groups: list[list[int]] = []

    def of_rows(rows: torch.Tensor) -> torch.Tensor:
        groups.append(rows.tolist())
        return torch.stack([rows, rows * 2], dim=1)

    found = by_length(torch.tensor(lengths), of_rows)
    assert found.tolist() == [[row, 2 * row] for row in range(len(lengths))]
    assert groups == [rows.tolist() for rows in rows_of_like_length(torch.tensor(lengths))]


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=8))
def test_pad_rows_against_a_loop(lengths: list[int]) -> None:
    packed = torch.arange(2.0 * sum(lengths)).view(-1, 2) + 1
    real = torch.arange(6) < torch.tensor(lengths).unsqueeze(1)
    padded, taken = pad_rows(packed, real), 0
    for row, length in enumerate(lengths):
        assert torch.equal(padded[row, :length], packed[taken : taken + length])
        assert not padded[row, length:].any()
        taken += length
