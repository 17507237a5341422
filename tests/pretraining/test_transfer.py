"""What goes over from a pretrained model, weight by weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny, fitted, new_trainer
from two_domains import Toys, make_toys, write_ids  # noqa: F401

from recbole_qbert.data.budget import DataSize, resolve_auto
from recbole_qbert.errors import InputError
from recbole_qbert.model.qbert4rec import QBERT4Rec
from recbole_qbert.pretraining.transfer import (
    ROWS,
    Source,
    load_pretrained,
    read_source,
    save_pretrained,
)

SIZES = {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "inner_size": 32}


def save(tiny: Tiny, toys: Toys, **settings: Any) -> tuple[Path, QBERT4Rec]:
    """A pretrained model of random weights over A and B, all of them far from a new one's."""
    corpus = toys.corpus()
    config = tiny.make_config(**{"mask_mix": {"span": 1.0}, "hidden_dropout_prob": 0.1, **settings})
    resolve_auto(config, DataSize(1, 1, 1, corpus.num("item_id")))
    model = QBERT4Rec(config, corpus)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) + 5)
    folder = tiny.root / "pretrained"
    save_pretrained(folder, model, config, corpus, {})
    return folder, model


def start(tiny: Tiny, folder: Path, dataset: str = "B", **settings: Any) -> tuple[Any, list[str]]:
    """A new model of one domain that starts from the folder, and what was said."""
    config = tiny.make_config(dataset=dataset, **settings)
    trainer, loaded = new_trainer(config)
    lines = load_pretrained(trainer.model, config, loaded.train._dataset, read_source(folder))
    return trainer.model, lines


def test_everything_goes_over_where_all_is_the_same(tiny: Tiny, toys: Toys) -> None:
    folder, source = save(tiny, toys)
    model, lines = start(tiny, folder)
    n = sum(parameter.numel() for parameter in model.parameters())
    assert lines == [f"{n:,} of {n:,} parameters from A + B, pretrained"]
    for (name, own), (other, theirs) in zip(
        model.named_parameters(), source.named_parameters(), strict=True
    ):
        assert name == other
        if name != ROWS:  # of B alone
            assert torch.equal(own, theirs)


def test_scores_are_those_of_the_pretrained_model(tiny: Tiny, toys: Toys) -> None:
    """The same history in domain B, asked of the pretrained and of the new model."""
    folder, source = save(tiny, toys)
    model, _ = start(tiny, folder)
    corpus, tokens = toys.corpus(), toys.tables["B"].items
    config = tiny.make_config(dataset="B")
    ids = new_trainer(config)[1].dataset.field2token_id["item_id"]
    history = ["i3", "i7", "i1"]
    numbers = torch.tensor([[tokens.index(item) + 1 for item in history]])
    own = torch.tensor([[ids[item] for item in history]])
    pad = torch.zeros(1, 8 - len(history), dtype=torch.long)

    def scores(of: Any, items: torch.Tensor, **more: Any) -> torch.Tensor:
        of.eval()
        batch = {of.ITEM_SEQ: torch.cat([items, pad], 1), of.ITEM_SEQ_LEN: torch.tensor([3])}
        with torch.no_grad():
            return of.full_sort_predict({**batch, **more})[0]

    theirs = scores(source, numbers, domain=torch.tensor([1]))
    ours = scores(model, own)
    assert len(theirs) == len(tokens) + 1
    assert corpus.domain_starts[1:] == [30, 50]
    known = [item for item in tokens if item in ids]
    expected = torch.stack([theirs[tokens.index(item) + 1] for item in known])
    found = torch.stack([ours[ids[item]] for item in known])
    torch.testing.assert_close(found, expected)


def test_codes_of_another_vocabulary_stay_out(tiny: Tiny, toys: Toys) -> None:
    folder, source = save(tiny, toys)
    write_ids(toys.root, "B", "another")
    model, lines = start(tiny, folder)
    assert float(model.items.table.weight.detach().abs().max()) < 1
    assert torch.equal(model.mask_token, source.mask_token)
    assert lines[-1].startswith("not loaded: items.table.weight: the codes mean something else")
    model, lines = start(tiny, folder, pre_model_codes="load")
    assert torch.equal(model.items.table.weight, source.items.table.weight)
    _, lines = start(tiny, folder, pre_model_codes="skip")
    assert lines[-1] == "not loaded: items.table.weight: pre_model_codes: skip"


def test_each_vocabulary_finds_its_own_codes(tiny: Tiny, toys: Toys) -> None:
    write_ids(toys.root, "B", "another")
    folder, source = save(tiny, toys)
    table = source.items.table.weight.detach().view(3, 2, 8, -1)  # level, vocabulary, code
    for place, dataset in enumerate("AB"):
        model, lines = start(tiny, folder, dataset)
        assert len(lines) == 1
        own = model.items.table.weight.detach().view(3, 8, -1)
        assert torch.equal(own, table[:, place])


def test_positions_of_another_length(tiny: Tiny, toys: Toys) -> None:
    folder, source = save(tiny, toys)
    model, lines = start(tiny, folder, MAX_ITEM_LIST_LENGTH=10)
    own = model.encoder.position_embedding.weight.detach()
    assert torch.equal(own[:8], source.encoder.position_embedding.weight.detach())
    assert float(own[8:].abs().max()) < 1
    assert lines[1] == "MAX_ITEM_LIST_LENGTH is 10 here and was 8 in pretraining"
    assert lines[2] == "not loaded: encoder.position_embedding.weight: 2 of 10 rows"
    model, lines = start(tiny, folder, MAX_ITEM_LIST_LENGTH=5)
    own = model.encoder.position_embedding.weight.detach()
    assert torch.equal(own, source.encoder.position_embedding.weight.detach()[:5])
    assert len(lines) == 2


def test_rows_go_over_by_domain_and_token(tiny: Tiny, toys: Toys) -> None:
    folder, source = save(tiny, toys, item_representation="word")
    model, lines = start(tiny, folder, item_representation="word")
    tokens = new_trainer(tiny.make_config(dataset="B"))[1].dataset.field2id_token["item_id"][1:]
    rows = {item: row for row, item in enumerate(toys.tables["B"].items)}
    expected = torch.stack([source.items.rows[30 + rows[token]] for token in tokens])
    assert torch.equal(model.items.rows, expected)
    assert len(lines) == 1
    # The toy data set's items have the same tokens, but it is another domain.
    model, lines = start(tiny, folder, "toy", item_representation="word")
    assert float(model.items.rows.detach().abs().max()) < 1
    assert "rows of 30 items" in lines[-1]


def test_other_shapes_are_named_or_refused(tiny: Tiny, toys: Toys) -> None:
    folder, source = save(tiny, toys)
    model, lines = start(tiny, folder, inner_size=64, n_layers=2, score="dot")
    assert torch.equal(
        model.encoder.blocks.layers[0].self_attn.in_proj_weight,
        source.encoder.blocks.layers[0].self_attn.in_proj_weight,
    )
    text = "\n".join(lines)
    assert "score is 'dot' here and was 'cosine' in pretraining" in text
    assert "encoder.blocks.layers.0.linear1.weight: shape [32, 16] there, [64, 16] here" in text
    assert "encoder.blocks.layers.1.norm1.bias: not in the pretrained model" in text
    with pytest.raises(InputError, match="pretrained with hidden_size 16, this model has 32"):
        start(tiny, folder, hidden_size=32)


def test_a_bundle_is_a_source(tiny: Tiny) -> None:
    from recbole_qbert.bundle import save_bundle

    config = tiny.make_config()
    trainer, loaded = fitted(config)
    folder = tiny.root / "bundle"
    save_bundle(folder, trainer.model, config, loaded.train._dataset)
    model, lines = start(tiny, folder, "toy")
    assert len(lines) == 1
    for own, theirs in zip(model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(own, theirs)


def test_what_is_no_source_or_was_changed(tiny: Tiny, toys: Toys) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_source(tiny.root / "nowhere")
    folder, _ = save(tiny, toys)
    assert isinstance(read_source(folder), Source)
    (folder / "items.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"items\.json: missing or changed"):
        read_source(folder)
    (folder / "manifest.json").write_text('{"format": "x"}', encoding="utf-8")
    with pytest.raises(InputError, match="neither a pretrained model nor a bundle"):
        read_source(folder)
