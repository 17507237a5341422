"""Encode item pictures into an embedding table: find the files, choose the encoder, run it."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import counted
from recbole_qbert.data.codec import quote
from recbole_qbert.data.embeddings import EmbeddingTable
from recbole_qbert.data.items import ITEM_FIELD, item_file_entry, read_item_table
from recbole_qbert.data.pictures import SUFFIXES
from recbole_qbert.encoders.descriptor import DESCRIPTOR, DescriptorEncoder
from recbole_qbert.encoders.driver import encode_items
from recbole_qbert.encoders.shards import Encoder

_HEAD = 64 << 10  # bytes


def embed_image_files(
    item_path: str | Path,
    out_path: str | Path,
    *,
    folder: str | Path | None = None,
    column: str | None = None,
    encoder: str = DESCRIPTOR,
    pretrained: str | Path | None = None,
    tokens: str = "pooled",
    grid: int | None = 4,
    batch_size: int = 32,
    dtype: str = "auto",
    device: str = "auto",
    n_threads: int | None = None,
    shard_size: int = 1024,
    engine: str = "local",
) -> EmbeddingTable:
    """Encode one picture per item and write the table, [n, J, D].

    An item whose picture cannot be read (missing, truncated, no picture, ...) has no vector and is
    listed with the reason; see `data.pictures.open_picture`. An unfinished run continues only if
    the path of each file relative to `folder`, its size and its first 64 KiB are unchanged.

    Args:
        item_path: `.item` file, or another tab-separated file with a plain header, that has a
            column `item_id`.
        out_path: the `.npz` file to write, with its sidecar.
        folder: see `find_pictures`.
        column: see `find_pictures`. With `engine="ray"`, every worker must be able to read the
            files under these paths.
        encoder: `descriptor` (`DescriptorEncoder`: J = 1, no weights; it uses none of the
            settings from `pretrained` to `device`), or the name of an OpenCLIP model.
        pretrained, tokens, grid, batch_size, dtype, device: see `OpenClipEncoder`.
        n_threads: number of threads that read pictures; the vectors do not depend on it.
        shard_size: number of items in a shard; see `encode_items`.
        engine: `local` or `ray`; see `encode_items`.

    Raises:
        InputError: an argument is invalid, or no picture can be found or read.
    """
    make: Callable[[], Encoder]
    if encoder == DESCRIPTOR:
        if pretrained is not None or tokens != "pooled":
            raise InputError(
                f"encoder '{DESCRIPTOR}' has no weights and one vector per picture; leave "
                "pretrained and tokens out, or name an OpenCLIP model"
            )
        make = functools.partial(DescriptorEncoder, n_threads)
    else:
        from recbole_qbert.encoders.open_clip_encoder import OpenClipEncoder

        make = functools.partial(
            OpenClipEncoder, encoder, pretrained,
            tokens=tokens, grid=grid, batch_size=batch_size,
            dtype=dtype, device=device, n_threads=n_threads,
        )  # fmt: skip
    items, paths = find_pictures(item_path, folder=folder, column=column)
    below = Path(item_path).parent if folder is None else Path(folder)
    return encode_items(
        items, paths, make, out_path,
        modality="image", shard_size=shard_size, engine=engine,
        meta={"source": item_file_entry(item_path), "column": column},
        fingerprints=[_fingerprint(path, below) for path in paths],
    )  # fmt: skip


def find_pictures(
    item_path: str | Path, *, folder: str | Path | None = None, column: str | None = None
) -> tuple[list[str], list[Path | None]]:
    """Find the picture file of each item of an item file.

    Args:
        item_path: see `embed_image_files`.
        folder: without `column`, the folder of the files `<item_id>.<suffix>`, with any of
            `SUFFIXES` in upper or lower case; with `column`, the folder that its paths are
            relative to, by default the folder of `item_path`.
        column: the column with the paths of the files; empty for an item without one.

    Returns:
        N item tokens, and N files, which need not exist; None for an item without one.

    Raises:
        InputError: neither is given, the file or folder cannot be read, a folder holds two
            pictures of an item, or no item has a file.
    """
    if column is None and folder is None:
        raise InputError(f"{item_path}: give the folder of the pictures, or the column of paths")
    below = Path(item_path).parent if folder is None else Path(folder)
    frame = read_item_table(item_path, [column or ITEM_FIELD])
    items = frame[ITEM_FIELD].tolist()
    if column is None:
        paths = _named_after(items, below)
    else:
        paths = [below / cell if cell else None for cell in frame[column]]
    if not any(path is not None and path.is_file() for path in paths):
        wanted = paths[0] or below / f"{items[0]}{SUFFIXES[0]}"
        raise InputError(
            f"{item_path}: none of {counted(len(paths), 'item')} has a picture file; for example, "
            f"{wanted} was expected for item {quote(items[0])}: correct the folder or the column"
        )
    return items, paths


def _named_after(items: Sequence[str], folder: Path) -> list[Path | None]:
    """Return the file named after each item, of a format in `SUFFIXES` if there is one.

    Files of other formats are returned too, so that the encoder reports why they are unusable.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}); give the folder of the pictures"
        ) from None
    wanted, found, others = set(items), dict[str, str](), dict[str, str]()
    for name in names:
        stem, suffix = os.path.splitext(name)
        if stem not in wanted or not suffix:
            continue
        if suffix.lower() not in SUFFIXES:
            others.setdefault(stem, name)
        elif stem in found:
            raise InputError(
                f"{folder}: {found[stem]} and {name} are both pictures of item {quote(stem)}; "
                "keep one"
            )
        else:
            found[stem] = name
    names_of = others | found
    return [folder / names_of[item] if item in names_of else None for item in items]


def _fingerprint(path: Path | None, folder: Path) -> str:
    """Return the path relative to the folder, the size, and a hash of the file's first bytes.

    Hashing whole files would take minutes for a large catalog. An edited picture differs early in
    its compressed stream, and rarely keeps its size.
    """
    if path is None:
        return ""
    try:
        with open(path, "rb") as handle:
            head = hashlib.sha256(handle.read(_HEAD)).hexdigest()
            size = os.fstat(handle.fileno()).st_size
        return f"{Path(os.path.relpath(path, folder)).as_posix()} {size} {head}"
    except (OSError, ValueError):  # the encoder reports the reason
        return f"{path.name} unreadable"
