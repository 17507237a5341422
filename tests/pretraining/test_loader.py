"""Balanced batches: chances by hand, every user once, exact resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from two_domains import Toys, make_toys  # noqa: F401

from recbole_qbert.pretraining.corpus import FieldNames
from recbole_qbert.pretraining.loader import TrainingBatches, domain_weights, valid_users

NAMES = FieldNames("items", "length", "target")


def batches(toys: Toys, names: str = "AB", **settings: object) -> TrainingBatches:
    given = {"batch_size": 4, "length": 8, "balance": 0.5, "steps": None, "seed": 1} | settings
    return TrainingBatches(toys.corpus(names), NAMES, **given)  # type: ignore[arg-type]


def test_weights_by_hand() -> None:
    assert domain_weights([9, 1], 1.0).tolist() == pytest.approx([0.9, 0.1])
    assert domain_weights([9, 1], 0.5).tolist() == pytest.approx([0.75, 0.25])
    assert domain_weights([9, 1], 0.0).tolist() == pytest.approx([0.5, 0.5])


def test_an_epoch_of_one_domain_has_each_user_once(toys: Toys) -> None:
    loader = batches(toys, "A")
    users = toys.corpus("A").parts[0].users
    assert len(loader) == int(np.ceil(len(users) / 4))
    rows = [batch for batch in loader]
    targets = torch.cat([batch["target"] for batch in rows])[: len(users)]
    everyone = toys.corpus("A").batch(0, users, 1, 8, NAMES)["target"]
    assert sorted(targets.tolist()) == sorted(everyone.tolist())


def test_domains_are_drawn_by_their_weights(toys: Toys) -> None:
    for balance in (0.0, 1.0):
        loader = batches(toys, steps=2000, balance=balance)
        drawn = [int(batch["domain"][0]) for batch in loader]
        share = drawn.count(1) / len(drawn)
        assert share == pytest.approx(float(loader.weights[1]), abs=0.04)


def test_batches_hold_one_domain_and_full_size(toys: Toys) -> None:
    for batch in batches(toys, steps=30):
        assert len(batch) == 4
        assert len(set(batch["domain"].tolist())) == 1


def test_a_batch_is_no_larger_than_its_domain(toys: Toys) -> None:
    n_users = len(toys.corpus("B").parts[0].users)
    for batch in batches(toys, "B", batch_size=1000, steps=3):
        assert len(batch) == n_users


def test_an_epoch_depends_on_the_generator_alone(toys: Toys) -> None:
    loader = batches(toys)
    list(loader)
    state = loader.generator.get_state()
    second = [batch["target"].tolist() for batch in loader]
    assert second != [batch["target"].tolist() for batch in batches(toys)]
    other = batches(toys, seed=99)
    other.generator.set_state(state)
    assert [batch["target"].tolist() for batch in other] == second


def test_valid_users_are_a_fixed_sample(toys: Toys) -> None:
    corpus = toys.corpus()
    some = valid_users(corpus, 5, seed=3)
    assert [len(each) for each in some] == [5, 5]
    for part, own, again in zip(corpus.parts, some, valid_users(corpus, 5, 3), strict=True):
        assert set(own) <= set(part.users)
        np.testing.assert_array_equal(own, again)
    everyone = valid_users(corpus, 0, seed=3)
    assert [list(each) for each in everyone] == [list(part.users) for part in corpus.parts]
