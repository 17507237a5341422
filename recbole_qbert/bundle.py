"""A trained model as a folder: weights, config, item tokens, semantic IDs, manifest.

    model.safetensors   weights
    config.json         what the model is built from
    items.json          raw item tokens; place i is internal id i + 1 (0 is padding)
    <...>.semid         the semantic IDs, where the model has any
    manifest.json       format, model name, hashes of the files above, versions, data counts

Nothing in it can run code. The folder appears whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from recbole.data.interaction import Interaction
from safetensors.torch import load_file, save
from torch import Tensor

from recbole_qbert._version import __version__
from recbole_qbert.checkpoint import config_from_json, config_to_json
from recbole_qbert.data.dataset import TrainingRows
from recbole_qbert.data.semid import SemanticIDCodec, read_semantic_ids, write_semantic_ids
from recbole_qbert.errors import InputError, preview
from recbole_qbert.files import (
    atomic_folder,
    check_folder,
    read_json,
    recovered,
    sha256_folder,
    write_json,
)
from recbole_qbert.registry import model_entry

FORMAT = "recbole-qbert/bundle/1"
REQUIRED = frozenset(("model.safetensors", "config.json", "items.json"))


class Catalogue(NamedTuple):
    """What a model asks of its data set when it is built from a bundle."""

    tokens: list[str]  # of the real items
    item_codes: Tensor | None  # [N, K]
    codec: SemanticIDCodec | None
    repeats: bool

    @property
    def item_num(self) -> int:
        """N, padding included."""
        return len(self.tokens) + 1

    def num(self, field: str) -> int:
        """RecBole's models ask for the number of items by field name."""
        return self.item_num

    def training_repeats(self) -> bool:
        """As it was in training."""
        return self.repeats

    def training_rows(self, batch_size: int, max_length: int) -> TrainingRows:
        """None: training has ended."""
        none = torch.zeros(0, dtype=torch.long)
        return TrainingRows(none, none, none.double())


def save_bundle(folder: str | Path, model: Any, config: Any, dataset: Any) -> None:
    """Write a trained model of this package's; an older bundle in `folder` is replaced."""
    with atomic_folder(folder) as work:
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        (work / "model.safetensors").write_bytes(save(weights))
        write_json(work / "config.json", config_to_json(config))
        tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
        with open(work / "items.json", "w", encoding="utf-8") as handle:
            json.dump(tokens, handle, ensure_ascii=False)
        if dataset.semantic_ids is not None:
            write_semantic_ids(
                work / "items.semid", dataset.semantic_ids, {"copied_into": "a model bundle"}
            )
        manifest = {
            "format": FORMAT,
            "model": config["model"],
            "version": __version__,
            "torch": torch.__version__,
            "n_items": len(tokens),
            "training_repeats": bool(dataset.training_repeats()),
            "sha256": sha256_folder(work),
        }
        write_json(work / "manifest.json", manifest)


class Recommender:
    """A loaded bundle: recommendations for histories of raw item tokens."""

    def __init__(self, model: Any, catalogue: Catalogue, max_length: int, device: torch.device):
        self.model = model.to(device).eval()
        self.catalogue = catalogue
        self.max_length = max_length
        self.device = device
        self._ids = {token: number for number, token in enumerate(catalogue.tokens, start=1)}

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Recommender:
        """Read a bundle.

        Raises:
            InputError: not a bundle, or a file in it was changed.
        """
        folder = Path(folder)
        manifest = read_json(recovered(folder) / "manifest.json")
        digests: Any = manifest.get("sha256")
        complete = isinstance(digests, dict) and "training_repeats" in manifest
        if manifest.get("format") != FORMAT or not complete or not digests.keys() >= REQUIRED:
            raise InputError(
                f"{folder}: not a model bundle of this version; train and save it again"
            )
        check_folder(folder, digests)
        config = config_from_json(read_json(folder / "config.json"))
        tokens = json.loads((folder / "items.json").read_text(encoding="utf-8"))
        codes, codec = None, None
        if "items.semid" in digests:
            table = read_semantic_ids(folder / "items.semid")
            codec = table.codec
            codes = torch.zeros(len(tokens) + 1, table.n_levels, dtype=torch.long)
            codes[1:] = torch.from_numpy(table.codes_for(tokens))
        catalogue = Catalogue(tokens, codes, codec, manifest["training_repeats"])
        model = model_entry(manifest["model"]).model(config, catalogue)
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (safetensors.SafetensorError, RuntimeError) as error:
            raise InputError(
                f"{folder}: weights do not fit the config: {str(error).splitlines()[0]}"
            ) from None
        return cls(model, catalogue, config["MAX_ITEM_LIST_LENGTH"], torch.device(device))

    @torch.no_grad()
    def recommend(
        self, histories: Sequence[Sequence[str]], k: int = 10, exclude_seen: bool = True
    ) -> list[list[tuple[str, float]]]:
        """The best `k` items, each with its score (a logit, no probability), for each history.

        Args:
            histories: raw item tokens, oldest first; only the last `MAX_ITEM_LIST_LENGTH` count.
            k: how many.
            exclude_seen: leave a history's own items out, however long it is.

        Raises:
            InputError: an item the model does not know, or k larger than the catalogue.
        """
        unknown = sorted({str(i) for history in histories for i in history if i not in self._ids})
        if unknown:
            raise InputError(f"{len(unknown)} items are unknown to the model: {preview(unknown)}")
        if not 0 < k < self.catalogue.item_num:
            raise InputError(f"k: {k} is not between 1 and the {len(self.catalogue.tokens)} items")
        if not histories:
            return []
        seen = [[self._ids[item] for item in history] for history in histories]
        ids = [history[-self.max_length :] for history in seen]
        items = torch.zeros(len(ids), self.max_length, dtype=torch.long)
        for row, history in enumerate(ids):
            items[row, : len(history)] = torch.tensor(history, dtype=torch.long)
        batch = Interaction(
            {
                self.model.ITEM_SEQ: items,
                self.model.ITEM_SEQ_LEN: torch.tensor([len(history) for history in ids]),
            }
        ).to(self.device)
        scores = self.model.full_sort_predict(batch).view(len(ids), -1)
        scores[:, 0] = -torch.inf
        if exclude_seen:
            for row, history in enumerate(seen):
                scores[row, history] = -torch.inf
        best = scores.topk(k, dim=1)
        return [
            [
                (self.catalogue.tokens[i - 1], score)
                for i, score in zip(row, values, strict=False)
                if score > -torch.inf
            ]
            for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=False)
        ]
