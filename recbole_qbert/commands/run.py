"""`recbole-qbert run`, `demo`, `sample`, `table` and `compare`: train, evaluate, compare."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_qbert.commands.help import KeyGroup, run_groups
from recbole_qbert.commands.settings import in_processes, parse_settings, pop_models
from recbole_qbert.common.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

HELP = (
    "train and evaluate models: --model=A[,B...] --dataset=X [--config_files=a.yaml,b.yaml] "
    "[--nproc=N] [--key=value ...]"
)
FLAGS = """
model:           # (str) needed; one or several with commas between, each with its keys in --help
dataset:         # (str) needed; its files are <data_path>/<dataset>/<dataset>.inter and so on
config_files:    # (str) YAML files with commas between; later ones win, and flags win over all
nproc: 1         # (int) processes that share a run
use_tuned: True  # (bool) take what was tuned for this model and data set (properties/tuned)
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add all commands of this module except `run` to the parser."""
    demo = commands.add_parser("demo", help="the whole way on ml-100k, which RecBole ships")
    demo.add_argument("--folder", default=".", help="where dataset/ and saved/ are made")
    demo.add_argument("--posters", help="folder of <item_id>.jpg; the IDs then use them too")
    demo.set_defaults(function=_demo)

    sample = commands.add_parser("sample", help="ml-100k's files, which RecBole ships")
    sample.add_argument("--data_path", default="dataset", help="folder to put ml-100k/ in")
    sample.set_defaults(function=_sample)

    table = commands.add_parser("table", help="means over seeds of a results file, as Markdown")
    table.add_argument("file", help="results.jsonl")
    table.add_argument(
        "--runs", default="all", choices=("all", "last"),
        help="last: only the latest settings of each model",
    )  # fmt: skip
    table.set_defaults(function=_table)

    compare = commands.add_parser("compare", help="paired test of two models over the same users")
    compare.add_argument(
        "left",
        help="all seeds of results.jsonl:MODEL (where it has several settings, MODEL@last or "
        "MODEL@ and the digits of its folder), or of the run in a folder",
    )
    compare.add_argument("right", help="likewise")
    compare.add_argument("--metric", default="unseen_ndcg@10", help="unseen_: seen items excluded")
    compare.set_defaults(function=_compare)


def run(arguments: Sequence[str]) -> int:
    """Run `run --model=A,B --dataset=X --config_files=a.yaml --key=value ...`.

    Returns:
        The exit status.

    Raises:
        InputError: an argument cannot be used.
    """
    settings = parse_settings(arguments)
    nproc = settings.pop("nproc", None)
    flags = [f"--{key}={value}" for key, value in settings.items()]
    models, dataset, files = pop_models(settings)
    status = in_processes(["run", *flags], nproc, files)
    if status is not None:
        return status
    from recbole_qbert.experiments.run import run_models

    run_models(models, dataset, files, settings, wide_console())
    return 0


def groups(arguments: Sequence[str]) -> list[KeyGroup]:
    """Groups of the command's keys, for `--help`."""
    return [KeyGroup("Of the command", FLAGS), *run_groups(arguments)]


def wide_console() -> Console:
    """Console with at least 110 columns if the output is not a terminal, so that tables fit."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(110, console.width))


def _demo(options: argparse.Namespace) -> int:
    from recbole_qbert.experiments.demo import run_demo

    posters = Path(options.posters) if options.posters else None
    run_demo(Path(options.folder), wide_console(), posters)
    return 0


def _sample(options: argparse.Namespace) -> int:
    from recbole_qbert.experiments.demo import copy_sample

    domain = copy_sample(Path(options.data_path))
    print(f"{domain.file('inter')} and .item: written")
    return 0


def _table(options: argparse.Namespace) -> int:
    from recbole_qbert.evaluation.printing import chosen_groups, seeds_markdown
    from recbole_qbert.evaluation.results import read_results

    results = read_results(options.file)
    if not results:
        raise InputError(f"{options.file}: no runs in it yet")
    print(seeds_markdown(chosen_groups(results, options.runs)))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from recbole_qbert.evaluation.significance import compare, read_runs

    left, right = read_runs(options.left), read_runs(options.right)
    print(compare(left, right, options.metric))
    return 0
