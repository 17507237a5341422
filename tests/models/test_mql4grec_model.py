"""MQL4GRec: its tasks and prompts, both searches and their ensemble, and equal codes.

The toy IDs have three levels of eight codes. The first two are the text codes, the third is the
image code, so that about four items share an image code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N_ITEMS, Tiny, first_batch, fitted, new_trainer, renumber, scores

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.evaluation.ranking import rank_targets
from recbole_qbert.experiments.run import run_models
from recbole_qbert.models.layers.code_language import CodeLanguage
from recbole_qbert.models.mql4grec import ensemble
from recbole_qbert.registry import build_model
from recbole_qbert.serving.recommender import Recommender

FIRST = {"text": (1, 9), "image": (17,)}  # token of code 0 of each level
PROMPTS = {
    "asymmetric": [25, 26, 27, 28],
    "to image": [29, 30, 31, 32],
    "to text": [33, 34, 35, 36],
}
OTHER = {"text": "image", "image": "text"}
FIVE: dict[str, Any] = {"topk": [1, 5], "valid_metric": "NDCG@5"}
CALM = {"dropout_prob": 0.0, "weight_decay": 0.0}


def built(tiny: Tiny, **settings: Any) -> tuple[Any, Any]:
    """A model with new weights in evaluation mode, and the data."""
    trainer, loaded = new_trainer(tiny.make_config("MQL4GRec", **settings))
    return trainer.model.eval(), loaded


class Plain:
    """The model's arithmetic, one item at a time, from the raw codes."""

    def __init__(self, tiny: Tiny, model: Any, loaded: Any):
        self.generator = model.generator
        names = loaded.dataset.field2id_token["item_id"]
        self.codes = dict(zip(tiny.table.items, tiny.table.codes.tolist(), strict=True))
        self.codes_of = lambda item: self.codes[names[item]]

    def tokens(self, item: int, language: str) -> list[int]:
        codes = self.codes_of(item)
        own = codes[:2] if language == "text" else codes[2:]
        return [first + code for first, code in zip(FIRST[language], own, strict=True)]

    def history(self, items: Sequence[int], language: str) -> list[int]:
        return [token for item in items for token in self.tokens(item, language)]

    def log_probs(self, read: list[int], item: int, language: str) -> list[float]:
        """Log-probability of each token of an item after the encoder has read tokens."""
        found, tokens = [], torch.tensor([read])
        wanted = self.tokens(item, language)
        with torch.no_grad():
            memory = self.generator.encode(self.generator.tokens(tokens), tokens > 0)
            inputs = torch.tensor([[0, *wanted[:-1]]])
            hidden = self.generator.t5.decode(self.generator.tokens(inputs), memory)[0]
            for place, (token, first) in enumerate(zip(wanted, FIRST[language], strict=True)):
                logits = hidden[place] @ self.generator.head.weight[first : first + 8].T
                found.append(float(logits.log_softmax(dim=0)[token - first]))
        return found

    def score(self, items: Sequence[int], item: int, language: str) -> float:
        found = self.log_probs(self.history(items, language), item, language)
        return sum(found) / (len(found) + 1)


def histories(batch: Any) -> list[list[int]]:
    """Items of each row's history."""
    lengths = batch["item_length"].tolist()
    return [row[:n] for row, n in zip(batch["item_id_list"].tolist(), lengths, strict=True)]


@pytest.mark.parametrize("ranking", ["exact", "beam"])
def test_the_scores_are_those_of_a_plain_loop(tiny: Tiny, ranking: str) -> None:
    """With beams for all tuples, and exactly; `predict` too."""
    model, loaded = built(tiny, ranking=ranking, beam_size=N_ITEMS)
    plain, batch = Plain(tiny, model, loaded), first_batch(loaded.valid)[:3]
    found = model.full_sort_predict(batch)
    assert (found[:, 0] == -torch.inf).all()
    for row, items in enumerate(histories(batch)):
        for item in (1, 7, N_ITEMS):
            expected = [plain.score(items, item, language) for language in FIRST]
            assert float(found[row, item]) == pytest.approx(np.mean(expected) + 1, abs=1e-5)
    targets = batch["item_id"].unsqueeze(1)
    with torch.no_grad():
        given = model.predict(batch).unsqueeze(1)
    torch.testing.assert_close(given, found.gather(1, targets), rtol=1e-5, atol=1e-5)


def test_two_searches_are_joined_as_by_the_released_code(tiny: Tiny) -> None:
    """A dictionary from item to score, filled by both lists, with few beams."""
    model, loaded = built(tiny, beam_size=5, **FIVE)
    plain, batch = Plain(tiny, model, loaded), first_batch(loaded.valid)[:6]
    found = model.full_sort_predict(batch)
    n_joined = 0
    for row, items in enumerate(histories(batch)):
        expected: dict[int, float] = {}
        for language in FIRST:
            every = {i: plain.score(items, i, language) for i in range(1, N_ITEMS + 1)}
            tuples = {tuple(plain.tokens(i, language)): score for i, score in every.items()}
            worst = sorted(tuples.values())[-5]
            for item, score in every.items():
                if score >= worst - 1e-7:
                    joined = item in expected
                    n_joined += joined
                    expected[item] = (expected[item] + score) / 2 + 1 if joined else score
        assert set(found[row].isfinite().nonzero().squeeze(1).tolist()) == set(expected)
        for item, score in expected.items():
            assert float(found[row, item]) == pytest.approx(score, abs=1e-5)
    assert n_joined
    one = torch.tensor([-1.0, -torch.inf, -3.0, -torch.inf])
    other = torch.tensor([-2.0, -4.0, -torch.inf, -torch.inf])
    assert ensemble(one, other).tolist() == [-0.5, -4.0, -3.0, -torch.inf]


def samples(plain: Plain, batch: Any) -> list[tuple[list[int], int, str]]:
    """What is read, and the item and language that follow, for all tasks of a batch."""
    rows = batch.interaction
    found = []
    targets, directions = rows["item_id"].tolist(), batch.to_image.tolist()
    for items, target, to_image in zip(histories(rows), targets, directions, strict=True):
        source = "text" if to_image else "image"
        prompt = PROMPTS["asymmetric"]
        found += [(plain.history(items, language), target, language) for language in FIRST]
        found.append((prompt + plain.history(items, source), target, OTHER[source]))
    for item in batch.aligned.tolist():
        if item:
            found.append((PROMPTS["to image"] + plain.tokens(item, "text"), item, "image"))
            found.append((PROMPTS["to text"] + plain.tokens(item, "image"), item, "text"))
    return found


def test_the_loss_is_the_mean_over_all_samples(tiny: Tiny) -> None:
    """Built by hand for what was drawn; parts of a batch add up to it."""
    model, loaded = built(tiny)
    plain, rows = Plain(tiny, model, loaded), first_batch(loaded.train)
    torch.manual_seed(3)
    batch = model.draw_batch(rows)
    wanted = samples(plain, batch)
    assert batch.n_terms == len(wanted) > 3 * len(rows)
    assert 0 < int(batch.to_image.sum()) < len(rows)
    expected = np.mean([-np.mean(plain.log_probs(*each)) for each in wanted])
    with torch.no_grad():
        assert float(model.batch_loss(batch)) == pytest.approx(expected, rel=1e-5)
        torch.manual_seed(3)
        assert float(model.calculate_loss(rows)) == pytest.approx(expected, rel=1e-5)
        parts = [batch.part(slice(0, 5)), batch.part(slice(5, len(rows)))]
        total = sum(float(model.batch_loss(part)) * part.n_terms for part in parts)
    assert total / batch.n_terms == pytest.approx(expected, rel=1e-5)


def test_an_epoch_aligns_each_item_once_in_the_mean(tiny: Tiny) -> None:
    model, loaded = built(tiny)
    n_rows = len(loaded.train._dataset)
    assert model.alignment_chance == pytest.approx(N_ITEMS / n_rows)
    torch.manual_seed(0)
    counts = torch.zeros(N_ITEMS + 1)
    for _ in range(100):
        for batch in loaded.train:
            counts += torch.bincount(model.draw_batch(batch).aligned, minlength=N_ITEMS + 1)
    assert float(counts[1:].mean()) == pytest.approx(100, rel=0.1)
    assert counts[1:].min() > 50 and counts[1:].max() < 150


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({}, {"asymmetric", "to image", "to text"}),
        ({"asymmetric": False}, {"to image", "to text"}),
        ({"alignment": False}, {"asymmetric"}),
        ({"train_stage": "pretrain"}, set()),
    ],
)
def test_only_the_tasks_of_the_settings_train_their_prompts(
    tiny: Tiny, settings: dict[str, Any], trained: set[str]
) -> None:
    model, loaded = built(tiny, **settings)
    torch.manual_seed(3)
    model.calculate_loss(first_batch(loaded.train)).backward()
    gradient = model.generator.tokens.weight.grad
    assert len(gradient) == 1 + 24 + 12
    for name, tokens in PROMPTS.items():
        assert bool((gradient[tokens] != 0).any()) is (name in trained), name


def test_one_language_is_tiger_on_its_codes(tiny: Tiny) -> None:
    """Equal weights: equal losses, and scores per token."""
    left, loaded = built(tiny, languages="text", text_levels=3, ranking="exact")
    right = new_trainer(tiny.make_config("TIGER", ranking="exact"))[0].model.eval()
    assert left.languages.keys() == {"text"}
    left.load_state_dict({**right.state_dict(), "vocabulary": left.vocabulary})
    torch.testing.assert_close(scores(left, loaded.valid) * 4, scores(right, loaded.valid))
    batch = first_batch(loaded.train)
    with torch.no_grad():
        one, other = left.calculate_loss(batch), right.calculate_loss(batch)
    torch.testing.assert_close(one, other)


def test_image_codes_alone(tiny: Tiny) -> None:
    model, loaded = built(tiny, languages="image", beam_size=8, **FIVE)
    assert len(model.generator.tokens.weight) == 1 + 8
    found = scores(model, loaded.valid)
    assert found.isfinite().all()
    codes = loaded.dataset.item_codes[1:, 2]
    for code in codes.unique():
        own = found[:, codes == code]
        assert torch.equal(own, own[:, :1].expand_as(own))
    # Each code's probability, once: the scores are a half of its logarithm.
    once = torch.stack([found[:, codes == code][:, 0] for code in codes.unique()])
    assert ((2 * once).exp().sum(dim=0) <= 1 + 1e-5).all()


@pytest.mark.slow
def test_it_learns(tiny: Tiny) -> None:
    """The next item of the ring, whose codes say nothing about its place."""
    settings = {**CALM, "learning_rate": 0.01, "lr_decay": "none", "epochs": 15, "eval_step": 15}
    trainer, loaded = fitted(tiny.make_config("MQL4GRec", **settings))
    assert trainer.evaluate(loaded.test)["hit@5"] > 0.4  # .17 by chance


@pytest.mark.parametrize("languages", ["both", "image"])
def test_numbers_of_items_change_no_metric(tiny: Tiny, languages: str) -> None:
    """Nor the loss of any epoch, to the last bit."""
    sizes = {"beam_size": 8, "train_batch_size": 64}
    config = tiny.make_config("MQL4GRec", languages=languages, **sizes, **FIVE)
    left, loaded = fitted(config)
    expected, before = left.evaluate(loaded.test), first_batch(loaded.test)["item_id"]
    credited = left.ranks.credited
    _, loaded = new_trainer(config)
    renumber(loaded)
    right, _ = new_trainer(config, loaded)
    right.fit(loaded.train, loaded.valid, verbose=False)
    assert not torch.equal(first_batch(loaded.test)["item_id"], before)
    assert right.train_loss_dict == left.train_loss_dict
    assert right.evaluate(loaded.test) == expected
    assert np.array_equal(right.ranks.credited, credited)


def test_equal_codes_tie_and_are_credited_apart(tiny: Tiny) -> None:
    """The ranks of both columns, by a loop over items and over codes."""
    model, loaded = built(tiny, languages="image", beam_size=8, **FIVE)
    device = torch.device("cpu")
    ranks = rank_targets(model, loaded.test, device, groups=model.code_groups)
    found, row = scores(model, loaded.test), 0
    codes = loaded.dataset.item_codes[1:, 2].tolist()
    assert len(set(codes)) < N_ITEMS
    for batch in loaded.test:
        for target in batch[0]["item_id"].tolist():
            own, line = codes[target - 1], found[row].tolist()
            assert ranks.raw[row] == sum(score >= line[target - 1] for score in line)
            by_code = dict(zip(codes, line, strict=True))
            assert ranks.credited[row] == 1 + sum(by_code[own] < each for each in by_code.values())
            row += 1
    assert (ranks.credited < ranks.raw).any()


def test_no_item_shares_codes(tiny: Tiny) -> None:
    """Then nothing is credited."""
    model, loaded = built(tiny, languages="text", text_levels=3)
    assert model.code_groups is None
    trainer, _ = new_trainer(tiny.make_config("MQL4GRec", languages="text", text_levels=3))
    trainer.evaluate(loaded.valid, load_best_model=False)
    assert trainer.ranks.credited is None


def test_a_language_keeps_the_order_of_codes() -> None:
    codes = torch.tensor([[0, 0], [2, 1], [0, 1], [2, 1], [0, 0]])
    language = CodeLanguage(codes, (3, 2), first=5)
    assert language.leaf_of.tolist() == [0, 3, 2, 3, 1]
    assert (language.n_tuples, language.n_levels, language.trie.ranges) == (3, 2, ((5, 8), (8, 10)))
    expected = [[[0, 0], [7, 9]], [[5, 8], [5, 9]]]
    assert language.tokens(torch.tensor([[0, 1], [4, 2]])).tolist() == expected


def test_it_starts_from_a_pretrained_one(tiny: Tiny) -> None:
    """Of the same codes; others are refused."""
    first, loaded = fitted(tiny.make_config("MQL4GRec", train_stage="pretrain", epochs=1))
    path = first.saved_model_file
    config = tiny.make_config("MQL4GRec", pre_model_path=path)
    model = build_model(config, loaded.train._dataset)
    for name, weights in first.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights), name
    changed = tiny.make_config("MQL4GRec", pre_model_path=path, prompt_tokens=2)
    with pytest.raises(InputError, match=r"generator.tokens.weight is \[37, 16\] there and \[31"):
        build_model(changed, loaded.train._dataset)
    table = SemanticIDTable(tiny.table.items, tiny.table.codes[:, ::-1], (8, 8, 8))
    write_semantic_ids(tiny.folder / "toy.semid", table, {"made_by": "test_mql4grec.py"})
    _, loaded = new_trainer(tiny.make_config("SASRec"))
    with pytest.raises(InputError, match="codes are those of another quantizer"):
        build_model(config, loaded.train._dataset)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beam_size": 5}, "beam_size: 5 beams cannot fill the list of topk 10; increase"),
        ({"text_levels": 4}, "text codes are levels 1 to 4, but the semantic IDs have 3 levels"),
        ({"image_levels": 2}, "image codes are levels 3 to 4, but the semantic IDs have 3 levels"),
        ({"text_levels": 0}, "text_levels: 0 is not a whole number"),
        ({"languages": "audio"}, "languages: 'audio' is none of text, image, both"),
        ({"prompt_tokens": -1}, "prompt_tokens: -1 is not"),
        ({"exact_rows": -1}, "exact_rows: -1 is not"),
    ],
)
def test_settings_that_cannot_be(tiny: Tiny, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        new_trainer(tiny.make_config("MQL4GRec", **settings))
    assert not (tiny.root / "saved").exists()


def test_a_language_that_is_not_read_needs_no_levels(tiny: Tiny) -> None:
    model, _ = built(tiny, languages="text", image_levels=9)
    assert len(model.generator.tokens.weight) == 1 + 16
    tiny.remove_semantic_ids()
    _, loaded = new_trainer(tiny.make_config("SASRec"))
    with pytest.raises(InputError, match=r"MQL4GRec needs semantic IDs .*--streams=text,image`"):
        build_model(tiny.make_config("MQL4GRec"), loaded.train._dataset)


def test_a_bundle_recommends_as_the_model_ranks(tiny: Tiny) -> None:
    (result,) = run_models(["MQL4GRec"], "toy", settings=tiny.settings("MQL4GRec"))
    recommender = Recommender.load(result.bundle)
    (found,) = recommender.recommend([["i3", "i4"]], k=5)
    assert len(found) == 5 and not {"i3", "i4"} & {item for item, _ in found}
    assert result.generation["valid_beams"] == 1
    assert result.generation["exact_rows"] == 40
    assert result.generation["credited_hit@10"] >= result.test["hit@10"]
