"""The command `recbole-qbert`. Every `InputError` becomes one line on stderr and exit status 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from recbole_qbert._version import __version__
from recbole_qbert.errors import InputError

RUN_HELP = (
    "train and evaluate models: --model=A[,B...] --dataset=X [--config_files=a.yaml,b.yaml] "
    "[--key=value ...]"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["run"]:
            return run(given[1:])
        options = build_parser().parse_args(given)
        command: Callable[[argparse.Namespace], int] = options.function
        return command(options)
    except InputError as error:
        print(f"recbole-qbert: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("recbole-qbert: stopped; add --resume=True to go on", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """All sub-commands but `run`, whose `--key=value` flags are the config's and open-ended."""
    parser = argparse.ArgumentParser(prog="recbole-qbert", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser("run", help=RUN_HELP)

    demo = commands.add_parser("demo", help="the whole way on ml-100k, which RecBole ships")
    demo.add_argument("--folder", default=".", help="where dataset/ and saved/ are made")
    demo.set_defaults(function=_demo)

    check = commands.add_parser("check", help="validate a .semid file")
    check.add_argument("file")
    check.add_argument("--inter", help=".inter file whose items must all have an ID")
    check.set_defaults(function=_check)

    columns = commands.add_parser(
        "ids-from-columns", help="make a .semid file from code columns of an .item file"
    )
    columns.add_argument("item_file")
    columns.add_argument("output")
    columns.add_argument("--columns", required=True, help="comma-separated; levels side by side")
    columns.add_argument("--codebook_size", type=int, default=256)
    columns.set_defaults(function=_ids_from_columns)

    text = commands.add_parser(
        "ids-from-text", help="make a .semid file from text columns (TF-IDF and residual k-means)"
    )
    text.add_argument("item_file")
    text.add_argument("output")
    text.add_argument("--columns", required=True, help="comma-separated text columns")
    text.add_argument("--n_levels", type=int, default=4)
    text.add_argument("--codebook_size", type=int, default=64)
    text.add_argument("--seed", type=int, default=2026)
    text.set_defaults(function=_ids_from_text)

    table = commands.add_parser("table", help="means over seeds of a results file, as Markdown")
    table.add_argument("file", help="results.jsonl")
    table.set_defaults(function=_table)

    doctor = commands.add_parser("doctor", help="check this installation and say what to mend")
    doctor.set_defaults(function=_doctor)
    return parser


def run(arguments: Sequence[str]) -> int:
    """`run --model=A,B --dataset=X --config_files=a.yaml --key=value ...`"""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"recbole-qbert run: {RUN_HELP}")
        return 0
    settings = parse_settings(arguments)
    models = [name for name in settings.pop("model", "").split(",") if name]
    dataset = settings.pop("dataset", "")
    files = [name for name in settings.pop("config_files", "").replace(",", " ").split() if name]
    from recbole_qbert.config import load_yaml
    from recbole_qbert.quick_start import run_models

    for file in files:
        content = load_yaml(file)
        models = models or str(content.get("model", "")).replace(",", " ").split()
        dataset = dataset or str(content.get("dataset", ""))
    for key, value in (("model", models), ("dataset", dataset)):
        if not value:
            raise InputError(f"--{key}=... is needed, on the command line or in a config file")
    run_models(models, dataset, files, settings, wide_console())
    return 0


def parse_settings(arguments: Sequence[str]) -> dict[str, str]:
    """`--key=value` and `--key value` (and RecBole's -m, -d) to a dict of strings."""
    short = {"-m": "--model", "-d": "--dataset"}
    settings: dict[str, str] = {}
    queue = list(arguments)
    while queue:
        flag, equals, value = queue.pop(0).partition("=")
        flag = short.get(flag, flag)
        if not flag.startswith("--") or len(flag) < 3:
            raise InputError(f"command line: '{flag}' is no --key=value")
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise InputError(f"command line: {flag} has no value; write {flag}=value")
            value = queue.pop(0)
        key = flag[2:]
        if settings.get(key, value) != value:
            raise InputError(f"command line: {flag} is given twice with different values")
        settings[key] = value
    return settings


def wide_console() -> Console:
    """At least 110 columns where the output is no terminal, so that tables keep their cells."""
    console = Console()
    return console if console.is_terminal else Console(width=max(110, console.width))


def _demo(options: argparse.Namespace) -> int:
    from recbole_qbert.demo import run_demo

    run_demo(Path(options.folder), wide_console())
    return 0


def _check(options: argparse.Namespace) -> int:
    from recbole_qbert.data.semid import check_semantic_ids

    for line in check_semantic_ids(options.file, options.inter):
        print(line)
    return 0


def _ids_from_columns(options: argparse.Namespace) -> int:
    from recbole_qbert.tokenizer.build import build_from_columns

    columns = options.columns.split(",")
    table = build_from_columns(options.item_file, columns, options.output, options.codebook_size)
    print(f"{options.output}: {table.n_items:,} items, {table.n_levels} levels, all tuples unique")
    return 0


def _ids_from_text(options: argparse.Namespace) -> int:
    from recbole_qbert.tokenizer.build import build_from_text

    table = build_from_text(
        options.item_file,
        options.columns.split(","),
        options.output,
        n_levels=options.n_levels,
        codebook_size=options.codebook_size,
        seed=options.seed,
    )
    print(f"{options.output}: {table.n_items:,} items, {table.n_levels} levels, all tuples unique")
    return 0


def _table(options: argparse.Namespace) -> int:
    from recbole_qbert.evaluation.results import read_results, seeds_markdown

    results = read_results(options.file)
    if not results:
        raise InputError(f"{options.file}: no runs in it yet")
    keys = results[0].config["keys"]
    print(seeds_markdown(results, keys["metrics"], keys["topk"]))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from recbole_qbert.doctor import main as examine

    return examine()
