"""Fitted tokenizer: its frozen stages, the IDs assigned so far, and its folder.

    tokenizer.json                settings, streams, report of each stage
    stage1.safetensors            the trained stage 1, the fused vectors and a report
    stage2.<stream>.safetensors   a quantizer and the codes of all items
    ids.safetensors               items and their unique codes; grows with `ids add-items`

A *stream* is one table of vectors with a quantizer of its own: `fused` (output of stage 1), a
modality's vectors (`content` stands for every modality that has a table), `identity` (vectors of
co-occurrence in training), or `bbq` (behavior-bound latents, trained with their quantizer). The
levels of several streams are concatenated.

Shapes: N items, n or m some of them, K levels of all streams, D dimensions, C codes per level.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_qbert._version import __version__
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json, write_json
from recbole_qbert.common.output import counted
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embedding_kinds import TableKind
from recbole_qbert.data.embeddings import BBQ, FUSED
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids, write_semantic_ids
from recbole_qbert.tokenizer.fusion.bbq_fit import Binder
from recbole_qbert.tokenizer.fusion.stage1 import TrainedFusion, load_stage1
from recbole_qbert.tokenizer.quantizers.base import Quantizer
from recbole_qbert.tokenizer.quantizers.registry import load_quantizer
from recbole_qbert.training.checkpoint import load_checkpoint, save_checkpoint, state_sha256

logger = logging.getLogger(__name__)

FORMAT = "recbole-qbert/tokenizer/2"
MANIFEST = "tokenizer.json"
Streams = dict[str, tuple[np.ndarray, np.ndarray]]
"""Maps each stream to its vectors float32 [N, D] and a mask bool [N], True for items with one."""


@dataclass
class Tokenizer:
    """The frozen stages and the IDs assigned so far.

    Attributes:
        folder: the tokenizer's folder.
        settings: those of `properties/tokenize.yaml`, overridden by the user's.
        stage1: None if no stream needs it.
        binder: encoders of the stream `bbq`, or None without it.
        quantizers: stage 2, one quantizer per stream, in the order of the levels.
        fills: for each stream, the vector [D] of items that have none.
        keys: (domain, item) of each item with an ID.
        codes: int64 [N, K], unique.
        codebook_sizes: K sizes.
        n_spare: number of last levels that encode no vector and only separate equal items.
        report: report of each stage.
        kinds: shape and encoder of each modality's tables.
        without_content: keys of the items without a vector in any modality.
    """

    folder: Path
    settings: dict[str, Any]
    stage1: TrainedFusion | None
    binder: Binder | None
    quantizers: dict[str, Quantizer]
    fills: dict[str, np.ndarray]
    keys: list[tuple[str, str]]
    codes: np.ndarray
    codebook_sizes: tuple[int, ...]
    n_spare: int
    report: dict[str, Any]
    kinds: dict[str, TableKind]
    without_content: list[tuple[str, str]]

    @property
    def vocabulary(self) -> str:
        """Name of the code vocabulary: a hash of the fitted quantizers."""
        states = {name: quantizer.state() for name, quantizer in self.quantizers.items()}
        return "tokenizer:" + state_sha256(states)

    def save_ids(self) -> None:
        """Write the items and their codes."""
        content = {
            name: list(map(list, getattr(self, name))) for name in ("keys", "without_content")
        }
        save_checkpoint(self.folder / "ids.safetensors", {**content, "codes": self.codes})

    def save(self) -> None:
        """Write the IDs and the manifest; `tokenize` has already written the stages."""
        (self.folder / MANIFEST).unlink(missing_ok=True)  # of an earlier tokenizer, with other IDs
        self.save_ids()
        content = {
            "format": FORMAT,
            "version": __version__,
            "settings": self.settings,
            "streams": list(self.quantizers),
            "codebook_sizes": list(self.codebook_sizes),
            "n_spare": self.n_spare,
            "shapes": {name: kind.shape for name, kind in self.kinds.items()},
            "encoders": {name: kind.encoder for name, kind in self.kinds.items()},
            "report": self.report,
        }
        write_json(self.folder / MANIFEST, content)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read a finished tokenizer.

        Raises:
            InputError: the tokenizer does not exist, is unfinished, or is of another version.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise InputError(f"{folder}: no finished tokenizer; run `recbole-qbert tokenize` first")
        manifest = read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise InputError(f"{folder / MANIFEST}: written by another version; tokenize again")
        stage1 = None
        if FUSED in manifest["streams"]:
            stage1 = load_stage1(load_checkpoint(folder / "stage1.safetensors")["state"])
        quantizers, fills, binder = {}, {}, None
        for stream in manifest["streams"]:
            state = load_checkpoint(folder / f"stage2.{stream}.safetensors")["state"]
            quantizers[stream], fills[stream] = load_quantizer(state["quantizer"]), state["fill"]
            if stream == BBQ:
                binder = Binder.from_state(state["binder"])
        ids = load_checkpoint(folder / "ids.safetensors")
        shapes, encoders = manifest["shapes"], manifest["encoders"]
        # JSON files are sorted by key; the stages depend on the order of the modalities.
        modalities = [name for name in manifest["settings"]["modalities"] if name in shapes]
        return cls(
            folder=folder,
            settings=manifest["settings"],
            stage1=stage1,
            binder=binder,
            quantizers=quantizers,
            fills=fills,
            keys=[(domain, item) for domain, item in ids["keys"]],
            codes=ids["codes"],
            codebook_sizes=tuple(manifest["codebook_sizes"]),
            n_spare=manifest["n_spare"],
            report=manifest["report"],
            kinds={name: TableKind(tuple(shapes[name]), encoders[name]) for name in modalities},
            without_content=[(domain, item) for domain, item in ids["without_content"]],
        )

    def encode(self, streams: Streams) -> np.ndarray:
        """Quantize all streams and concatenate their codes, int64 [n, K], not yet unique."""
        blocks = [
            quantizer.encode(filled(*streams[name], self.fills[name]))
            for name, quantizer in self.quantizers.items()
        ]
        return np.pad(np.concatenate(blocks, axis=1), ((0, 0), (0, self.n_spare)))

    def distances(self, streams: Streams, rows: np.ndarray) -> np.ndarray:
        """Compute the distances D of eq. 10 for rows [m] of the streams.

        Returns:
            float32 [m, K, C], streams concatenated, infinite where a level has fewer than C codes.
        """
        shape = (len(rows), len(self.codebook_sizes), max(self.codebook_sizes))
        result = np.full(shape, np.inf, dtype=np.float32)
        level = 0
        for name, quantizer in self.quantizers.items():
            vectors, present = streams[name]
            own = quantizer.distances(filled(vectors[rows], present[rows], self.fills[name]))
            result[:, level : level + own.shape[1], : own.shape[2]] = own
            level += own.shape[1]
        result[:, level:, : self.codebook_sizes[-1]] = 0  # all codes of a spare level are equal
        return result

    def write_ids(self, domains: Sequence[DatasetPaths], sources: Mapping[str, Any]) -> None:
        """Write the `.semid` file of each domain, and the input files' hashes to its sidecar."""
        names = np.array([name for name, _ in self.keys], dtype=object)
        last = len(self.codebook_sizes) - 1
        for domain in domains:
            rows = np.flatnonzero(names == domain.name)
            items = tuple(self.keys[row][1] for row in rows)
            table = SemanticIDTable(
                items,
                self.codes[rows],
                self.codebook_sizes,
                vocabulary=self.vocabulary,
                extra_level=last if self.report["unique"].get("extra_level") else None,
            )
            source = {
                "method": "tokenize",
                "domains": sorted({*names}),
                "settings": self.settings,
                "files": dict(sources),
                "report": self.report,
                "without_content": [
                    item for name, item in self.without_content if name == domain.name
                ],
            }
            path = domain.file(self.settings["output"])
            _warn_of_other_ids(path, table)
            write_semantic_ids(path, table, source)


def _warn_of_other_ids(path: Path, table: SemanticIDTable) -> None:
    """Report how many items have other IDs than in the file that is replaced."""
    try:
        old = read_semantic_ids(path)
    except InputError:  # no file, or one that cannot be read
        return
    common = [item for item in table.items if item in old]
    n_other = len(common)
    if old.n_levels == table.n_levels:
        n_other = int((old.codes_for(common) != table.codes_for(common)).any(axis=1).sum())
    if n_other:
        logger.warning(
            "%s: %s of %s other semantic IDs than before; train models that read them again",
            path, f"{n_other:,}", counted(len(common), "item has", "items have"),
        )  # fmt: skip


def filled(vectors: np.ndarray, present: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Replace vectors [n, D] by `fill` [D] where `present` [n] is False."""
    return vectors if present.all() else np.where(present[:, None], vectors, fill)
