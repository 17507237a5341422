"""`recbole-qbert embed text|image|vectors`: makes one embedding table per modality."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_qbert.common.errors import InputError, whole_number

if TYPE_CHECKING:
    from recbole_qbert.data.embeddings import EmbeddingTable


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its flags to the parser."""
    embed = commands.add_parser("embed", help="vectors of the items' texts and images")
    kinds = embed.add_subparsers(required=True, metavar="modality")
    _add_text(kinds.add_parser("text", help="from text columns of the .item file"))
    _add_image(kinds.add_parser("image", help="from picture files"))
    _add_vectors(kinds.add_parser("vectors", help="from a .npy matrix that others made"))


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="name of the data set")
    parser.add_argument("--data_path", default="dataset", help="folder that holds <dataset>/")
    parser.add_argument("--item_file", help="instead of <data_path>/<dataset>/<dataset>.item")
    parser.add_argument("--output", help="instead of <dataset>.<modality>.npz beside the data set")


def _add_encoding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch_size", type=int, default=32, help="inputs encoded together")
    parser.add_argument("--dtype", default="auto", help="float32 | bfloat16 | float16 | auto")
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda | cuda:1 ...")
    parser.add_argument("--shard_size", type=int, default=1024, help="items kept at a time")
    parser.add_argument(
        "--engine", default="local", choices=("local", "ray"), help="ray: Ray Data, same bytes"
    )


def _add_text(parser: argparse.ArgumentParser) -> None:
    _add_files(parser)
    parser.add_argument("--fields", required=True, help="comma-separated text columns")
    parser.add_argument(
        "--encoder",
        default="tfidf",
        help="tfidf (TF-IDF of words and SVD, no download) | tags (the same of whole tokens: "
        "categories, attributes) | sentence (packaged all-MiniLM-L6-v2) | folder or hub name of a "
        "Hugging Face model",
    )
    parser.add_argument("--modality", default="text", help="name of the table's kind")
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument(
        "--pooling",
        default="mean",
        choices=("mean", "last"),
        help="of a text's tokens to one vector",
    )
    parser.add_argument(
        "--merge", action="store_true", help="one text of all fields, not a vector a field"
    )
    parser.add_argument("--normalize", action="store_true", help="vectors of length 1")
    parser.add_argument("--max_length", type=int, default=512, help="tokens of a text")
    parser.add_argument(
        "--n_components", type=int, default=128, help="tfidf, tags: most dimensions"
    )
    parser.add_argument(
        "--frozen_encoder", help="tfidf, tags: .encoder.safetensors of an earlier run"
    )
    parser.add_argument(
        "--refit",
        action="store_true",
        help="tfidf, tags: fit anew where items were only added; all IDs must be made anew then",
    )
    parser.add_argument("--seed", type=int, default=2026, help="of the SVD of tfidf and tags")
    _add_encoding(parser)
    parser.set_defaults(function=_text)


def _add_image(parser: argparse.ArgumentParser) -> None:
    _add_files(parser)
    parser.add_argument("--folder", help="of <item_id>.<jpg|png|...>, or what --column is below")
    parser.add_argument("--column", help="column of --item_file with the paths of the pictures")
    parser.add_argument(
        "--encoder",
        default="descriptor",
        help="descriptor (colors and gradients, no download) | an OpenCLIP model such as "
        "ViT-L-14-quickgelu, local-dir:<folder>, hf-hub:<name>",
    )
    parser.add_argument("--pretrained", help="OpenCLIP: checkpoint file, or tag to download")
    parser.add_argument(
        "--tokens",
        default="pooled",
        choices=("pooled", "grid"),
        help="vectors of a picture: one, or one a cell of a grid",
    )
    parser.add_argument("--grid", type=int, default=4, help="cells a side for --tokens=grid")
    parser.add_argument("--n_threads", type=int, help="threads that read pictures")
    _add_encoding(parser)
    parser.set_defaults(function=_image)


def _add_vectors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="name of the data set")
    parser.add_argument("--data_path", default="dataset", help="folder that holds <dataset>/")
    parser.add_argument("--modality", required=True, help="text, image, ...")
    parser.add_argument("--matrix", required=True, help=".npy file [n, D] or [n, J, D]")
    parser.add_argument("--items", required=True, help="text file, one item token a row")
    parser.add_argument("--encoder", required=True, help="name of what made the vectors")
    parser.add_argument("--output", help="instead of <dataset>.<modality>.npz beside the data set")
    parser.set_defaults(function=_vectors)


def place(options: argparse.Namespace, suffix: str) -> Path:
    """Path of a file of the data set given by the flags."""
    return Path(options.data_path) / options.dataset / f"{options.dataset}.{suffix}"


def _text(options: argparse.Namespace) -> int:
    from recbole_qbert.encoders.text import embed_text

    out = Path(options.output or place(options, f"{options.modality}.npz"))
    table = embed_text(
        options.item_file or place(options, "item"),
        options.fields.split(","),
        out,
        encoder=options.encoder,
        modality=options.modality,
        pooling=options.pooling,
        merge=options.merge,
        max_length=options.max_length,
        batch_size=options.batch_size,
        n_components=options.n_components,
        normalize=options.normalize,
        dtype=options.dtype,
        revision=options.revision,
        shard_size=options.shard_size,
        engine=options.engine,
        seed=options.seed,
        device=options.device,
        frozen_encoder=options.frozen_encoder,
        refit=options.refit,
    )
    return _say(out, table)


def _image(options: argparse.Namespace) -> int:
    from recbole_qbert.encoders.driver import check_encoding
    from recbole_qbert.encoders.image import embed_image_files

    check_encoding(options.batch_size, options.shard_size, options.dtype, options.engine)
    whole_number("grid", options.grid)
    if options.n_threads is not None:
        whole_number("n_threads", options.n_threads)
    out = Path(options.output or place(options, "image.npz"))
    table = embed_image_files(
        options.item_file or place(options, "item"),
        out,
        folder=options.folder,
        column=options.column,
        encoder=options.encoder,
        pretrained=options.pretrained,
        tokens=options.tokens,
        grid=options.grid,
        batch_size=options.batch_size,
        dtype=options.dtype,
        device=options.device,
        n_threads=options.n_threads,
        shard_size=options.shard_size,
        engine=options.engine,
    )
    return _say(out, table)


def _vectors(options: argparse.Namespace) -> int:
    from recbole_qbert.data.atomic import read_atomic
    from recbole_qbert.data.embeddings import check_modality, import_matrix, join, write_embeddings

    check_modality(options.modality)
    out = Path(options.output or place(options, f"{options.modality}.npz"))
    if not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such folder; correct --data_path or --dataset")
    table = import_matrix(options.matrix, options.items, options.modality, options.encoder)
    files = [path for path in (place(options, "item"), place(options, "inter")) if path.is_file()]
    found = ""
    if files:
        file = read_atomic(files[0])
        file.need(["item_id"], "correct the file")
        items = file.columns["item_id"].unique().to_pylist()
        found = f"beside {files[0]}: {join(table, items, options.matrix)[2]}"
    write_embeddings(out, table)
    status = _say(out, table)
    print(found, end="\n" if found else "")
    return status


def _say(out: Path, table: EmbeddingTable) -> int:
    n_missing = len(table.meta.get("missing", {}))
    parts = f"{table.n_parts} x " if table.n_parts > 1 else ""
    print(
        f"{out}: {table.n_items:,} items, {parts}{table.dimension} dimensions, "
        f"{n_missing:,} items without"
    )
    return 0
