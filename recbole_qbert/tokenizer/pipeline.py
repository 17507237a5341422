"""Tokenizer pipeline (`tokenize`): embeddings -> stage 1 -> stage 2 -> unique semantic IDs.

Each stage writes one file to the tokenizer's folder (see `artifact.py`), with a hash of everything
it depends on. A stage whose file has the same hash is not run again. A killed stage continues from
its last saved epoch.

Shapes: N items, K levels of all streams, D dimensions.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.nearest import unit_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import CONTENT, FUSED, IDENTITY
from recbole_qbert.tokenizer.artifact import Streams, Tokenizer, filled
from recbole_qbert.tokenizer.catalog import TokenizerInputs, read_catalog, read_training_pairs
from recbole_qbert.tokenizer.collision_fallback import extra_level
from recbole_qbert.tokenizer.collisions import reallocate
from recbole_qbert.tokenizer.fusion.agreement import agreement_report
from recbole_qbert.tokenizer.fusion.cooccurrence import cooccurrence, cooccurrence_vectors
from recbole_qbert.tokenizer.fusion.fit import Injector, fit_injector
from recbole_qbert.tokenizer.quantizers.base import Quantizer
from recbole_qbert.tokenizer.quantizers.registry import load_quantizer
from recbole_qbert.tokenizer.settings import injection_settings, needed_modalities
from recbole_qbert.tokenizer.sizes import (
    AUTO,
    MOST_LEVELS,
    fit_levels,
    spare_sizes,
    stream_sizes,
    warn_of_sharing,
)
from recbole_qbert.training.checkpoint import is_checkpoint, load_checkpoint, save_checkpoint

logger = logging.getLogger(__name__)

# Version of the algorithms, part of each stage's hash. Increase it when a stage computes another
# result from the same inputs. The package version is not hashed, so that a release does not
# retrain tokenizers.
ALGORITHM = 1


def tokenize(
    domains: Sequence[DatasetPaths],
    folder: Path,
    settings: Mapping[str, Any],
) -> Tokenizer | None:
    """Assign a semantic ID to each item of the domains, in one code vocabulary.

    Args:
        domains: data sets with their embedding tables; see `read_catalog`.
        folder: the tokenizer's folder, new or from an earlier run.
        settings: result of `tokenize_settings`.

    Returns:
        The tokenizer, after its IDs were written beside each data set; None if the setting `until`
        ends the pipeline earlier.

    Raises:
        InputError: a file or setting is invalid, or a codebook collapsed.
    """
    catalog = read_catalog(domains, needed_modalities(settings))
    names = _stream_names(catalog, settings["streams"])
    streams: Streams = {}
    report: dict[str, Any] = {}
    counts = None
    if IDENTITY in names or settings["id_query"] == "interactions":
        counts = cooccurrence(read_training_pairs(domains), catalog.names)
    injector = None
    if FUSED in names or settings["until"] == "injection":
        injector, fused = _stage1(catalog, counts, folder, settings, report)
        streams[FUSED] = (fused, np.ones(len(fused), dtype=np.bool_))
    if settings["until"] == "injection":
        return None
    if IDENTITY in names:
        vectors = cooccurrence_vectors(counts, settings["identity_size"], settings["seed"])
        streams[IDENTITY] = (vectors, vectors.any(axis=1))
    streams |= modality_streams(catalog, names)

    quantizers: dict[str, Quantizer] = {}
    fills: dict[str, np.ndarray] = {}
    blocks: list[np.ndarray] = []
    for name in names:
        quantizer, fill, codes = _stage2(name, streams[name], folder, settings)
        if _is_constant(codes, settings) and (blocks or name != names[-1]):
            logger.warning("streams: %s: its vectors are all alike; it is left out", name)
            continue
        quantizers[name], fills[name] = quantizer, fill
        blocks.append(codes)
        report[f"stage 2, {name}"] = quantizer.report(filled(*streams[name], fill))
    if settings["until"] == "quantization":
        return None
    codes = np.concatenate(blocks, axis=1)
    sizes = tuple(size for each in quantizers.values() for size in each.codebook_sizes)
    spare: tuple[int, ...] = ()
    if _may_run_out(quantizers, settings):
        spare = spare_sizes(codes, len(catalog.keys))
        codes = np.pad(codes, ((0, 0), (0, len(spare))))
    levels = [row for name in quantizers for row in report[f"stage 2, {name}"]["levels"]]
    warn_of_sharing(levels, settings)
    tokenizer = Tokenizer(
        folder=folder,
        settings=dict(settings),
        injector=injector,
        quantizers=quantizers,
        fills=fills,
        keys=catalog.keys,
        codes=codes,
        codebook_sizes=(*sizes, *spare),
        n_spare=len(spare),
        report=report,
        shapes={
            name: (vectors.shape[1], vectors.shape[2])
            for name, (vectors, _) in catalog.parts.items()
        },
        encoders=catalog.encoders,
        without_content=catalog.without_content(),
    )
    _make_unique(tokenizer, catalog, streams)
    tokenizer.save()
    tokenizer.write_ids(domains, catalog.sources)
    return tokenizer


def _stream_names(catalog: TokenizerInputs, wanted: Sequence[str]) -> list[str]:
    """Return the wanted streams, `content` replaced by the modalities in the catalog."""
    names: list[str] = []
    for name in wanted:
        names += catalog.parts if name == CONTENT else [name]
    return names


def modality_streams(catalog: TokenizerInputs, wanted: Sequence[str]) -> Streams:
    """Compute the stream of each wanted modality: normalized means over an item's parts.

    Raises:
        InputError: no domain has embeddings of the modality.
    """
    streams: Streams = {}
    for name in wanted:
        if name in (FUSED, IDENTITY):
            continue
        if name not in catalog.parts:
            raise InputError(f"streams: {name}: no data set has {name} embeddings; make them")
        vectors, present = catalog.parts[name]
        counts = np.maximum(present.sum(axis=1, keepdims=True), 1)
        streams[name] = (unit_rows(vectors.sum(axis=1) / counts), present.any(axis=1))
    return streams


def _stage1(
    catalog: TokenizerInputs,
    counts: Any,
    folder: Path,
    settings: Mapping[str, Any],
    report: dict[str, Any],
) -> tuple[Injector, np.ndarray]:
    """Train or load stage 1; return it and the fused vectors h [N, D]."""
    model, training = injection_settings(settings)
    queries = None
    if settings["id_query"] == "interactions":
        queries = cooccurrence_vectors(counts, model.hidden_size, settings["seed"])
    arrays = [array for pair in catalog.parts.values() for array in pair]
    arrays += [] if queries is None else [queries]
    identity = _hash([settings["injection"], settings["seed"], list(catalog.parts)], arrays)
    path = folder / "stage1.safetensors"
    kept = _kept(path, identity)
    if kept is None:
        injector = fit_injector(
            catalog.parts,
            model,
            training,
            seed=settings["seed"],
            queries=queries,
            folder=folder,
            show_progress=settings["show_progress"],
        )
        fused, depths = injector.fuse(catalog.parts)
        summary = {
            "loss": injector.history[-1] if injector.history else {},
            "depths": np.bincount(depths, minlength=model.max_depth + 1)[1:].tolist(),
            "neighbors": agreement_report(fused, catalog.parts, counts),
        }
        kept = {"state": injector.state(), "fused": fused, "report": summary}
        save_checkpoint(path, {"identity": identity, **kept})
    report["stage 1"] = kept["report"]
    return Injector.from_state(kept["state"]), kept["fused"]


def _stage2(
    name: str, stream: tuple[np.ndarray, np.ndarray], folder: Path, settings: Mapping[str, Any]
) -> tuple[Quantizer, np.ndarray, np.ndarray]:
    """Fit or load a stream's quantizer; return it, its fill vector [D] and the codes [N, K]."""
    vectors, present = stream
    method = settings["quantizer"]
    if not present.any():
        raise InputError(f"streams: {name}: no item has a vector; leave this stream out")
    having = vectors if present.all() else vectors[present]
    n_levels, size = stream_sizes(settings, len(vectors), having)
    may_lack = settings["n_levels"] == AUTO and not isinstance(size, list)
    section = {"n_levels": n_levels, "codebook_size": size, **settings[method]}
    identity = _hash([method, section, may_lack, settings["seed"]], [vectors, present])
    path = folder / f"stage2.{name}.safetensors"
    kept = _kept(path, identity)
    if kept is None:
        work = folder / f"stage2.{name}.training"
        quantizer = fit_levels(
            having,
            method,
            section,
            may_lack=may_lack,
            seed=settings["seed"],
            folder=work,
            show_progress=settings["show_progress"],
        )
        fill = having.mean(axis=0, dtype=np.float64).astype(np.float32)
        codes = quantizer.encode(filled(vectors, present, fill))
        state = {"quantizer": quantizer.state(), "fill": fill}
        kept = {"state": state, "codes": codes}
        save_checkpoint(path, {"identity": identity, **kept})
        if work.is_dir() and not any(work.iterdir()):
            work.rmdir()
    return load_quantizer(kept["state"]["quantizer"]), kept["state"]["fill"], kept["codes"]


def _is_constant(codes: np.ndarray, settings: Mapping[str, Any]) -> bool:
    """Return whether `n_levels` is automatic and all items have the same codes [N, K]."""
    return settings["n_levels"] == AUTO and bool((codes == codes[0]).all())


def _may_run_out(quantizers: Mapping[str, Quantizer], settings: Mapping[str, Any]) -> bool:
    """Return whether a stream has fewer levels than `MOST_LEVELS`, so that tuples may run out."""
    return (
        settings["n_levels"] == AUTO
        and settings["unique"] == "reallocate"
        and any(len(each.codebook_sizes) < MOST_LEVELS for each in quantizers.values())
    )


def _make_unique(tokenizer: Tokenizer, catalog: TokenizerInputs, streams: Streams) -> None:
    """Replace the tokenizer's codes by unique ones, and add a report."""
    if tokenizer.settings["unique"] == "extra_level":
        before = tokenizer.codes
        tokenizer.codes, sizes = extra_level(before, tokenizer.codebook_sizes, catalog.names)
        added = len(sizes) > len(tokenizer.codebook_sizes)
        tokenizer.report["unique"] = {"extra_level_size": sizes[-1] if added else None}
        tokenizer.codebook_sizes = sizes
        return
    result = reallocate(
        tokenizer.codes,
        lambda rows: tokenizer.distances(streams, rows),
        tokenizer.codebook_sizes,
        catalog.names,
    )
    tokenizer.codes = result.codes
    tokenizer.report["unique"] = result.report()


def _hash(settings: Any, arrays: Sequence[np.ndarray]) -> str:
    """Hash everything that a stage depends on."""
    digest = hashlib.sha256(json.dumps([ALGORITHM, settings], sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _kept(path: Path, identity: str) -> dict[str, Any] | None:
    """Load a stage's file if it exists with this hash; else return None."""
    if not is_checkpoint(path):
        return None
    content = load_checkpoint(path)
    if content.get("identity") != identity:
        return None
    logger.info("%s: already done", path.name)
    return content
