"""A fitted tokenizer: its frozen stages, the IDs given so far, and its folder.

    tokenizer.json                settings, domains, what each stage reports
    stage1.safetensors            the injector, fused vectors and depths
    stage2.<stream>.safetensors   a quantizer and the codes of all items
    ids.safetensors               items and their unique codes; grows with `encode-items`

A *stream* is what a quantizer reads: `fused` (stage 1), a modality's own vectors (`content`: each
modality that has a table), or `identity` (vectors of co-occurrence in training). The levels of
several streams stand side by side.

N items, K levels of all streams, D dimension, C codes a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_qbert._version import __version__
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json, write_json
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import FUSED
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.tokenizer.fusion.fit import Injector
from recbole_qbert.tokenizer.quantizers.base import Quantizer
from recbole_qbert.tokenizer.quantizers.registry import load_quantizer
from recbole_qbert.training.checkpoint import load_checkpoint, save_checkpoint, state_sha256

FORMAT = "recbole-qbert/tokenizer/2"
MANIFEST = "tokenizer.json"
Streams = dict[str, tuple[np.ndarray, np.ndarray]]
"""For each stream its vectors float32 [N, D] and which items have one, bool [N]."""


@dataclass
class Tokenizer:
    """The frozen stages and the IDs given so far.

    Attributes:
        folder: where it lies.
        settings: those of `properties/tokenize.yaml`, with the user's.
        injector: stage 1, or None where no stream needs it.
        quantizers: stage 2, one a stream, in the order of the levels.
        fills: what a stream's quantizer reads for an item without a vector, [D] each.
        keys: (domain, item) of every item with an ID.
        codes: int64 [N, K], unique.
        codebook_sizes: K.
        n_spare: how many of the last levels no vector fills; they only tell equal items apart.
        report: what each stage reported.
        shapes: parts and dimension of each modality.
        encoders: what made the vectors of each modality, as its sidecar describes it.
        without_content: keys of the items that no modality has a vector of.
    """

    folder: Path
    settings: dict[str, Any]
    injector: Injector | None
    quantizers: dict[str, Quantizer]
    fills: dict[str, np.ndarray]
    keys: list[tuple[str, str]]
    codes: np.ndarray
    codebook_sizes: tuple[int, ...]
    n_spare: int
    report: dict[str, Any]
    shapes: dict[str, tuple[int, int]]
    encoders: dict[str, Any]
    without_content: list[tuple[str, str]]

    @property
    def vocabulary(self) -> str:
        """What the codes mean, as a name: that of the fitted quantizers, whatever the items."""
        states = {name: quantizer.state() for name, quantizer in self.quantizers.items()}
        return "tokenizer:" + state_sha256(states)

    def save_ids(self) -> None:
        """Write the items and their codes."""
        content = {
            "keys": [list(key) for key in self.keys],
            "codes": self.codes,
            "without_content": [list(key) for key in self.without_content],
        }
        save_checkpoint(self.folder / "ids.safetensors", content)

    def save(self) -> None:
        """Write the IDs and the manifest; the stages have written themselves."""
        self.save_ids()
        content = {
            "format": FORMAT,
            "version": __version__,
            "settings": self.settings,
            "streams": list(self.quantizers),
            "codebook_sizes": list(self.codebook_sizes),
            "n_spare": self.n_spare,
            "shapes": self.shapes,
            "encoders": self.encoders,
            "report": self.report,
        }
        write_json(self.folder / MANIFEST, content)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read a finished tokenizer.

        Raises:
            InputError: it is not there, or not finished.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise InputError(f"{folder}: no finished tokenizer; run `recbole-qbert tokenize` first")
        manifest = read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise InputError(f"{folder / MANIFEST}: not of this version; tokenize again")
        injector = None
        if FUSED in manifest["streams"]:
            injector = Injector.from_state(load_checkpoint(folder / "stage1.safetensors")["state"])
        quantizers, fills = {}, {}
        for stream in manifest["streams"]:
            state = load_checkpoint(folder / f"stage2.{stream}.safetensors")["state"]
            quantizers[stream], fills[stream] = load_quantizer(state["quantizer"]), state["fill"]
        ids = load_checkpoint(folder / "ids.safetensors")
        return cls(
            folder=folder,
            settings=manifest["settings"],
            injector=injector,
            quantizers=quantizers,
            fills=fills,
            keys=[(domain, item) for domain, item in ids["keys"]],
            codes=ids["codes"],
            codebook_sizes=tuple(manifest["codebook_sizes"]),
            n_spare=manifest["n_spare"],
            report=manifest["report"],
            shapes={name: (parts, size) for name, (parts, size) in manifest["shapes"].items()},
            encoders=manifest["encoders"],
            without_content=[(domain, item) for domain, item in ids["without_content"]],
        )

    def encode(self, streams: Streams) -> np.ndarray:
        """Codes of all streams side by side, int64 [n, K], not yet unique."""
        blocks = [
            quantizer.encode(filled(*streams[name], self.fills[name]))
            for name, quantizer in self.quantizers.items()
        ]
        return np.pad(np.concatenate(blocks, axis=1), ((0, 0), (0, self.n_spare)))

    def distances(self, streams: Streams, rows: np.ndarray) -> np.ndarray:
        """D of eq. 10 for some items, all streams side by side: float32 [m, K, C]."""
        blocks = []
        for name, quantizer in self.quantizers.items():
            vectors, present = streams[name]
            taken = filled(vectors[rows], present[rows], self.fills[name])
            blocks.append(quantizer.distances(taken))
        if self.n_spare:  # their codes are all equally near
            shape = (len(rows), self.n_spare, self.codebook_sizes[-1])
            blocks.append(np.zeros(shape, np.float32))
        widest = max(block.shape[2] for block in blocks)
        padded = [
            np.pad(block, ((0, 0), (0, 0), (0, widest - block.shape[2])), constant_values=np.inf)
            for block in blocks
        ]
        return np.concatenate(padded, axis=1)

    def write_ids(self, domains: Sequence[DatasetPaths], sources: Mapping[str, Any]) -> None:
        """Write each domain's `.semid`, all items of it that have an ID."""
        rows: dict[str, list[int]] = {}
        for row, (name, _) in enumerate(self.keys):
            rows.setdefault(name, []).append(row)
        for domain in domains:
            own = rows[domain.name]
            items = tuple(self.keys[row][1] for row in own)
            table = SemanticIDTable(
                items, self.codes[own], self.codebook_sizes, vocabulary=self.vocabulary
            )
            source = {
                "method": "tokenize",
                "domains": sorted(rows),
                "settings": self.settings,
                "files": dict(sources),
                "report": self.report,
                "without_content": [
                    item for name, item in self.without_content if name == domain.name
                ],
            }
            write_semantic_ids(domain.file(self.settings["output"]), table, source)


def filled(vectors: np.ndarray, present: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """The vectors, with `fill` where an item has none."""
    return vectors if present.all() else np.where(present[:, None], vectors, fill)
