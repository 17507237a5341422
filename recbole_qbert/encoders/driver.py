"""Resumable encoding of a catalog in shards, in this process or over Ray Data.

The items are split into shards of `shard_size` in the given order. Each finished shard is a file in
`<out>.parts/`, beside a manifest with a hash of the items, inputs and settings. A run with the same
manifest continues where an earlier one stopped. An encoder receives one shard at a time. Its
batches, and therefore the rounding of its sums, are the same in an uninterrupted run, in a resumed
run and over Ray.

Shapes: N items, b items of a shard, J parts of an item, D dimensions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from recbole_qbert.common.errors import InputError, one_of, preview, whole_number
from recbole_qbert.common.files import (
    atomic_write,
    exclusive_folder,
    read_json,
    sidecar_path,
    write_json,
)
from recbole_qbert.common.output import counted
from recbole_qbert.common.progress import Progress
from recbole_qbert.common.signals import own_sigterm
from recbole_qbert.data.codec import check_items, quote
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.encoders.devices import DTYPES
from recbole_qbert.encoders.shards import EncodedBatch, Encoder, Shard, encode_shard

logger = logging.getLogger(__name__)

FORMAT = "recbole-qbert/embedding-parts/1"
ENGINES = ("local", "ray")
_MANIFEST = "manifest.json"


def encode_items(
    items: Sequence[str],
    inputs: Sequence[Any],
    encoder_factory: Callable[[], Encoder],
    out_path: str | Path,
    *,
    modality: str,
    shard_size: int,
    engine: str = "local",
    meta: Mapping[str, Any],
    fingerprints: Sequence[str] | None = None,
) -> EmbeddingTable:
    """Encode all items and write their embedding table.

    Items without a vector are left out of the table. A warning counts them, and the sidecar lists
    them with their reasons under `meta.missing`.

    Args:
        items: N raw tokens, unique.
        inputs: N inputs of the encoder: JSON values and paths.
        encoder_factory: creates the encoder; with `engine="ray"`, it is pickled and called once in
            each worker.
        out_path: the `.npz` file; `<out_path>.parts/` holds finished shards until it is written.
        modality: `text`, `image`, ...
        shard_size: number of items in a shard. A killed run loses at most its unfinished shards.
        engine: `local`, or `ray` for the workers of a Ray cluster (the connected one or the one
            that RAY_ADDRESS names, else one on this machine). Both write the same bytes.
        meta: JSON values that the sidecar stores beside modality, encoder and missing items.
        fingerprints: if the inputs are files, N strings that change when the file contents change;
            the manifest hashes them in place of the inputs.

    Raises:
        InputError: an argument is invalid, no item has a vector, or the encoder raises it.
    """
    one_of("engine", engine, ENGINES)
    whole_number("shard_size", shard_size)
    check_items(items, len(inputs), str(out_path), lambda row: f"item {row}")
    encoder = encoder_factory()
    description = encoder.describe()
    shards = [
        Shard(number, items[start : start + shard_size], inputs[start : start + shard_size])
        for number, start in enumerate(range(0, len(items), shard_size))
    ]
    folder = Path(f"{out_path}.parts")
    read = list(inputs if fingerprints is None else fingerprints)
    content = [FORMAT, list(items), read, description, modality, shard_size]
    text = json.dumps(content, default=os.fspath, sort_keys=True)
    with exclusive_folder(folder):
        _open_folder(folder, hashlib.sha256(text.encode()).hexdigest())
        pending = [shard for shard in shards if not _part_path(folder, shard.number).exists()]
        if engine == "local" or not pending:
            results = ((shard.number, encode_shard(encoder, shard)) for shard in pending)
        else:
            with own_sigterm():
                from recbole_qbert.encoders.over_ray import encode_over_ray

            del encoder  # each worker creates its own
            on_gpu = str(description.get("device", "cpu")).startswith("cuda")
            results = encode_over_ray(encoder_factory, pending, on_gpu)

        n_done = len(items) - sum(len(shard.items) for shard in pending)
        if n_done:
            logger.info("%s: %d of %d items are encoded already", folder, n_done, len(items))
        bar = Progress(total=len(items), initial=n_done, unit=" items", desc=f"embed {modality}")
        with bar, contextlib.closing(results):
            for number, data in results:
                with atomic_write(_part_path(folder, number), "wb") as handle:
                    handle.write(data)
                bar.update(len(shards[number].items))

        table = _gather(folder, shards, {"modality": modality, "encoder": description, **meta})
        write_embeddings(out_path, table)
        _clear(folder)
    missing = table.meta["missing"]
    if missing:
        counts = Counter(missing.values()).most_common(5)
        logger.warning(
            "%s: %d of %d items have no %s vector: %s; most often: %s; %s lists them all",
            out_path, len(missing), len(items), modality, _reasons(missing),
            "; ".join(f"{reason}: {n:,}" for reason, n in counts), sidecar_path(out_path),
        )  # fmt: skip
    return table


def check_encoding(batch_size: int, shard_size: int, dtype: str, engine: str) -> None:
    """Check settings that all encoders share, before anything is read or loaded.

    Raises:
        InputError: a setting is invalid.
    """
    whole_number("batch_size", batch_size)
    whole_number("shard_size", shard_size)
    one_of("dtype", dtype, DTYPES)
    one_of("engine", engine, ENGINES)


def encode_distinct(
    inputs: Sequence[Sequence[str]], encode: Callable[[list[str]], tuple[np.ndarray, np.ndarray]]
) -> EncodedBatch:
    """Encode each distinct text among the parts of b items once, [b, J, D].

    Args:
        inputs: b sequences of J texts; a blank text is a missing part.
        encode: maps T texts, none blank, to vectors [T, D] and bool [T], True for texts that have a
            vector.
    """
    distinct = list(dict.fromkeys(text for parts in inputs for text in parts if text.strip()))
    row_of = {text: row for row, text in enumerate(distinct)}
    rows = np.array([[row_of.get(text, -1) for text in parts] for parts in inputs])
    if not distinct:
        return EncodedBatch(
            np.zeros((*rows.shape, 0), np.float32), rows >= 0, ["blank text"] * len(rows)
        )
    vectors, known = encode(distinct)
    mask = (rows >= 0) & known[rows]
    by_item = vectors[rows]
    by_item[~mask] = 0
    why = np.where((rows >= 0).any(axis=1), "no known token", "blank text")
    return EncodedBatch(by_item, mask, np.where(mask.any(axis=1), "", why).tolist())


def _part_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npz"


def _reasons(missing: Mapping[str, str], n: int = 10) -> str:
    return preview([f"{quote(item)} ({reason})" for item, reason in missing.items()], n)


def _open_folder(folder: Path, fingerprint: str) -> None:
    """Keep the finished shards if the manifest has this fingerprint; else start anew."""
    manifest = folder / _MANIFEST
    wanted = {"format": FORMAT, "fingerprint": fingerprint}
    with contextlib.suppress(InputError):
        if read_json(manifest) == wanted:
            return
        logger.info("%s: made from other items, inputs or settings; starting anew", folder)
    _clear(folder)
    write_json(manifest, wanted)


def _clear(folder: Path) -> None:
    """Remove the manifest, then the parts, so that an interruption leaves no reusable parts."""
    (folder / _MANIFEST).unlink(missing_ok=True)
    for pattern in ("[0-9]*.npz", ".*.part"):
        for path in folder.glob(pattern):
            path.unlink()


def _gather(folder: Path, shards: Sequence[Shard], meta: Mapping[str, Any]) -> EmbeddingTable:
    """Build the table of all shards, without the items that have no vector."""
    items = [item for shard in shards for item in shard.items]
    masks = [_read_part(folder, shard, "mask") for shard in shards]
    mask = np.concatenate(masks)
    present = mask.any(axis=1)
    reasons = np.concatenate([_read_part(folder, shard, "reasons") for shard in shards])
    missing = {items[row]: str(reasons[row]) for row in np.flatnonzero(~present)}
    if not present.any():
        _clear(folder)
        raise InputError(
            f"{folder.with_suffix('')}: none of {counted(len(items), 'item')} has a vector: "
            f"{_reasons(missing, 3)}; give items with content"
        )
    vectors, filled = np.empty((0, 0, 0), np.float32), 0
    for shard, shard_mask in zip(shards, masks, strict=True):
        kept = shard_mask.any(axis=1)
        if kept.any():  # else D of the part may be unknown
            part = _read_part(folder, shard, "vectors")[kept]
            if not filled:
                vectors = np.empty((int(present.sum()), *part.shape[1:]), part.dtype)
            vectors[filled : filled + len(part)] = part
            filled += len(part)
    kept_items = tuple(items[row] for row in np.flatnonzero(present))
    return EmbeddingTable(kept_items, vectors, mask[present], {**meta, "missing": missing})


def _read_part(folder: Path, shard: Shard, name: str) -> np.ndarray:
    """Read one array of a finished shard."""
    path = _part_path(folder, shard.number)
    try:
        with np.load(path, allow_pickle=False) as part:
            return part[name]
    except (ValueError, OSError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(
            f"{path}: a broken part ({quote(error, 120)}); delete it and run the command again"
        ) from None
