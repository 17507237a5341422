"""P5-CID and what VIP5 shares with it: prompts, scores, loss, ranking, numbering and saved IDs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from conftest import N_ITEMS, Tiny, first_batch, fitted, new_trainer, scores, timed_rows
from torch import Tensor, nn

from recbole_qbert.common.errors import InputError
from recbole_qbert.experiments.run import run_models
from recbole_qbert.models.layers.item_prompt import ItemPrompt
from recbole_qbert.models.layers.t5 import Memory
from recbole_qbert.serving.recommender import Recommender

BOTH = ["P5CID", "VIP5"]
FIVE: dict[str, Any] = {"topk": [1, 5], "valid_metric": "NDCG@5"}


def built(tiny: Tiny, model: str, **settings: Any) -> tuple[Any, Any]:
    """A model with new weights in evaluation mode, and the data; all weights are noise."""
    trainer, loaded = new_trainer(tiny.make_config(model, **settings))
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=draw)
    return trainer.model.eval(), loaded


def memory_of(model: Any, items: list[int]) -> Memory:
    """One history encoded alone: a loop over its items and their tokens."""
    prompt, table = model.prompt, model.generator.tokens.weight
    parts = [*(prompt.start + prompt.words.weight[0])]
    for place, item in enumerate(items, start=1):
        for token in model.trie.item_tokens[item].tolist():
            if token:
                vector = table[token] + prompt.words.weight[place]
                if hasattr(model, "visual"):
                    vector = vector + model.category.weight[0]
                parts.append(vector)
        if hasattr(model, "visual") and model.vectors[item].any():
            for visual in model.visual(model.vectors[[item]]):
                parts.append(visual + prompt.words.weight[place] + model.category.weight[1])
    embedded = torch.stack(parts).unsqueeze(0)
    return model.generator.encode(embedded, torch.ones(embedded.shape[:2], dtype=torch.bool))


def plain_score(model: Any, memory: Memory, item: int) -> tuple[float, int]:
    """Log-probability of the tokens of one item by teacher forcing, and how many they are."""
    generator = model.generator
    tokens = [token for token in model.trie.item_tokens[item].tolist() if token]
    hidden = generator.t5.decode(generator.tokens(torch.tensor([[0, *tokens[:-1]]])), memory)[0]
    log_probs = (hidden @ generator.head.weight[1:].T).log_softmax(dim=1)
    chosen = log_probs[torch.arange(len(tokens)), torch.tensor(tokens) - 1]
    return float(chosen.sum()), len(tokens)


def test_the_prompt_by_hand() -> None:
    """Two rows of items with one to three tokens, the second row shorter."""
    prompt, table = ItemPrompt(2, 4, 3), nn.Embedding(9, 3).weight
    tokens = torch.tensor([[[1, 2, 0], [8, 0, 0], [3, 4, 5]], [[6, 0, 0], [0, 0, 0], [0, 0, 0]]])
    embedded, real = prompt(tokens, table)
    words = prompt.words.weight
    first = [table[1] + words[1], table[2] + words[1], table[8] + words[2]]
    first += [table[token] + words[3] for token in (3, 4, 5)]
    start = [*(prompt.start + words[0])]
    assert real.tolist() == [[True] * 8, [True] * 3 + [False] * 5]
    torch.testing.assert_close(embedded[0], torch.stack(start + first))
    torch.testing.assert_close(embedded[1, :3], torch.stack([*start, table[6] + words[1]]))


@pytest.mark.parametrize("model_name", BOTH)
def test_all_ways_to_score_are_brute_force(tiny: Tiny, model_name: str) -> None:
    """Beams for all items, `ranking: exact`, `predict` and the loss, for histories of any length.

    The tree has IDs of different lengths, so that the longest are reached too.
    """
    deep = {"n_clusters": 2, "max_leaf": 3} if model_name == "P5CID" else {}
    model, loaded = built(tiny, model_name, prompt_tokens=2, **deep)
    batch = first_batch(loaded.valid)[:6]
    assert len(set(batch["item_length"].tolist())) > 2
    lengths = (model.trie.item_tokens[1:] > 0).sum(dim=1)
    assert lengths.unique().tolist() == ([4, 5] if model_name == "P5CID" else [3])
    exact, _ = built(tiny, model_name, prompt_tokens=2, ranking="exact", **deep)
    exact.load_state_dict(model.state_dict())
    with torch.no_grad():
        found, other = model.full_sort_predict(batch), exact.full_sort_predict(batch)
        given, loss = model.predict(batch), model.calculate_loss(batch)
        plain, means = [], []
        for row, length in enumerate(batch["item_length"].tolist()):
            memory = memory_of(model, batch["item_id_list"][row, :length].tolist())
            pairs = [plain_score(model, memory, item) for item in range(1, N_ITEMS + 1)]
            plain.append([score for score, _ in pairs])
            score, n_tokens = pairs[int(batch["item_id"][row]) - 1]
            means.append(score / n_tokens)
    expected = torch.tensor(plain)
    assert (found[:, 0] == -torch.inf).all() and (other[:, 0] == -torch.inf).all()
    torch.testing.assert_close(found[:, 1:], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other[:, 1:], expected, rtol=1e-4, atol=1e-4)
    targets = batch["item_id"] - 1
    own = expected.gather(1, targets.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(given, own, rtol=1e-4, atol=1e-4)
    assert float(loss) == pytest.approx(-sum(means) / len(means), rel=1e-4)
    assert model.beam_statistics()["valid_beams"] == 1.0


@pytest.mark.parametrize("model_name", BOTH)
def test_few_beams_find_items_alone(tiny: Tiny, model_name: str) -> None:
    """As many different items as beams, with their exact scores."""
    model, loaded = built(tiny, model_name, beam_size=5, **FIVE)
    everything = scores(built(tiny, model_name)[0], loaded.valid)
    found = scores(model, loaded.valid)
    kept = found > -torch.inf
    assert (kept.sum(dim=1) == 5).all()
    torch.testing.assert_close(found[kept], everything[kept], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_name", BOTH)
def test_padding_and_batches_change_no_score(tiny: Tiny, model_name: str) -> None:
    """Rows of one length are computed together on a CPU; others wait for them elsewhere."""
    model, loaded = built(tiny, model_name)
    batch = first_batch(loaded.valid)
    together = model.full_sort_predict(batch)
    alone = torch.cat([model.full_sort_predict(batch[[row]]) for row in range(len(batch))])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    rows = torch.arange(len(batch))
    with torch.no_grad():
        padded = model.score_rows(batch, rows, exact=False)
    torch.testing.assert_close(together, padded, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_name", BOTH)
def test_every_weight_is_trained(tiny: Tiny, model_name: str) -> None:
    model, loaded = built(tiny, model_name)
    model.train().calculate_loss(first_batch(loaded.train)).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


@pytest.mark.slow
@pytest.mark.parametrize(("model_name", "least"), [("P5CID", 0.6), ("VIP5", 0.4)])
def test_it_learns(tiny: Tiny, model_name: str, least: float) -> None:
    """The next item of the ring; the images of VIP5 say nothing about it."""
    calm = {"dropout_prob": 0.0, "learning_rate": 0.005, "weight_decay": 0.0, "lr_decay": "none"}
    config = tiny.make_config(model_name, epochs=25, eval_step=25, **calm)
    trainer, loaded = fitted(config)
    assert trainer.evaluate(loaded.test)["hit@5"] > least  # .17 by chance


@pytest.mark.parametrize("model_name", BOTH)
def test_numbers_of_items_change_no_metric(tiny: Tiny, model_name: str) -> None:
    """Nor the loss of any epoch, to the last bit; the file has its rows in another order."""
    rows = timed_rows(tiny.sequences)
    by_user = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row[0])]
    found, numbers = [], []
    for order in (1, -1):
        tiny.write_inter([row for group in by_user for row in group[::order]])
        config = tiny.make_config(model_name, beam_size=20, **FIVE)
        trainer, loaded = fitted(config)
        found.append((trainer.evaluate(loaded.test), trainer.train_loss_dict))
        numbers.append(loaded.dataset.field2token_id["item_id"])
    assert numbers[0] != numbers[1]
    assert found[0] == found[1]


def test_weights_of_other_ids_are_refused(tiny: Tiny) -> None:
    """As when another processor splits the graph differently."""
    model, _ = built(tiny, "P5CID")
    weights = model.state_dict()
    tokens: Tensor = weights["item_tokens"].clone()
    tokens[[1, 2]] = tokens[[2, 1]]
    model.load_state_dict(weights)
    with pytest.raises(InputError, match="other collaborative IDs") as said:
        model.load_state_dict({**weights, "item_tokens": tokens})
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("model_name", BOTH)
def test_a_run_has_a_bundle_that_recommends(
    tiny: Tiny, model_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the data; histories of known items, seen items left out."""
    settings = tiny.settings(model_name, beam_size=25)
    (result,) = run_models([model_name], "toy", settings=settings)
    printed = " ".join(capsys.readouterr().out.split())
    assert "beam search: 100.0% of the beams end at an item; " in printed
    (tiny.folder / "toy.inter").unlink()
    ((best, *others),) = Recommender.load(result.bundle).recommend([["i1", "i2"]], k=5)
    assert len(others) == 4 and best[1] >= others[0][1]
    assert not {"i1", "i2"} & {item for item, _ in (best, *others)}


@pytest.mark.parametrize(
    ("model_name", "settings", "said"),
    [
        ("P5CID", {"n_clusters": 0}, "n_clusters: 0 is not a whole number"),
        ("P5CID", {"max_leaf": 0}, "max_leaf: 0 is not a whole number"),
        ("P5CID", {"leaf_tokens": "own"}, "leaf_tokens: 'own' is none of shared, item"),
        ("P5CID", {"prompt_tokens": -1}, "prompt_tokens: -1 is not"),
        ("P5CID", {"beam_size": 5}, "beam_size: 5 beams cannot fill the list of topk 10"),
        ("VIP5", {"id_base": 1}, "id_base: 1 is not a whole number"),
        ("VIP5", {"frozen": "all"}, "frozen: 'all' is none of none, tables, backbone"),
        ("VIP5", {"visual_tokens": 0}, "visual_tokens: 0 is not"),
        (
            "VIP5",
            {"item_vectors": {}},
            "item_vectors: VIP5 needs at least one table; set item_vectors",
        ),
    ],
)
def test_settings_that_cannot_be(
    tiny: Tiny, model_name: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        new_trainer(tiny.make_config(model_name, **settings))
    assert not (tiny.root / "saved").exists()
