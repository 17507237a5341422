"""The popularity control against a plain count."""

from __future__ import annotations

from collections import Counter

import torch
from conftest import N_ITEMS, Tiny, fitted, scores

from recbole_qbert.models.bigram import BigramChain


def test_everybody_gets_the_counts_order(tiny: Tiny) -> None:
    """All but the last two items of each user count; nothing else tells users apart."""
    counts = Counter(item for sequence in tiny.sequences.values() for item in sequence[:-2])
    trainer, loaded = fitted(tiny.make_config("Popularity", epochs=1))
    found = scores(trainer.model, loaded.test)
    assert found.shape == (40, N_ITEMS)
    assert torch.equal(found, found[:1].expand_as(found))
    tokens = loaded.dataset.field2id_token["item_id"][1:]
    expected = torch.tensor([counts[token] for token in tokens]) / (max(counts.values()) + 1)
    torch.testing.assert_close(found[0], expected)
    targets = torch.cat([batch[3] for batch in loaded.test]).tolist()
    for rank, target in zip(
        trainer.evaluate(loaded.test) and trainer.ranks.raw, targets, strict=True
    ):
        own = counts[tokens[target - 1]]
        assert rank == sum(counts[token] >= own for token in tokens)  # a tie counts as before


def test_nothing_is_trained(tiny: Tiny) -> None:
    trainer, loaded = fitted(tiny.make_config("Popularity", epochs=1))
    before = trainer.model.popularity.clone()
    loss = trainer.model.calculate_loss(next(iter(loaded.train)))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(trainer.model.popularity, before)
    assert sum(each.numel() for each in trainer.model.parameters()) == 1


def test_the_chain_backs_off_on_the_same_counts(tiny: Tiny) -> None:
    popular, _ = fitted(tiny.make_config("Popularity", epochs=1))
    chain, _ = fitted(tiny.make_config("BigramChain", epochs=1))
    assert isinstance(chain.model, BigramChain)
    assert torch.equal(chain.model.popularity, popular.model.popularity)
