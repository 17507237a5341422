"""`recbole-qbert check`, `ids-from-columns` and `merge`: tools for existing data sets."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_qbert.common.errors import InputError


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands and their flags to the parser."""
    check = commands.add_parser("check", help="validate a .semid file")
    check.add_argument("file", help=".semid file")
    check.add_argument("--inter", help=".inter file whose items must all have an ID")
    check.set_defaults(function=_check)

    columns = commands.add_parser(
        "ids-from-columns", help="make a .semid file from code columns of an .item file"
    )
    columns.add_argument("item_file", help=".item file")
    columns.add_argument("output", help=".semid file to write")
    columns.add_argument("--columns", required=True, help="comma-separated; levels side by side")
    columns.add_argument(
        "--codebook_size", type=int, default=256, help="codes of every level; all are below it"
    )
    columns.add_argument(
        "--unique",
        default="reallocate",
        help="where tuples repeat: reallocate (moves items to free codes, the last level first) | "
        "extra_level (counts the items of a tuple)",
    )
    columns.add_argument(
        "--vocabulary",
        default="",
        help="name of what the codes mean; files of one name share their codes in pretraining",
    )
    columns.add_argument(
        "--beside", default="", help="comma-separated .semid files whose levels follow the columns'"
    )
    columns.set_defaults(function=_ids_from_columns)

    merge = commands.add_parser("merge", help="several data sets as one, tokens <dataset>/<token>")
    merge.add_argument("--datasets", required=True, help="comma-separated")
    merge.add_argument("--into", required=True, help="name of the new data set")
    merge.add_argument("--data_path", default="dataset", help="folder that holds them")
    merge.set_defaults(function=_merge)


def _check(options: argparse.Namespace) -> int:
    from recbole_qbert.data.semid import check_semantic_ids

    for line in check_semantic_ids(options.file, options.inter):
        print(line)
    return 0


def _ids_from_columns(options: argparse.Namespace) -> int:
    from recbole_qbert.tokenizer.code_columns import build_from_columns

    table = build_from_columns(
        options.item_file,
        options.columns.split(","),
        options.output,
        options.codebook_size,
        options.unique,
        options.vocabulary,
        [path for path in options.beside.split(",") if path],
    )
    print(f"{options.output}: {table.n_items:,} items, {table.n_levels} levels, all tuples unique")
    return 0


def _merge(options: argparse.Namespace) -> int:
    from recbole_qbert.data.domain import DatasetPaths, find_domain
    from recbole_qbert.data.merge import merge

    names = options.datasets.split(",")
    if len(set(names)) < len(names) or len(names) < 2:
        raise InputError(f"--datasets={options.datasets}: name two or more, each once")
    domains = [find_domain(name, options.data_path) for name in names]
    into = DatasetPaths(options.into, Path(options.data_path) / options.into)
    merged = merge(domains, into)
    for suffix, rows in merged.rows.items():
        names = merged.left_out.get(suffix)
        rest = f"; left out, as not all have it: {', '.join(names)}" if names else ""
        print(f"{into.file(suffix)}: {rows:,} rows{rest}")
    for suffix, names in merged.without.items():
        print(f"{into.file(suffix)}: not written, there is none of {', '.join(names)}")
    return 0
