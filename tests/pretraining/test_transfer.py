"""What goes over from a pretrained model, weight by weight."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import OTHER_JSON, Tiny, fitted, new_trainer, sign
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from two_domains import Toys, make_toys, write_ids  # noqa: F401

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.budget import DataSize, resolve_auto
from recbole_qbert.experiments.run import run_models
from recbole_qbert.models.qbert4rec import QBERT4Rec
from recbole_qbert.pretraining.transfer import (
    CONTENTS,
    ROWS,
    PretrainedSource,
    load_pretrained,
    read_source,
    save_pretrained,
)
from recbole_qbert.serving.bundle import save_bundle

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
    assert lines == [f"{n:,} of {n:,} parameters loaded, pretrained on A + B"]
    for (name, own), (other, theirs) in zip(
        model.named_parameters(), source.named_parameters(), strict=True
    ):
        assert name == other
        if name != ROWS:  # of B alone
            assert torch.equal(own, theirs)


@pytest.mark.parametrize("bias", ["none", "codes"])
def test_scores_are_those_of_the_pretrained_model(tiny: Tiny, toys: Toys, bias: str) -> None:
    """The same history in domain B, asked of the pretrained and of the new model."""
    folder, source = save(tiny, toys, attention_bias=bias)
    model, _ = start(tiny, folder, attention_bias=bias)
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
    assert lines[-1].startswith("not loaded: items.table.weight: the code vocabulary differs")
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
    assert lines[1] == "MAX_ITEM_LIST_LENGTH is 10 now and was 8 in pretraining"
    assert lines[2] == "not loaded: encoder.position_embedding.weight: 2 of 10 rows are new"
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
    assert "items.rows: 30 items are new" in lines[-1]


def test_other_shapes_are_named_or_refused(tiny: Tiny, toys: Toys) -> None:
    folder, source = save(tiny, toys)
    model, lines = start(tiny, folder, inner_size=64, n_layers=2, score="dot")
    assert torch.equal(
        model.encoder.blocks.layers[0].self_attn.in_proj_weight,
        source.encoder.blocks.layers[0].self_attn.in_proj_weight,
    )
    text = "\n".join(lines)
    assert "score is 'dot' now and was 'cosine' in pretraining" in text
    assert (
        "encoder.blocks.layers.0.linear1.weight: its shape was [32, 16] and is now [64, 16]" in text
    )
    assert "encoder.blocks.layers.1.norm1.bias: not in the pretrained model" in text
    with pytest.raises(InputError, match="pretrained with hidden_size 16, but this model has 32"):
        start(tiny, folder, hidden_size=32)


def test_a_bundle_is_a_source(tiny: Tiny) -> None:
    config = tiny.make_config()
    trainer, loaded = fitted(config)
    folder = tiny.root / "bundle"
    save_bundle(folder, trainer.model, config, loaded.train._dataset)
    model, lines = start(tiny, folder, "toy")
    assert len(lines) == 1
    for own, theirs in zip(model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(own, theirs)


@pytest.mark.parametrize("kind", ["terms", "content"])
def test_what_the_data_determine_stays_that_of_the_new_data(tiny: Tiny, kind: str) -> None:
    """All buffers: codes, training counts, content.

    The source has held items out of training, and lacks vectors.
    """
    settings: dict[str, Any] = {"popularity_discount": 0.5, "new_item_bonus": 1.5}
    before = settings
    if kind == "content":
        settings = {"use_content": True, "whitening_dims": 0, "item_vectors": tiny.item_vectors()}
        before = {**settings, "item_vectors": tiny.item_vectors(partial=True)}
    config = tiny.make_config(**before, cold_items=0.2)
    trainer, loaded = fitted(config)
    folder = tiny.root / "bundle"
    save_bundle(folder, trainer.model, config, loaded.train._dataset)
    model, lines = start(tiny, folder, "toy", **settings)
    fresh, _ = new_trainer(tiny.make_config(**settings))
    expected = dict(fresh.model.named_buffers())
    assert lines[1:] == (
        ["the encoder of its item vectors is not recorded; it must be that of this run"]
        if kind == "content"
        else []
    )
    assert expected
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, expected[name]), name
    name = "popularity_terms.counts" if kind == "terms" else "content.vectors"
    assert not torch.equal(dict(trainer.model.named_buffers())[name], expected[name])


def test_a_bundle_whose_vectors_have_another_width(tiny: Tiny) -> None:
    paths = tiny.item_vectors()
    config = tiny.make_config(use_content=True, item_vectors={"text": paths["image"]})
    trainer, loaded = fitted(config)
    save_bundle(tiny.root / "bundle", trainer.model, config, loaded.train._dataset)
    given = {"use_content": True, "item_vectors": {"text": paths["text"]}}
    with pytest.raises(InputError, match="vectors of dimension 6, but pre_model_path was trained"):
        start(tiny, tiny.root / "bundle", "toy", **given)


def test_a_bundle_of_another_model_is_no_source(tiny: Tiny) -> None:
    config = tiny.make_config("SASRec")
    trainer, loaded = fitted(config)
    folder = tiny.root / "bundle"
    save_bundle(folder, trainer.model, config, loaded.train._dataset)
    assert "a bundle of SASRec" in refused(folder)


def refused(folder: Path) -> str:
    """What is said of a source: one line that names it."""
    with pytest.raises(InputError) as caught:
        read_source(folder)
    said = str(caught.value)
    assert str(folder) in said
    assert "\n" not in said
    assert len(said) < 600
    return said


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Edit a file, and sign the folder as if it had been written so."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    if path.name != "manifest.json":
        sign(path.parent)


def change_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Likewise, the weights."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    path.write_bytes(safetensors_bytes(weights))
    sign(folder)


def test_what_is_no_source(tiny: Tiny, toys: Toys) -> None:
    for place in ("nowhere", "toy", "toy/toy.inter"):
        assert "neither a pretrained model nor a bundle" in refused(tiny.root / place)
    folder, _ = save(tiny, toys, softmax_samples=5)
    assert isinstance(read_source(folder), PretrainedSource)
    (folder / "manifest.json").write_text('{"format": "x"}', encoding="utf-8")
    assert "neither a pretrained model nor a bundle" in refused(folder)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", [*sorted(CONTENTS), "manifest.json"])
def test_a_changed_or_missing_file_is_refused(
    tiny: Tiny, toys: Toys, name: str, signed: bool
) -> None:
    folder, _ = save(tiny, toys)
    path = folder / name
    original = path.read_bytes()
    for changed in (original[: len(original) // 2], b"", None):
        path.unlink() if changed is None else path.write_bytes(changed)
        if signed and name != "manifest.json":
            sign(folder)
        refused(folder)


@pytest.mark.parametrize("text", OTHER_JSON.values(), ids=OTHER_JSON)
@pytest.mark.parametrize("name", ["manifest.json", "config.json", "items.json", "corpus.json"])
def test_json_of_another_kind_is_refused(tiny: Tiny, toys: Toys, name: str, text: str) -> None:
    folder, _ = save(tiny, toys)
    (folder / name).write_text(text, encoding="latin-1")
    if name != "manifest.json":
        sign(folder)
    refused(folder)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("manifest.json", "format"),
        ("manifest.json", "sha256"),
        ("config.json", "model"),
        ("config.json", "keys"),
        ("corpus.json", "domains"),
        ("corpus.json", "vocabularies"),
        ("corpus.json", "codebook_sizes"),
        ("corpus.json", "inputs"),
    ],
)
def test_a_key_that_is_gone_or_of_another_type_is_refused(
    tiny: Tiny, toys: Toys, name: str, key: str
) -> None:
    folder, _ = save(tiny, toys)
    objects: list[Any] = (
        [{}, {"a": None}] if key != "inputs" else []
    )  # any files may have been read
    for value in (None, 7, "x", [], [7], ["a", "a"], [["a"]], *objects):
        change_json(folder / name, lambda content, value=value: content | {key: value})
        refused(folder)
    change_json(folder / name, lambda content: {k: v for k, v in content.items() if k != key})
    refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 32},
        {"hidden_size": "16"},
        {"hidden_size": None},
        {"n_layers": 2},
        {"n_layers": 10**6},
        {"inner_size": 2**34},
        {"item_representation": "word"},
        {"MAX_ITEM_LIST_LENGTH": 9},
        {"mask_mix": 7},
    ],
)
def test_an_edited_config_is_refused(tiny: Tiny, toys: Toys, change: dict[str, Any]) -> None:
    folder, _ = save(tiny, toys)
    change_json(
        folder / "config.json", lambda content: content | {"keys": content["keys"] | change}
    )
    refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda items: items[:-1],
        lambda items: [*items, ["B", "new"]],
        lambda items: [*items[:-1], items[0]],
        lambda items: [*items[:-1], ["C", "i1"]],
        lambda items: [*items[:-1], ["B", 1]],
        lambda items: [*items[:-1], ["B"]],
        lambda items: [*items[:-1], None],
        lambda items: [item for _, item in items],
    ],
)
def test_edited_items_are_refused(tiny: Tiny, toys: Toys, change: Any) -> None:
    folder, _ = save(tiny, toys)
    change_json(folder / "items.json", change)
    refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("mask_token"),
        lambda weights: weights.update(more=torch.zeros(2)),
        lambda weights: weights.update(mask_token=weights["mask_token"][:, :-1].contiguous()),
        lambda weights: weights["mask_token"].fill_(torch.nan),
        lambda weights: weights.clear(),
    ],
)
def test_edited_weights_are_refused(tiny: Tiny, toys: Toys, change: Any) -> None:
    folder, _ = save(tiny, toys)
    change_weights(folder, change)
    refused(folder)


def test_a_run_says_that_its_source_is_damaged(tiny: Tiny, toys: Toys) -> None:
    folder, _ = save(tiny, toys)
    (folder / "corpus.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"^pre_model_path: .*corpus\.json: missing or changed"):
        settings = tiny.settings("QBERT4Rec", pre_model_path=str(folder))
        run_models(["QBERT4Rec"], "B", settings=settings)
