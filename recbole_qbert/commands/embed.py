"""`recbole-qbert embed`: makes one embedding table per modality."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from recbole_qbert.commands.command import Command
from recbole_qbert.common.errors import InputError, did_you_mean_path, whole_number
from recbole_qbert.common.output import counted
from recbole_qbert.data.domain import DatasetPaths

if TYPE_CHECKING:
    from recbole_qbert.data.embeddings import EmbeddingTable


def _file(options: SimpleNamespace, suffix: str) -> Path:
    return DatasetPaths(options.dataset, options.data_path / options.dataset).file(suffix)


def _text(options: SimpleNamespace) -> int:
    from recbole_qbert.encoders.text import embed_text

    given = _encoder_settings(options)
    out = options.output or _file(options, f"{options.modality}.npz")
    source = options.item_file or _file(options, "item")
    return _print_summary(out, embed_text(source, given.pop("fields"), out, **given))


def _image(options: SimpleNamespace) -> int:
    from recbole_qbert.encoders.driver import check_encoding
    from recbole_qbert.encoders.image import embed_image_files

    check_encoding(options.batch_size, options.shard_size, options.dtype, options.engine)
    whole_number("grid", options.grid)
    if options.n_threads is not None:
        whole_number("n_threads", options.n_threads)
    out = options.output or _file(options, "image.npz")
    source = options.item_file or _file(options, "item")
    return _print_summary(out, embed_image_files(source, out, **_encoder_settings(options)))


def _encoder_settings(options: SimpleNamespace) -> dict[str, Any]:
    """Flags of the encoder: all but those that name files of the data set."""
    files = ("dataset", "data_path", "item_file", "output", "settings")
    return {name: value for name, value in vars(options).items() if name not in files}


def _vectors(options: SimpleNamespace) -> int:
    from recbole_qbert.data.atomic import read_atomic
    from recbole_qbert.data.embeddings import check_modality, import_matrix, join, write_embeddings

    check_modality(options.modality)
    out = options.output or _file(options, f"{options.modality}.npz")
    if not out.parent.is_dir():
        hint = did_you_mean_path(out.parent)
        raise InputError(f"{out.parent}: no such folder; correct --data_path or --dataset{hint}")
    table = import_matrix(options.matrix, options.items, options.modality, options.encoder)
    files = [path for path in (_file(options, "item"), _file(options, "inter")) if path.is_file()]
    found = ""
    if files:
        file = read_atomic(files[0])
        file.need(["item_id"], "correct the file")
        items = file.columns["item_id"].unique().to_pylist()
        found = f"beside {files[0]}: {join(table, items, options.matrix)[2]}"
    write_embeddings(out, table)
    status = _print_summary(out, table)
    print(found, end="\n" if found else "")
    return status


def _print_summary(out: Path, table: EmbeddingTable) -> int:
    n_missing = len(table.meta.get("missing", {}))
    parts = f"{table.n_parts} x " if table.n_parts > 1 else ""
    print(
        f"{out}: {counted(table.n_items, 'item')}, {parts}{counted(table.dimension, 'dimension')}, "
        f"{counted(n_missing, 'item')} without a vector"
    )
    return 0


EMBED = (
    Command(
        "embed text",
        "Make a text embedding table from columns of the .item file.",
        _text,
        details="recbole-qbert embed text --dataset=ml-100k --fields=movie_title,class --merge",
    ),
    Command(
        "embed image",
        "Make an image embedding table from image files.",
        _image,
        details="recbole-qbert embed image --dataset=ml-100k --folder=posters",
    ),
    Command(
        "embed vectors",
        "Make an embedding table from a .npy matrix of existing vectors.",
        _vectors,
        details="recbole-qbert embed vectors --dataset=X --modality=text --matrix=x.npy "
        "--items=items.txt --encoder=bert-base",
    ),
)
