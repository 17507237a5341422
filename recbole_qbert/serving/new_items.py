"""New items in a model bundle, without training (`ids add-items --bundle`).

A model can take new items if it has a method `with_items(codes)`, which returns its weights with
the items of the given codes [n, K] at the end. The numbers, IDs and weights of the old items stay.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from recbole_qbert.common.errors import InputError, error_context
from recbole_qbert.common.files import read_json
from recbole_qbert.common.output import counted
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids
from recbole_qbert.serving.bundle import (
    BundleContent,
    build_again,
    settings_of,
    storable,
    trial_histories,
    write_bundle,
)
from recbole_qbert.serving.loading import LoadedBundle, load_bundle
from recbole_qbert.serving.scoring import scores_of
from recbole_qbert.serving.stand_in import stand_in
from recbole_qbert.serving.titles import usual_titles
from recbole_qbert.training.checkpoint import load_checkpoint


class OpenBundle(NamedTuple):
    """A bundle that can take new items."""

    folder: Path
    loaded: LoadedBundle
    table: SemanticIDTable


def open_bundle(folder: Path, vocabulary: str) -> OpenBundle:
    """Load a bundle that is to take new items.

    Args:
        folder: the bundle.
        vocabulary: name of the code vocabulary of the new items' IDs.

    Raises:
        InputError: the bundle cannot be loaded, its model cannot take new items, or its semantic
            IDs are of another vocabulary.
    """
    loaded = load_bundle(folder, "cpu")
    name = loaded.config["model"]
    if not hasattr(loaded.model, "with_items") or loaded.codes is None:
        raise InputError(
            f"{folder}: {name} cannot take new items, because it does not make items' vectors from "
            "semantic IDs alone; train it again with the new items"
        )
    table = read_semantic_ids(folder / "items.semid")
    if table.vocabulary != vocabulary:
        raise InputError(
            f"{folder}: its semantic IDs are not from this tokenizer; give that of the bundle with "
            "--tokenizer, or train the model again"
        )
    with error_context(f"{folder}: {name} cannot take new items, train it again"):
        loaded.model.with_items(loaded.codes[:0])
    return OpenBundle(folder, loaded, table)


def add_items(bundle: OpenBundle, new: SemanticIDTable, item_file: Path, output: Path) -> list[str]:
    """Write a bundle with all items of `new`, and return the tokens that were added.

    The written bundle appears whole or not at all; if there is nothing to add, none is written.

    Args:
        bundle: the bundle.
        new: semantic IDs of old and new items, in the vocabulary of the bundle.
        item_file: `.item` file with the titles of the new items; it need not exist.
        output: folder of the new bundle, which may be that of the old one.

    Raises:
        InputError: an old item has another ID in `new`, or an ID is taken.
    """
    model, config, tokens, titles, *_ = bundle.loaded
    common = [item for item in bundle.table.items if item in new]
    same_levels = bundle.table.codebook_sizes == new.codebook_sizes
    if not same_levels or (bundle.table.codes_for(common) != new.codes_for(common)).any():
        raise InputError(f"{bundle.folder}: old items have other semantic IDs; train again")
    known = {*tokens}
    added = [item for item in new.items if item not in known]
    if not added:
        return []
    table = bundle.table.joined(new)
    tokens = [*tokens, *added]
    if titles is not None:
        titles = [*titles, *(usual_titles(item_file, added) or [""] * len(added))]
    content = read_json(bundle.folder / "config.json")
    notes = load_checkpoint(bundle.folder / "dataset.safetensors")
    if notes.get("item_feat") is not None:
        raise InputError(f"{bundle.folder}: its model reads item features; train it again")
    notes["field2id_token"][notes["iid_field"]] = len(tokens) + 1
    weights = storable(model.with_items(torch.from_numpy(table.codes_for(added))))
    settings = settings_of(content, torch.device("cpu"))
    grown = build_again(settings, stand_in(settings, tokens, table, notes), weights)
    histories = trial_histories(config["MAX_ITEM_LIST_LENGTH"], len(known) + 1)
    before, after = (scores_of(each, config, *histories) for each in (model, grown))
    if not torch.allclose(after[:, : before.size(1)], before, rtol=1e-5, atol=1e-5):
        raise InputError(f"{bundle.folder}: scores of old items would change; train it again")
    write_bundle(output, BundleContent(content, tokens, titles, table, notes, weights))
    return added


def added_line(output: Path, added: list[str], n_items: int) -> str:
    """Describe the result of `add_items`; the bundle then has `n_items` items."""
    if not added:
        return f"{output}: the bundle has all items already; nothing written"
    return f"{output}: {counted(len(added), 'new item')}; {counted(n_items, 'item')} in all"
