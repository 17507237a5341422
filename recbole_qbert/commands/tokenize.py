"""`recbole-qbert tokenize` and `encode-items`: make semantic IDs from embeddings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from recbole_qbert.commands.help import KeyGroup, file_group
from recbole_qbert.commands.settings import parse_settings
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.yaml_files import split_files
from recbole_qbert.data.domain import default_folder

HELP = (
    "semantic IDs from embeddings: --dataset=A[,B...] [--data_path=dataset] [--tokenizer=folder] "
    "[--config_files=a.yaml] [--key=value ...], keys of properties/tokenize.yaml"
)
FLAGS = """
dataset:            # (str) needed; several with commas between get one vocabulary
data_path: dataset  # (str) folder that holds <dataset>/
tokenizer:          # (str) its folder; empty: <data_path>/<dataset>/tokenizer
config_files:       # (str) YAML files with commas between; later ones win, and flags win over all
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `encode-items` and its flags to the parser."""
    new = commands.add_parser("encode-items", help="IDs for new items, through the frozen stages")
    new.add_argument("--dataset", required=True, help="comma-separated data sets with new items")
    new.add_argument("--data_path", default="dataset", help="folder that holds <dataset>/")
    new.add_argument("--tokenizer", help="its folder, if not <data_path>/<dataset>/tokenizer")
    new.set_defaults(function=_encode_items)


def run_tokenize(arguments: Sequence[str]) -> int:
    """Run `tokenize --dataset=X --key=value ...`; returns the exit status.

    Raises:
        InputError: an argument cannot be used.
    """
    given = parse_settings(arguments)
    names = [name for name in given.pop("dataset", "").split(",") if name]
    if not names:
        raise InputError("--dataset=... is needed: one data set, or several for one vocabulary")
    if len(set(names)) < len(names):
        raise InputError(f"--dataset={','.join(names)}: name each data set once")
    data_path = Path(given.pop("data_path", "dataset"))
    folder = given.pop("tokenizer", "")
    files = split_files(given.pop("config_files", ""))

    from recbole_qbert.data.domain import find_domain
    from recbole_qbert.tokenizer.pipeline import tokenize
    from recbole_qbert.tokenizer.report import report_lines
    from recbole_qbert.tokenizer.settings import tokenize_settings

    settings = tokenize_settings(files, given)
    domains = [find_domain(name, data_path) for name in names]
    place = Path(folder) if folder else default_folder(data_path, names, settings["output"])
    tokenizer = tokenize(domains, place, settings)
    if tokenizer is None:
        print(f"{place}: stopped after {settings['until']}; tokenize without until to go on")
        return 0
    for line in report_lines(tokenizer):
        print(line)
    for domain in domains:
        print(f"{domain.file(settings['output'])}: written")
    return 0


def groups(arguments: Sequence[str]) -> list[KeyGroup]:
    """Groups of the command's keys, for `--help`."""
    return [KeyGroup("Of the command", FLAGS), file_group("Of the IDs", "tokenize.yaml")]


def _encode_items(options: argparse.Namespace) -> int:
    from recbole_qbert.data.domain import find_domain
    from recbole_qbert.tokenizer.artifact import Tokenizer
    from recbole_qbert.tokenizer.new_items import encode_new_items
    from recbole_qbert.tokenizer.report import without_content_line

    names = options.dataset.split(",")
    data_path = Path(options.data_path)
    tokenizer = Tokenizer.load(options.tokenizer or default_folder(data_path, names))
    domains = [find_domain(name, data_path) for name in names]
    encoded = encode_new_items(tokenizer, domains)
    print(
        f"{tokenizer.folder}: {len(encoded.keys):,} new items, {encoded.moved:,} of them moved "
        f"to a free tuple; {len(tokenizer.keys):,} items in all"
    )
    if encoded.without_content:
        print(without_content_line(encoded.without_content))
    if encoded.keys:
        print(
            "models trained before do not know the new items; one trained again knows those with "
            "interactions in its .inter file"
        )
    return 0
