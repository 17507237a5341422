"""`tokenize`: embeddings -> stage 1 -> stage 2 -> unique semantic IDs, each stage kept.

A tokenizer is a folder. Each stage leaves one file with a hash of all it depends on; a stage whose
file is there with the same hash is not run again, and a stage that was killed half-way goes on from
its last kept epoch.

    tokenizer.json                settings, domains, what each stage reports
    stage1.safetensors            the injector, fused vectors and depths
    stage2.<stream>.safetensors   a quantiser and the codes of all items
    ids.safetensors               items and their unique codes; grows with `encode-items`

A *stream* is what a quantiser reads: `fused` (stage 1), a modality's own vectors (`content`: each
modality that has a table), or `identity` (vectors of co-occurrence in training). The levels of
several streams stand side by side.

N items, K levels of all streams, D dimension.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_qbert._version import __version__
from recbole_qbert.checkpoint import is_checkpoint, load_checkpoint, save_checkpoint
from recbole_qbert.data.domain import Domain
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.errors import InputError
from recbole_qbert.files import read_json, sha256_file, write_json
from recbole_qbert.injection.agreement import agreement_report
from recbole_qbert.injection.cooccurrence import cooccurrence, cooccurrence_vectors
from recbole_qbert.injection.fit import Injector, TrainingSettings, fit_injector
from recbole_qbert.injection.model import InjectionSettings
from recbole_qbert.neighbours import unit_rows
from recbole_qbert.tokenizer.inputs import Catalogue, read_catalogue, read_training_pairs
from recbole_qbert.tokenizer.quantiser import Quantiser, fit_quantiser, load_quantiser
from recbole_qbert.tokenizer.reallocate import reallocate
from recbole_qbert.tokenizer.settings import CONTENT, FUSED, IDENTITY, needed_modalities
from recbole_qbert.tokenizer.unique import extra_level

logger = logging.getLogger(__name__)

FORMAT = "recbole-qbert/tokenizer/1"
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
        quantisers: stage 2, one a stream, in the order of the levels.
        fills: what a stream's quantiser reads for an item without a vector, [D] each.
        keys: (domain, item) of every item with an ID.
        codes: int64 [N, K], unique.
        codebook_sizes: K.
        report: what each stage reported.
        shapes: parts and dimension of each modality.
    """

    folder: Path
    settings: dict[str, Any]
    injector: Injector | None
    quantisers: dict[str, Quantiser]
    fills: dict[str, np.ndarray]
    keys: list[tuple[str, str]]
    codes: np.ndarray
    codebook_sizes: tuple[int, ...]
    report: dict[str, Any]
    shapes: dict[str, tuple[int, int]]

    @property
    def vocabulary(self) -> str:
        """What the codes mean, as a name: that of the fitted quantisers, whatever the items."""
        hashes = [
            sha256_file(self.folder / f"stage2.{name}.safetensors") for name in self.quantisers
        ]
        return "tokenizer:" + hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    def save_ids(self) -> None:
        """Write the items and their codes."""
        content = {"keys": [list(key) for key in self.keys], "codes": self.codes}
        save_checkpoint(self.folder / "ids.safetensors", content)

    def save(self) -> None:
        """Write the IDs and the manifest; the stages have written themselves."""
        self.save_ids()
        content = {
            "format": FORMAT,
            "version": __version__,
            "settings": self.settings,
            "streams": list(self.quantisers),
            "codebook_sizes": list(self.codebook_sizes),
            "shapes": self.shapes,
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
        quantisers, fills = {}, {}
        for stream in manifest["streams"]:
            state = load_checkpoint(folder / f"stage2.{stream}.safetensors")["state"]
            quantisers[stream], fills[stream] = load_quantiser(state["quantiser"]), state["fill"]
        ids = load_checkpoint(folder / "ids.safetensors")
        return cls(
            folder=folder,
            settings=manifest["settings"],
            injector=injector,
            quantisers=quantisers,
            fills=fills,
            keys=[(domain, item) for domain, item in ids["keys"]],
            codes=ids["codes"],
            codebook_sizes=tuple(manifest["codebook_sizes"]),
            report=manifest["report"],
            shapes={name: (parts, size) for name, (parts, size) in manifest["shapes"].items()},
        )

    def encode(self, streams: Streams) -> np.ndarray:
        """Codes of all streams side by side, int64 [n, K], not yet unique."""
        blocks = [
            quantiser.encode(filled(*streams[name], self.fills[name]))
            for name, quantiser in self.quantisers.items()
        ]
        return np.concatenate(blocks, axis=1)

    def distances(self, streams: Streams, rows: np.ndarray) -> np.ndarray:
        """D of eq. 10 for some items, all streams side by side: float32 [m, K, C]."""
        blocks = []
        for name, quantiser in self.quantisers.items():
            vectors, present = streams[name]
            taken = filled(vectors[rows], present[rows], self.fills[name])
            blocks.append(quantiser.distances(taken))
        widest = max(block.shape[2] for block in blocks)
        padded = [
            np.pad(block, ((0, 0), (0, 0), (0, widest - block.shape[2])), constant_values=np.inf)
            for block in blocks
        ]
        return np.concatenate(padded, axis=1)

    def write_ids(self, domains: Sequence[Domain], sources: Mapping[str, Any]) -> None:
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
            }
            write_semantic_ids(domain.file(self.settings["output"]), table, source)


def tokenize(
    domains: Sequence[Domain],
    folder: Path,
    settings: Mapping[str, Any],
) -> Tokenizer | None:
    """Give every item of the domains a semantic ID, in one vocabulary.

    Args:
        domains: data sets with embeddings beside them; see `read_catalogue`.
        folder: where the tokenizer lies or will lie.
        settings: of `tokenize_settings`.

    Returns:
        The tokenizer, its IDs written beside each data set; None if `until` stops before that.

    Raises:
        InputError: a file or setting that cannot be used, or a collapsed codebook.
    """
    catalogue = read_catalogue(domains, needed_modalities(settings))
    names = _stream_names(catalogue, settings["streams"])
    streams: Streams = {}
    report: dict[str, Any] = {}
    counts = None
    if IDENTITY in names or settings["id_query"] == "interactions":
        counts = cooccurrence(read_training_pairs(domains), catalogue.names)
    injector = None
    if FUSED in names or settings["until"] == "injection":
        injector, fused = _stage1(catalogue, counts, folder, settings, report)
        streams[FUSED] = (fused, np.ones(len(fused), dtype=np.bool_))
    if settings["until"] == "injection":
        return None
    if IDENTITY in names:
        vectors = cooccurrence_vectors(counts, settings["identity_size"], settings["seed"])
        streams[IDENTITY] = (vectors, vectors.any(axis=1))
    streams |= modality_streams(catalogue, names)

    quantisers, fills, blocks = {}, {}, []
    for name in names:
        quantisers[name], fills[name], codes = _stage2(name, streams[name], folder, settings)
        blocks.append(codes)
        report[f"stage 2, {name}"] = quantisers[name].report(filled(*streams[name], fills[name]))
    if settings["until"] == "quantisation":
        return None
    sizes = tuple(size for each in quantisers.values() for size in each.codebook_sizes)
    tokenizer = Tokenizer(
        folder=folder,
        settings=dict(settings),
        injector=injector,
        quantisers=quantisers,
        fills=fills,
        keys=catalogue.keys,
        codes=np.concatenate(blocks, axis=1),
        codebook_sizes=sizes,
        report=report,
        shapes={
            name: (vectors.shape[1], vectors.shape[2])
            for name, (vectors, _) in catalogue.parts.items()
        },
    )
    _make_unique(tokenizer, catalogue, streams)
    tokenizer.save()
    tokenizer.write_ids(domains, catalogue.sources)
    return tokenizer


def _stream_names(catalogue: Catalogue, wanted: Sequence[str]) -> list[str]:
    """The wanted streams, `content` replaced by the modalities there are."""
    names: list[str] = []
    for name in wanted:
        names += catalogue.parts if name == CONTENT else [name]
    return names


def modality_streams(catalogue: Catalogue, wanted: Sequence[str]) -> Streams:
    """Each wanted modality's vectors: of length 1, the mean over an item's parts."""
    streams: Streams = {}
    for name in wanted:
        if name in (FUSED, IDENTITY):
            continue
        if name not in catalogue.parts:
            raise InputError(f"streams: {name}: no data set has {name} embeddings; make them")
        vectors, present = catalogue.parts[name]
        counts = np.maximum(present.sum(axis=1, keepdims=True), 1)
        streams[name] = (unit_rows(vectors.sum(axis=1) / counts), present.any(axis=1))
    return streams


def filled(vectors: np.ndarray, present: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """The vectors, with `fill` where an item has none."""
    return vectors if present.all() else np.where(present[:, None], vectors, fill)


def _stage1(
    catalogue: Catalogue,
    counts: Any,
    folder: Path,
    settings: Mapping[str, Any],
    report: dict[str, Any],
) -> tuple[Injector, np.ndarray]:
    """Train stage 1, or read it where it is there already; h [N, D]."""
    model, training = injection_settings(settings)
    queries = None
    if settings["id_query"] == "interactions":
        queries = cooccurrence_vectors(counts, model.hidden_size, settings["seed"])
    arrays = [array for pair in catalogue.parts.values() for array in pair]
    arrays += [] if queries is None else [queries]
    identity = _hash([settings["injection"], settings["seed"], list(catalogue.parts)], arrays)
    path = folder / "stage1.safetensors"
    kept = _kept(path, identity)
    if kept is None:
        injector = fit_injector(
            catalogue.parts,
            model,
            training,
            seed=settings["seed"],
            queries=queries,
            folder=folder,
            show_progress=settings["show_progress"],
        )
        fused, depths = injector.fuse(catalogue.parts)
        summary = {
            "loss": injector.history[-1] if injector.history else {},
            "depths": np.bincount(depths, minlength=model.max_depth + 1)[1:].tolist(),
            "neighbours": agreement_report(fused, catalogue.parts, counts),
        }
        kept = {"state": injector.state(), "fused": fused, "report": summary}
        save_checkpoint(path, {"identity": identity, **kept})
    report["stage 1"] = kept["report"]
    return Injector.from_state(kept["state"]), kept["fused"]


def injection_settings(
    settings: Mapping[str, Any],
) -> tuple[InjectionSettings, TrainingSettings]:
    """The section `injection`, as stage 1 takes it."""
    section = dict(settings["injection"])
    names = ("epochs", "batch_size", "learning_rate", "weight_decay")
    training = TrainingSettings(**{name: section.pop(name) for name in names})
    return InjectionSettings(**section), training


def _stage2(
    name: str, stream: tuple[np.ndarray, np.ndarray], folder: Path, settings: Mapping[str, Any]
) -> tuple[Quantiser, np.ndarray, np.ndarray]:
    """Fit a stream's quantiser, or read it; also its fill vector and the codes [N, K]."""
    vectors, present = stream
    method = settings["quantiser"]
    section = {
        "n_levels": settings["n_levels"],
        "codebook_size": settings["codebook_size"],
        **settings[method],
    }
    if not present.any():
        raise InputError(f"streams: {name}: no item has a vector; leave this stream out")
    identity = _hash([method, section, settings["seed"]], [vectors, present])
    path = folder / f"stage2.{name}.safetensors"
    kept = _kept(path, identity)
    if kept is None:
        having = vectors if present.all() else vectors[present]
        work = folder / f"stage2.{name}.training"
        quantiser = fit_quantiser(
            having,
            method,
            section,
            seed=settings["seed"],
            folder=work,
            show_progress=settings["show_progress"],
        )
        fill = having.mean(axis=0, dtype=np.float64).astype(np.float32)
        codes = quantiser.encode(filled(vectors, present, fill))
        state = {"quantiser": quantiser.state(), "fill": fill}
        kept = {"state": state, "codes": codes}
        save_checkpoint(path, {"identity": identity, **kept})
        if work.is_dir() and not any(work.iterdir()):
            work.rmdir()
    return load_quantiser(kept["state"]["quantiser"]), kept["state"]["fill"], kept["codes"]


def _make_unique(tokenizer: Tokenizer, catalogue: Catalogue, streams: Streams) -> None:
    """Replace the codes by unique ones, and report how."""
    if tokenizer.settings["unique"] == "extra_level":
        before = tokenizer.codes
        tokenizer.codes, sizes = extra_level(before, tokenizer.codebook_sizes, catalogue.names)
        added = len(sizes) > len(tokenizer.codebook_sizes)
        tokenizer.report["unique"] = {"extra_level_size": sizes[-1] if added else None}
        tokenizer.codebook_sizes = sizes
        return
    result = reallocate(
        tokenizer.codes,
        lambda rows: tokenizer.distances(streams, rows),
        tokenizer.codebook_sizes,
        catalogue.names,
    )
    tokenizer.codes = result.codes
    tokenizer.report["unique"] = result.report()


def _hash(settings: Any, arrays: Sequence[np.ndarray]) -> str:
    """Hash of all that a stage depends on."""
    digest = hashlib.sha256(json.dumps([__version__, settings], sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _kept(path: Path, identity: str) -> dict[str, Any] | None:
    """A stage's file, if it was made from the very same things."""
    if not is_checkpoint(path):
        return None
    content = load_checkpoint(path)
    if content.get("identity") != identity:
        return None
    logger.info("%s: already done", path.name)
    return content
