"""`recbole-qbert inspect`: reports on semantic IDs, as text and as an HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.domain import DatasetPaths


def add_item_fields(parser: argparse.ArgumentParser, categories: str) -> None:
    """Add flags for titles and categories; `categories` is the help of `--category_field`."""
    parser.add_argument("--title_field", help="field of the item file that names an item")
    parser.add_argument("--category_field", help=categories)
    parser.add_argument(
        "--category_part",
        default="auto",
        choices=("auto", "first", "whole"),
        help="first word of the field or the whole; auto: by the field's type",
    )


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its flags to the parser."""
    parser = commands.add_parser("inspect", help="usage, tree, neighbors and purity of IDs")
    parser.add_argument("--dataset", required=True, help="name of the data set")
    parser.add_argument("--data_path", default="dataset", help="folder that holds <dataset>/")
    parser.add_argument("--semantic_id_file", help="instead of <dataset>.semid")
    parser.add_argument("--item_file", help="instead of <dataset>.item")
    add_item_fields(parser, "its field of categories, for each level's purity")
    parser.add_argument(
        "--embeddings", help="name=file.npz,... instead of <dataset>.<modality>.npz, nearest items"
    )
    parser.add_argument("--images", help="folder of <item_id>.<jpg|png|...>, for the HTML page")
    parser.add_argument("--html", help="file of the HTML page")
    parser.add_argument("--prefix", help="show only what is below it, such as 'a_12 b_7'")
    parser.add_argument("--items", help="comma-separated items whose nearest are shown")
    parser.add_argument("--n_examples", type=int, default=5, help="groups and items shown")
    parser.set_defaults(function=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from recbole_qbert.commands.run import wide_console
    from recbole_qbert.reports.inspection.report import inspect

    folder = Path(options.data_path) / options.dataset
    item_file = folder / f"{options.dataset}.item"
    inspect(
        options.semantic_id_file or folder / f"{options.dataset}.semid",
        item_path=options.item_file or (item_file if item_file.is_file() else None),
        title_field=options.title_field,
        category_field=options.category_field,
        category_part=options.category_part,
        embeddings=_tables(options.embeddings, folder, options.dataset),
        images=options.images,
        html_path=options.html,
        prefix=options.prefix,
        example_items=options.items.split(",") if options.items else (),
        n_examples=options.n_examples,
        console=wide_console(),
    )
    return 0


def _tables(named: str | None, folder: Path, dataset: str) -> dict[str, Path]:
    """Parse `text=a.npz,image=b.npz`; None: the embedding tables of the data set."""
    if named is None:
        return DatasetPaths(dataset, folder).embedding_tables()
    tables = {}
    for part in named.split(","):
        name, equals, file = part.partition("=")
        if not (name and equals and file):
            raise InputError(f"--embeddings: '{part}' is no name=file.npz")
        tables[name] = Path(file)
    return tables
