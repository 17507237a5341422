"""Groups of users and coverage, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recbole_qbert.evaluation.groups import BY_HISTORY, BY_TARGET, coverage, means_by_group
from recbole_qbert.evaluation.ranking import Ranks


def test_the_groups_meet_and_do_not_overlap() -> None:
    counts = np.arange(0, 60)
    for kinds, start in ((BY_TARGET, 0), (BY_HISTORY, 1)):
        member = np.stack([kind.rows(counts) for kind in kinds])
        assert (member.sum(axis=0)[start:] == 1).all()
    assert [kind.name for kind in BY_TARGET] == ["never", "1-5", "6-20", "over 20"]
    assert [kind.name for kind in BY_HISTORY] == ["1-5", "6-10", "11-20", "over 20"]


def test_means_by_hand() -> None:
    """Ranks 1, 3, 11, 2, 1 of targets that occur 0, 5, 1, 6 and 20 times; none occurs more."""
    raw = np.array([1, 3, 11, 2, 1])
    ranks = Ranks(np.arange(5), raw, raw[::-1])
    counts = np.array([0, 5, 1, 6, 20])
    assert means_by_group("hit@10", ranks, counts, BY_TARGET) == [1.0, 0.5, 1.0, None]
    found = means_by_group("ndcg@10", ranks, counts, BY_TARGET)
    assert found[:3] == pytest.approx([1.0, 0.25, (1 / math.log2(3) + 1) / 2])
    assert means_by_group("unseen_hit@10", ranks, counts, BY_TARGET) == [1.0, 0.5, 1.0, None]
    assert means_by_group("unseen_hit@1", ranks, counts, BY_TARGET) == [1.0, 0.0, 0.5, None]


def test_coverage_by_hand() -> None:
    """Items 1, 2, 3 and 7 of ten; 0 is no item."""
    assert coverage(np.array([[1, 2, 3], [2, 7, 0]]), 10) == 0.4
    assert coverage(np.zeros((4, 3), dtype=int), 10) == 0.0
