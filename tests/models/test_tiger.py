"""TIGER: what it reads and scores, its training rows, and how many beams a ranking needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import N_ITEMS, Tiny, first_batch, fitted, new_trainer, renumber, scores
from torch import Tensor

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.evaluation.ranking import rank_targets
from recbole_qbert.experiments.run import run_models
from recbole_qbert.models.layers.t5 import Memory
from recbole_qbert.registry import build_model
from recbole_qbert.serving.bundle import NotBundled, save_bundle

ALL = {"beam_size": N_ITEMS}
FIVE: dict[str, Any] = {"topk": [1, 5], "valid_metric": "NDCG@5"}


def built(tiny: Tiny, **settings: Any) -> tuple[Any, Any]:
    """A model with new weights in evaluation mode, and the data."""
    trainer, loaded = new_trainer(tiny.make_config("TIGER", **settings))
    return trainer.model.eval(), loaded


def test_the_scores_are_those_of_codes_one_by_one(tiny: Tiny) -> None:
    """A plain loop over rows and items: codes with a row of the table for each level."""
    model, loaded = built(tiny)
    batch = first_batch(loaded.valid)[:3]
    tokens = loaded.dataset.field2id_token["item_id"]
    codes = {item: row for item, row in zip(tiny.table.items, tiny.table.codes, strict=True)}
    found = model.full_sort_predict(batch)
    assert (found[:, 0] == -torch.inf).all()
    for row in range(3):
        length = int(batch["item_length"][row])
        history = [codes[tokens[item]] for item in batch["item_id_list"][row, :length].tolist()]
        flat = torch.tensor(np.stack(history) + [1, 9, 17]).view(1, -1)
        with torch.no_grad():
            memory = model.generator.encode(model.generator.tokens(flat), flat > 0)
            for item in (1, 7, N_ITEMS):
                expected = score_of(model, memory, codes[tokens[item]])
                assert float(found[row, item]) == pytest.approx(expected, abs=1e-5)


def score_of(model: Any, memory: Memory, codes: Any) -> float:
    """Log-probability of the codes of one item after a history."""
    generator, score = model.generator, 0.0
    tokens = [0, *(codes + [1, 9, 17]).tolist()]
    hidden = generator.t5.decode(generator.tokens(torch.tensor([tokens[:-1]])), memory)[0]
    for level, code in enumerate(codes.tolist()):
        logits = hidden[level] @ generator.head.weight[1 + 8 * level : 9 + 8 * level].T
        score += float(logits.log_softmax(dim=0)[code])
    return score


def test_all_ways_to_score_agree(tiny: Tiny) -> None:
    """All beams, `ranking: exact`, `predict` and the loss."""
    model, loaded = built(tiny, **ALL)
    exact = built(tiny, ranking="exact")[0]
    exact.load_state_dict(model.state_dict())
    left, right = scores(model, loaded.valid), scores(exact, loaded.valid)
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)
    batch = first_batch(loaded.valid)
    targets = batch["item_id"]
    with torch.no_grad():
        given, loss = model.predict(batch), model.calculate_loss(batch)
    expected = left[torch.arange(len(targets)), targets - 1]
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)
    assert float(loss) == pytest.approx(float(-expected.mean() / 3), rel=1e-5)


def test_few_beams_leave_the_other_items_without_a_score(tiny: Tiny) -> None:
    model, loaded = built(tiny, beam_size=5, **FIVE)
    found, everything = scores(model, loaded.valid), scores(built(tiny, **ALL)[0], loaded.valid)
    kept = found > -torch.inf
    assert (kept.sum(dim=1) == 5).all()
    torch.testing.assert_close(found[kept], everything[kept], rtol=1e-5, atol=1e-5)
    assert model.beam_statistics()["valid_beams"] == 1
    assert model.beam_statistics() == {}


def test_it_learns(tiny: Tiny) -> None:
    """The next item of the ring, whose codes say nothing about its place."""
    calm = {"dropout_prob": 0.0, "learning_rate": 0.01, "weight_decay": 0.0, "lr_decay": "none"}
    trainer, loaded = fitted(tiny.make_config("TIGER", epochs=20, eval_step=20, **calm, **ALL))
    assert trainer.evaluate(loaded.test)["hit@5"] > 0.6  # .17 by chance


@pytest.mark.parametrize("beam_size", [20, N_ITEMS])
def test_numbers_of_items_change_no_metric(tiny: Tiny, beam_size: int) -> None:
    """Nor the loss of any epoch, to the last bit."""
    config = tiny.make_config("TIGER", beam_size=beam_size, **FIVE)
    left, loaded = fitted(config)
    expected, before = left.evaluate(loaded.test), first_batch(loaded.test)["item_id"]
    _, loaded = new_trainer(config)
    renumber(loaded)
    right, _ = new_trainer(config, loaded)
    right.fit(loaded.train, loaded.valid, verbose=False)
    assert not torch.equal(first_batch(loaded.test)["item_id"], before)
    assert right.train_loss_dict == left.train_loss_dict
    assert right.evaluate(loaded.test) == expected


def test_a_user_token_is_shared_by_users(tiny: Tiny) -> None:
    """Users of one remainder have equal scores after equal histories, others do not."""
    model, loaded = built(tiny, user_tokens=3, **ALL)
    assert len(model.generator.tokens.weight) == 1 + 24 + 3
    batch = first_batch(loaded.valid)[torch.zeros(4, dtype=torch.long)]
    batch.interaction["user_id"] = torch.tensor([1, 2, 4, 6])
    found = model.full_sort_predict(batch)[:, 1:]
    assert torch.equal(found[0], found[2])
    for one, two in ((0, 1), (0, 3), (1, 3)):
        assert not torch.allclose(found[one], found[two])
    plain = built(tiny, **ALL)[0].full_sort_predict(batch)[:, 1:]
    assert torch.equal(plain[0], plain[1])


def test_a_user_token_needs_more_than_a_history(tiny: Tiny) -> None:
    model, loaded = built(tiny, user_tokens=3)
    config = tiny.make_config("TIGER", user_tokens=3)
    with pytest.raises(NotBundled, match="needs more than a history to rank items"):
        save_bundle(tiny.root / "bundle", model, config, loaded.train._dataset)


def test_padding_and_batches_change_no_score(tiny: Tiny) -> None:
    """Rows of one length are computed together on a CPU; others wait for them elsewhere."""
    model, loaded = built(tiny, **ALL)
    batch = first_batch(loaded.valid)
    together = model.full_sort_predict(batch)
    alone = torch.cat([model.full_sort_predict(batch[[row]]) for row in range(len(batch))])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    rows = torch.arange(len(batch))
    with torch.no_grad():
        padded = model.generator.search(model.forward(batch, rows), model.trie, N_ITEMS)
    torch.testing.assert_close(together.gather(1, padded.items), padded.scores)


def test_users_with_many_seen_items_get_more_beams(tiny: Tiny) -> None:
    """Their lists are full, with the scores of a search with all beams; others stay."""
    model, loaded = built(tiny, beam_size=5, **FIVE)
    everything = built(tiny, **ALL)[0]
    everything.load_state_dict(model.state_dict())
    batch = first_batch(loaded.test)
    seen = loaded.test._dataset.seen_items(batch)
    few, many = model.full_sort_predict(batch), everything.full_sort_predict(batch)
    found = model.fill_candidates(batch, few, seen)
    assert model.beam_size == 5
    kept = found > -torch.inf
    torch.testing.assert_close(found[kept], many[kept], rtol=1e-5, atol=1e-5)
    n_seen = torch.bincount(seen[0], minlength=len(batch))
    unseen = kept.index_put(seen, torch.tensor(False))
    assert (unseen.sum(dim=1) >= 5).all()
    before = (few > -torch.inf).index_put(seen, torch.tensor(False)).sum(dim=1)
    assert (before < 5).any()
    for row, n in enumerate(n_seen.tolist()):
        n_beams = next(5 << m for m in range(9) if 5 << m >= n + 5) if before[row] < 5 else 5
        assert kept[row].sum() == min(n_beams, N_ITEMS)
        alone = [
            batch[[row]],
            few[[row]],
            (torch.zeros(n, dtype=torch.long), seen[1][seen[0] == row]),
        ]
        torch.testing.assert_close(model.fill_candidates(*alone)[0], found[row])


def test_the_evaluation_fills_the_lists(tiny: Tiny) -> None:
    model, loaded = built(tiny, beam_size=5, **FIVE)
    ranks = rank_targets(model, loaded.test, torch.device("cpu"), top_k=5)
    assert ranks.lists is not None and len(ranks.raw) == 40
    assert (ranks.lists.unseen > 0).all()


def test_a_user_who_saw_almost_all_items_needs_no_more_beams(tiny: Tiny) -> None:
    model, loaded = built(tiny, **ALL)
    batch, seen = first_batch(loaded.test)[[0]], (torch.zeros(28).long(), torch.arange(1, 29))
    score = torch.zeros(1, N_ITEMS + 1)
    assert model.fill_candidates(batch, score, seen) is score
    score[0, 29] = -torch.inf
    assert (model.fill_candidates(batch, score, seen)[0, 1:] > -torch.inf).all()
    lost = torch.full_like(score, torch.nan)  # reported as divergence
    assert model.fill_candidates(batch, lost, seen) is lost
    batch.interaction["item_length"] = torch.tensor([0])  # nothing to search from
    nothing = (torch.zeros(0).long(),) * 2
    found = model.fill_candidates(batch, torch.full_like(score, -torch.inf), nothing)
    assert (found == -torch.inf).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beam_size": 5}, "beam_size: 5 beams cannot fill the list of topk 10; increase"),
        ({"beam_size": 0}, "beam_size: 0 is not a whole number"),
        ({"ranking": "greedy"}, "ranking: 'greedy' is none of beam, exact"),
        ({"user_tokens": -1}, "user_tokens: -1 is not"),
        ({"head_size": 0}, "head_size: 0 is not"),
        ({"beam_sise": 5}, "did you mean 'beam_size'"),
    ],
)
def test_settings_that_cannot_be(tiny: Tiny, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        new_trainer(tiny.make_config("TIGER", **settings))
    assert not (tiny.root / "saved").exists()


def test_it_needs_semantic_ids(tiny: Tiny) -> None:
    tiny.remove_semantic_ids()
    _, loaded = new_trainer(tiny.make_config("SASRec"))
    with pytest.raises(InputError, match=r"TIGER needs semantic IDs .* tokenize --dataset=toy`"):
        build_model(tiny.make_config("TIGER"), loaded.train._dataset)


def test_levels_may_have_different_numbers_of_codes(tiny: Tiny) -> None:
    """As those of `unique: extra_level`."""
    items = [f"i{number}" for number in range(N_ITEMS)]
    numbers = np.arange(N_ITEMS)
    codes = np.stack([numbers % 2, numbers // 2 % 5, numbers // 10], axis=1)
    table = SemanticIDTable(tuple(items), codes.astype(np.int64), (2, 5, 3))
    write_semantic_ids(tiny.root / "other.semid", table, {"made_by": "test_tiger.py"})
    model, loaded = built(tiny, semantic_id_file=str(tiny.root / "other.semid"), **ALL)
    assert model.trie.ranges == ((1, 3), (3, 8), (8, 11))
    total: Tensor = scores(model, loaded.valid).exp().sum(dim=1)  # 30 of 30 tuples exist
    torch.testing.assert_close(total, torch.ones_like(total))


def test_a_run_prints_what_the_beams_found(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny.settings("TIGER", beam_size=25)
    (result,) = run_models(["TIGER"], "toy", settings=settings)
    printed = " ".join(capsys.readouterr().out.split())
    assert "beam search: 100.0% of the beams end at an item; " in printed
    assert (
        "ranking 40 users exactly keeps 100.0% of their top 10 and changes NDCG@10 by " in printed
    )
    assert result.bundle
