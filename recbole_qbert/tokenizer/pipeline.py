"""Tokenizer pipeline (`tokenize`): embeddings -> stage 1 -> stage 2 -> unique semantic IDs.

Each stage writes one file to the tokenizer's folder (see `artifact.py`), with a hash of everything
it depends on. A stage whose file has the same hash is not run again. A killed stage continues from
its last saved epoch.

Shapes: N items, K levels of all streams, D dimensions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import exclusive_folder, read_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.nearest import unit_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import BBQ, CONTENT, FUSED, IDENTITY, mean_of_parts
from recbole_qbert.tokenizer.artifact import MANIFEST, Streams, Tokenizer, filled
from recbole_qbert.tokenizer.catalog import TokenizerInputs, read_catalog
from recbole_qbert.tokenizer.collisions import extra_level, extra_level_report, reallocate
from recbole_qbert.tokenizer.fusion.agreement import agreement_report, depth_report
from recbole_qbert.tokenizer.fusion.bbq import BBQSettings
from recbole_qbert.tokenizer.fusion.bbq_fit import Binder, fit_binder
from recbole_qbert.tokenizer.fusion.cooccurrence import (
    cooccurrence,
    cooccurrence_vectors,
    inter_suffix,
    read_training_pairs,
)
from recbole_qbert.tokenizer.fusion.fit import fit_injector
from recbole_qbert.tokenizer.fusion.model import InjectionSettings
from recbole_qbert.tokenizer.fusion.next_item import NextItemSettings
from recbole_qbert.tokenizer.fusion.next_item_fit import fit_next_item
from recbole_qbert.tokenizer.fusion.sequences import TrainingSequences
from recbole_qbert.tokenizer.fusion.stage1 import TrainedFusion, load_stage1
from recbole_qbert.tokenizer.quantizers.base import Quantizer
from recbole_qbert.tokenizer.quantizers.registry import fit_quantizer, load_quantizer
from recbole_qbert.tokenizer.settings import modalities_to_read
from recbole_qbert.tokenizer.sizes import (
    MOST_LEVELS,
    automatic_levels,
    informative_levels,
    spare_sizes,
    stream_sizes,
    warn_of_sharing,
)
from recbole_qbert.tokenizer.stages import stage_hash
from recbole_qbert.training.checkpoint import is_checkpoint, load_checkpoint, save_checkpoint
from recbole_qbert.training.resume import FitState

logger = logging.getLogger(__name__)


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
        InputError: a file or setting is invalid, a codebook collapsed, or another process uses the
            folder.
    """
    with exclusive_folder(folder):
        return _tokenize(domains, folder, settings)


def _tokenize(
    domains: Sequence[DatasetPaths], folder: Path, settings: Mapping[str, Any]
) -> Tokenizer | None:
    catalog = read_catalog(domains, modalities_to_read(settings), split=settings["split"])
    names: list[str] = []
    for name in settings["streams"]:
        names += catalog.parts if name == CONTENT else [name]
    streams: Streams = {}
    report: dict[str, Any] = {}
    counts = pairs = stage1 = binder = None
    fuses = FUSED in names or settings["until"] == "fusion"
    queries = settings["id_query"] == "interactions" and (fuses or BBQ in names)
    by_interactions = IDENTITY in names or queries
    by_interactions |= fuses and settings["fusion"] == NextItemSettings.section
    on_training_items = settings["fit_items"] == "training"
    interactions: dict[str, str] = {}
    if by_interactions or BBQ in names or on_training_items:
        pairs = read_training_pairs(domains, settings["split"])
        # `run` compares the interactions that were read with those of its own split.
        read = [domain.file(inter_suffix(settings["split"])) for domain in domains]
        interactions = {path.name: sha256_file(path) for path in read}
        counts = cooccurrence(pairs, catalog.names) if by_interactions else None
    if fuses:
        kept = _stage1(catalog, pairs, counts, folder, settings)
        stage1, report["stage 1"] = load_stage1(kept["state"]), kept["report"]
        streams[FUSED] = (kept["fused"], np.ones(len(catalog.keys), dtype=np.bool_))
    if settings["until"] == "fusion":
        return None
    if IDENTITY in names:
        vectors = cooccurrence_vectors(counts, settings["identity_size"], settings["seed"])
        streams[IDENTITY] = (vectors, vectors.any(axis=1))
    streams |= modality_streams(catalog, names)
    bound: dict[str, Any] = {}
    if BBQ in names:
        bound = _bind(catalog, pairs, counts, folder, settings)
        binder, report[BBQ] = Binder.from_state(bound["state"]["binder"]), bound["report"]
        streams[BBQ] = (bound["latents"], np.ones(len(catalog.keys), dtype=np.bool_))

    automatic = automatic_levels(settings)
    fit_on = None
    if on_training_items and pairs is not None:
        fit_on = pd.Index(catalog.names).isin(pairs["item_id"].unique())
    quantizers: dict[str, Quantizer] = {}
    fills: dict[str, np.ndarray] = {}
    blocks: list[np.ndarray] = []
    for name in names:
        kept = bound if name == BBQ else _stage2(name, streams[name], fit_on, folder, settings)
        codes = kept["codes"]
        if automatic and (codes == codes[0]).all() and (blocks or name != names[-1]):
            logger.warning("streams: %s: all its vectors are equal; the stream is left out", name)
            continue
        quantizers[name] = load_quantizer(kept["state"]["quantizer"])
        fills[name] = kept["state"]["fill"]
        blocks.append(codes)
        vectors, present = streams[name]
        used = quantizers[name].report(vectors[present])
        report[f"stage 2, {name}"] = {**used, "without_vector": int((~present).sum())}
    if settings["until"] == "quantization":
        return None
    codes = np.concatenate(blocks, axis=1)
    n_levels = [len(each.codebook_sizes) for each in quantizers.values()]
    spare: tuple[int, ...] = ()
    # Tuples may run out if a stream has few levels.
    if automatic and settings["unique"] == "reallocate" and min(n_levels) < MOST_LEVELS:
        spare = spare_sizes(codes)
        codes = np.pad(codes, ((0, 0), (0, len(spare))))
    levels = [row for name in quantizers for row in report[f"stage 2, {name}"]["levels"]]
    warn_of_sharing(levels, settings)
    sizes = tuple(size for each in quantizers.values() for size in each.codebook_sizes)
    tokenizer = Tokenizer(
        folder=folder,
        settings=dict(settings),
        stage1=stage1,
        binder=binder,
        quantizers=quantizers,
        fills=fills,
        keys=catalog.keys,
        codes=codes,
        codebook_sizes=(*sizes, *spare),
        n_spare=len(spare),
        report=report,
        kinds=catalog.kinds,
        without_content=catalog.without_content(),
    )
    _make_unique(tokenizer, catalog.names, streams)
    report["interactions"] = interactions
    tokenizer.save()
    tokenizer.write_ids(domains, catalog.sources)
    return tokenizer


def modality_streams(catalog: TokenizerInputs, wanted: Sequence[str]) -> Streams:
    """Compute the stream of each wanted modality: normalized means over an item's parts.

    Raises:
        InputError: no domain has embeddings of the modality.
    """
    streams: Streams = {}
    for name in wanted:
        if name in (FUSED, IDENTITY, BBQ):
            continue
        if name not in catalog.parts:
            raise InputError(
                f"streams: {name}: no data set has the table {name}.npz; run `embed` first"
            )
        vectors, present = catalog.parts[name]
        streams[name] = (unit_rows(mean_of_parts(vectors, present)), present.any(axis=1))
    return streams


def _stage1(
    catalog: TokenizerInputs, pairs: Any, counts: Any, folder: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Train or load stage 1; return its `state`, the `fused` vectors h [N, D] and a `report`."""
    name, seed, parts = settings["fusion"], settings["seed"], catalog.parts
    how: dict[str, Any] = {"seed": seed, "folder": folder}
    how["show_progress"] = settings["show_progress"]
    if FUSED not in settings["streams"]:
        logger.warning("until: fusion: none of the streams reads stage 1; only fused does")
    arrays = [array for pair in parts.values() for array in pair]
    fit: Callable[[], TrainedFusion]
    if name == NextItemSettings.section:
        model = NextItemSettings(**settings[name])
        behavior = cooccurrence_vectors(counts, settings["identity_size"], seed)
        behavior = unit_rows(behavior)
        sequences = TrainingSequences.of(pairs, catalog.names)
        arrays += [behavior, sequences.items.numpy(), sequences.lengths.numpy()]
        fit = partial(fit_next_item, parts, behavior, sequences, model, **how)
    else:
        paper, queries = InjectionSettings(**settings[name]), None
        if settings["id_query"] == "interactions":
            queries = cooccurrence_vectors(counts, paper.hidden_size, seed)
            arrays.append(queries)
        fit = partial(fit_injector, parts, paper, queries=queries, **how)
    users = None  # of each item; the report reads it and the counts
    if pairs is not None:
        named = pairs.drop_duplicates()["item_id"].value_counts()
        users = named.reindex(catalog.names, fill_value=0).to_numpy()
        arrays.append(users)
    if counts is not None:
        arrays += [counts.indptr, counts.indices, counts.data]

    def run() -> dict[str, Any]:
        stage1 = fit()
        fused, depths = stage1.fuse(parts)
        report = {
            "loss": stage1.history[-1] if stage1.history else {},
            "depths": np.bincount(depths, minlength=settings[name]["max_depth"] + 1)[1:].tolist(),
            "depth_with": depth_report(depths, parts, users),
            "neighbors": agreement_report(fused, parts, counts),
        }
        return {"state": stage1.state(), "fused": fused, "report": report}

    identity = stage_hash([name, settings[name], seed, list(parts)], arrays)
    return _once(folder / "stage1.safetensors", FUSED, identity, run)


def _bind(
    catalog: TokenizerInputs, pairs: Any, counts: Any, folder: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Train or load the stream `bbq`.

    Returns:
        `state`, with the states of the `quantizer`, the `fill` vector [D] and the `binder`, the
        `latents` [N, D], their `codes` [N, K], and a `report`.
    """
    model, seed = BBQSettings(**settings[BBQ]), settings["seed"]
    modalities = modality_streams(catalog, list(catalog.parts))
    sequences = TrainingSequences.of(pairs, catalog.names)
    queries = None
    if settings["id_query"] == "interactions":
        queries = cooccurrence_vectors(counts, model.code_size, seed)
    joined = np.concatenate([vectors for vectors, _ in modalities.values()], axis=1)
    n_levels, size = stream_sizes(settings, len(joined), joined)
    sizes = size if isinstance(size, list) else [size] * n_levels

    def run() -> dict[str, Any]:
        binder = fit_binder(
            modalities,
            sequences,
            sizes,
            model,
            seed=seed,
            queries=queries,
            folder=folder / "stage2.bbq.training",
            show_progress=settings["show_progress"],
        )
        latents, quantizer = binder.latents(modalities), binder.quantizer
        fill = latents.mean(axis=0, dtype=np.float64).astype(np.float32)
        return {
            "state": {"quantizer": quantizer.state(), "fill": fill, "binder": binder.state()},
            "latents": latents,
            "codes": quantizer.encode(latents),
            "report": binder.history[-1] if binder.history else {},
        }

    arrays = [array for pair in modalities.values() for array in pair]
    arrays += [sequences.items.numpy(), sequences.lengths.numpy()]
    arrays += [] if queries is None else [queries]
    identity = stage_hash([settings[BBQ], sizes, seed, list(modalities)], arrays)
    return _once(folder / "stage2.bbq.safetensors", BBQ, identity, run)


def _stage2(
    name: str,
    stream: tuple[np.ndarray, np.ndarray],
    fit_on: np.ndarray | None,
    folder: Path,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Fit or load a stream's quantizer, on the items of `fit_on`, bool [N], or on all.

    Returns:
        `state`, with the states of the `quantizer` and the `fill` vector [D], and the `codes`
        [N, K].
    """
    vectors, present = stream
    method = settings["quantizer"]
    chosen = present if fit_on is None else present & fit_on
    if not chosen.any():
        reason, remedy = "no item has a vector", f"remove {name} from streams"
        if present.any():
            reason = "no item of the training interactions has a vector"
            remedy = f"set --fit_items=all, or remove {name} from streams"
        elif name == IDENTITY:
            reason = "no two items occur together in a user's training interactions"
            remedy = "give more interactions, or other streams, such as --streams=content"
        raise InputError(f"streams: {name}: {reason}; {remedy}")
    having = vectors if chosen.all() else vectors[chosen]
    n_levels, size = stream_sizes(settings, int(present.sum()), having)
    may_lack = automatic_levels(settings)
    section = {"n_levels": n_levels, "codebook_size": size, **settings[method]}

    def run() -> dict[str, Any]:
        work = folder / f"stage2.{name}.training"

        def fit(section: Mapping[str, Any]) -> Quantizer:
            show = settings["show_progress"]
            return fit_quantizer(
                having, method, section, seed=settings["seed"], folder=work, show_progress=show
            )

        quantizer = fit(section)
        if may_lack:  # fit again without the last levels if they are empty
            informative = informative_levels(quantizer.report(having)["levels"])
            if informative < n_levels:
                quantizer = fit({**section, "n_levels": informative})
        fill = having.mean(axis=0, dtype=np.float64).astype(np.float32)
        codes = quantizer.encode(filled(vectors, present, fill))
        return {"state": {"quantizer": quantizer.state(), "fill": fill}, "codes": codes}

    arrays = [vectors, present, *([] if fit_on is None else [fit_on])]
    identity = stage_hash([method, section, may_lack, settings["seed"]], arrays)
    return _once(folder / f"stage2.{name}.safetensors", name, identity, run)


def _once(
    path: Path, stream: str, identity: str, run: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Load a stage's file if it exists with this hash; else run the stage and write the file.

    The manifest of an earlier tokenizer with this stream goes first: its IDs would be read with the
    new stage. The states of unfinished fits go last: a kill before costs no training.
    """
    content: dict[str, Any] = {}
    if is_checkpoint(path):
        try:
            content = load_checkpoint(path)
        except InputError:
            logger.warning("%s: damaged or of another version; the stage is run again", path)
    if content.get("identity") == identity:
        logger.info("%s: already done", path.name)
    else:
        content = {"identity": identity, **run()}
        if _reads(path.parent / MANIFEST, stream):
            (path.parent / MANIFEST).unlink()
        save_checkpoint(path, content)
    work = path.with_suffix(".training")
    for kept in (path.with_suffix(".training.safetensors"), *work.glob("*.training.safetensors")):
        FitState(kept, identity).clear()
    if work.is_dir() and not any(work.iterdir()):
        work.rmdir()
    return content


def _reads(manifest: Path, stream: str) -> bool:
    """Return whether a finished tokenizer has the stream; True if its manifest cannot be read."""
    if not manifest.is_file():
        return False
    try:
        return stream in read_json(manifest).get("streams", [stream])
    except InputError:
        return True


def _make_unique(tokenizer: Tokenizer, names: Sequence[str], streams: Streams) -> None:
    """Replace the tokenizer's codes by unique ones, and add a report."""
    codes, sizes = tokenizer.codes, tokenizer.codebook_sizes
    if tokenizer.settings["unique"] == "extra_level":
        tokenizer.codes, tokenizer.codebook_sizes = extra_level(codes, sizes, names)
        added = extra_level_report(sizes, tokenizer.codebook_sizes)
        tokenizer.report["unique"] = {"extra_level": added}
        return
    result = reallocate(codes, lambda rows: tokenizer.distances(streams, rows), sizes, names)
    tokenizer.codes = result.codes
    tokenizer.report["unique"] = result.report()
