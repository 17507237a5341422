"""`recbole-qbert recommend` and `evaluate`: use of a trained model's bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from recbole_qbert.commands.command import Command
from recbole_qbert.common.errors import InputError, did_you_mean, did_you_mean_path, preview
from recbole_qbert.common.output import counted, new_console

if TYPE_CHECKING:
    from recbole_qbert.datasets.histories import UserHistories
    from recbole_qbert.serving.recommender import Recommender

_TABLE_FLAGS = ("user", "item", "time", "columns", "format", "delimiter")


def find_bundle(name: str, dataset: str | None = None) -> Path:
    """Return the folder of a bundle.

    Args:
        name: the folder, a run's folder, `results.jsonl` for its latest run, or
            `results.jsonl:MODEL` as in `compare`.
        dataset: data set that the run of `results.jsonl` must be on.

    Raises:
        InputError: there is no such run, or it has no bundle.
    """
    from recbole_qbert.evaluation.results import read_results
    from recbole_qbert.evaluation.significance import read_runs, split_name
    from recbole_qbert.serving.loading import folder_of_bundle

    path = Path(name)
    file, model = split_name(name)
    if path.is_file():
        runs = read_results(path)
    elif model and Path(file).is_file():
        runs = read_runs(name, dataset)
    elif model and file.endswith(".jsonl"):
        raise InputError(f"{file}: no such results file{did_you_mean_path(Path(file))}")
    else:
        return folder_of_bundle(path)
    fitting = [run for run in runs if dataset in (None, run.dataset)]
    if not runs:
        raise InputError(f"{name}: no runs in it yet")
    if not fitting:
        known = preview(sorted({run.dataset for run in runs}))
        raise InputError(
            f"{name}: no run on {dataset}; it has runs on {known}; to use a model of another data "
            "set, give the folder of its bundle"
        )
    if not fitting[-1].bundle:
        raise InputError(f"{name}: the latest run, of {fitting[-1].title}, has no bundle")
    return Path(fitting[-1].bundle)


def load_recommender(options: SimpleNamespace) -> tuple[Path, Recommender]:
    """Load the bundle of a command with the flags `dataset` and `device`; also return its folder.

    Raises:
        InputError: see `find_bundle` and `Recommender.load`.
    """
    import torch

    from recbole_qbert.common.process import flush_denormals
    from recbole_qbert.serving.recommender import Recommender

    flush_denormals()
    folder = find_bundle(options.bundle, options.dataset)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return folder, Recommender.load(folder, device)


def _check_batch_size(options: SimpleNamespace) -> None:
    from recbole_qbert.serving.recommender import checked_count

    if options.batch_size is not None:
        checked_count("--batch_size", options.batch_size)


def _recommend(options: SimpleNamespace) -> int:
    sources = [name for name in ("history", "history_file", "dataset") if getattr(options, name)]
    if not sources or sources[:2] == ["history", "history_file"]:
        raise InputError("give one of --history, --history_file and --dataset")
    if options.explain and not options.history:
        raise InputError("--explain explains one history; give it with --history")
    if options.history and options.output:
        raise InputError("--output takes the users of --history_file or --dataset")
    if options.output_format and not options.output:
        raise InputError("--output_format: give the file with --output as well")
    for name in _TABLE_FLAGS:
        if getattr(options, name) and not _is_table(options.history_file):
            raise InputError(
                f"--{name} describes a table, such as a .csv or .parquet file; an .inter file has "
                "its own columns"
            )

    import warnings

    from recbole_qbert.serving.part_files import check_output

    format = None
    if options.output:
        format = check_output(options.output, options.output_format, options.overwrite)
    _check_batch_size(options)
    folder, recommender = load_recommender(options)
    set_titles(recommender, options)
    if not options.exclude_seen and getattr(recommender.model, "exclude_visible", False):
        print("  this model never ranks items that it reads (exclude_visible)", file=sys.stderr)
    lists = {name: _tokens(options, name) for name in ("candidates", "exclude")}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        if options.history:
            _print_one(recommender, options, lists, folder)
        else:
            _write_all(recommender, options, lists, folder, format)
    for each in {str(each.message): None for each in caught}:
        print(f"  {each}", file=sys.stderr)
    return 0


def _is_table(path: Path | None) -> bool:
    return path is not None and path.suffix != ".inter"


def _title_file(options: SimpleNamespace) -> Path | None:
    """Return the `.item` file of `--title_field`; None for the titles in the bundle."""
    if options.item_file and not options.title_field:
        raise InputError("--item_file: give the field of the titles with --title_field as well")
    if not options.title_field:
        return None
    if options.item_file is None and not options.dataset:
        raise InputError("--title_field names a field of --item_file; give this file as well")
    return options.item_file or options.data_path / options.dataset / f"{options.dataset}.item"


def set_titles(recommender: Recommender, options: SimpleNamespace) -> None:
    """Read the titles that the flags `title_field`, `item_file` and `dataset` name, if any.

    Raises:
        InputError: the flags do not name a file, or it lacks the field.
    """
    from recbole_qbert.serving.titles import read_titles

    file = _title_file(options)
    if file is not None:
        recommender.titles = read_titles(file, recommender.tokens, options.title_field)


def _tokens(options: SimpleNamespace, name: str) -> list[str] | None:
    """Read the item tokens of a file, one a line."""
    from recbole_qbert.data.atomic import read_lines

    path = getattr(options, name)
    return None if path is None else [line for line in read_lines(path, may_be_empty=True) if line]


def _print_one(
    recommender: Recommender,
    options: SimpleNamespace,
    lists: dict[str, list[str] | None],
    folder: Path,
) -> None:
    from rich.table import Table

    (found,) = recommender.recommend(
        [options.history], options.k, options.exclude_seen, batch_size=options.batch_size,
        candidates=lists["candidates"], exclude=lists["exclude"] or (),
    )  # fmt: skip
    titles = dict(zip(recommender.tokens, recommender.titles or (), strict=False))
    table = Table()
    for column in ("rank", "item", "score", *(["title"] if titles else [])):
        table.add_column(column, justify="right" if column in ("rank", "score") else "left")
    for rank, (item, score) in enumerate(found, start=1):
        cells = [str(rank), item, f"{score:.4f}", *([titles[item]] if titles else [])]
        table.add_row(*cells)
    console = new_console()
    console.print(_named(recommender, folder), soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    if options.explain and found:
        items = [item for item, _ in found]
        explained = recommender.explain(options.history, items, skip_unranked=True)
        lines = {each.item: each.lines(titles) for each in explained}
        for item in items:
            console.print(titles.get(item) or item, markup=False, highlight=False)
            for line in lines.get(item, ["not explained: only a wider search finds it"]):
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _write_all(
    recommender: Recommender,
    options: SimpleNamespace,
    lists: dict[str, list[str] | None],
    folder: Path,
    format: str | None,
) -> None:
    from recbole_qbert.data.atomic_writing import write_header
    from recbole_qbert.experiments.export import ListSettings, export, file_sources, tables
    from recbole_qbert.serving.part_files import write_tsv
    from recbole_qbert.serving.recommender import checked_count

    checked_count("--k", options.k, len(recommender.tokens))
    wanted = ListSettings(
        options.k,
        options.exclude_seen,
        recommender.allowed(lists["candidates"], lists["exclude"] or ()),
        options.batch_size,
    )
    console = new_console(highlight=False, stderr=format is None)
    console.print(_named(recommender, folder), soft_wrap=True, markup=False)
    file, given = _histories(recommender, options, console.is_terminal)
    for remark in given.remarks:
        console.print(remark, soft_wrap=True, markup=False)
    if format is None:
        sys.stdout.flush()
        write_header(sys.stdout.buffer, recommender.schema.names)
        for table in tables(recommender, given, wanted):
            write_tsv(sys.stdout.buffer, table)
            sys.stdout.buffer.flush()
        return
    lists_of_items = (options.candidates, options.exclude)
    named = (folder / "manifest.json", file, *lists_of_items, _title_file(options))
    sources: dict[str, Any] = file_sources([path for path in named if path is not None])
    flags = (*_TABLE_FLAGS, "time_unit", "encoding", "title_field")
    sources |= {name: getattr(options, name) for name in flags}
    # A file of candidates may become one of exclusions.
    sources["lists"] = [str(path) for path in lists_of_items]
    progress = console.is_terminal
    done = export(recommender, given, wanted, options.output, format, sources, progress)
    n_now = len(given.users) - done.n_there
    if done.n_there:
        there = counted(done.n_there, "user")
        console.print(f"Continued after {there}; the next line is about the other {n_now:,}")
    text = f"{options.output}: {counted(n_now - done.n_empty, 'user')}"
    if done.n_empty:
        text += f"; {counted(done.n_empty, 'user')} without an item to recommend"
    if done.n_short:
        text += f"; {counted(done.n_short, 'list')} shorter than {options.k}"
    console.print(text, soft_wrap=True)


def _named(recommender: Recommender, folder: Path) -> str:
    config = recommender.config
    return f"{config['model']} trained on {config['dataset']}, {folder}"


def _histories(
    recommender: Recommender, options: SimpleNamespace, progress: bool
) -> tuple[Path, UserHistories]:
    """Return the file of the histories, and these."""
    from recbole_qbert.data.domain import find_domain
    from recbole_qbert.datasets.histories import inter_histories, table_histories
    from recbole_qbert.datasets.table import Columns
    from recbole_qbert.datasets.table_source import open_source

    file = options.history_file
    if not _is_table(file):
        file = file or find_domain(options.dataset, options.data_path).file("inter")
        return file, inter_histories(file, recommender.ids_of)
    source = open_source(
        file, format=options.format, names=options.columns or None,
        delimiter=options.delimiter, encoding=options.encoding,
    )  # fmt: skip
    for name in ("user", "item"):
        if not getattr(options, name):
            known = source.columns()
            raise InputError(
                f"--{name}: give the column of {name}s of {file}; it has {preview(known)}"
                f"{did_you_mean(name, known)}"
            )
    columns = Columns(options.user, options.item, options.time, options.time_unit)
    return file, table_histories(source, columns, recommender.ids_of, progress)


def _evaluate(options: SimpleNamespace) -> int:
    from recbole_qbert.common.files import check_output_file, write_json

    if options.json:
        check_output_file("json", options.json)
    _check_batch_size(options)
    folder, recommender = load_recommender(options)

    from recbole_qbert.evaluation.printing import rankings_tables
    from recbole_qbert.experiments.evaluate import evaluate

    console = new_console()
    model, dataset = recommender.config["model"], options.dataset or recommender.config["dataset"]
    where = (dataset, options.data_path, options.batch_size)
    names, valid, test, notes = evaluate(recommender, *where, progress=console.is_terminal)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    for table in rankings_tables(dataset, [(model, valid, test)], names, console):
        console.print(table, crop=False)
    if options.json:
        content = {"model": model, "dataset": dataset, "bundle": str(folder), "notes": notes}
        write_json(options.json, content | {"valid": valid, "test": test})
    return 0


RECOMMEND = Command(
    "recommend",
    "Recommend items from a trained model's bundle: for one history, or for all users of a table "
    "or a data set.",
    _recommend,
    arguments=("BUNDLE",),
    details="""
        recbole-qbert recommend saved/results.jsonl --history=50,56 --explain
        recbole-qbert recommend saved/results.jsonl --dataset=Shop --output=lists.parquet
        recbole-qbert recommend saved/results.jsonl:SASRec --history_file=events.csv \\
            --user=customer --item=article --time=when --time_unit=date --output=lists.tsv

        BUNDLE is the folder of a bundle or a run, results.jsonl for its latest run, or
        results.jsonl:MODEL as in compare. The output has the columns user, rank, item, score, and
        title if titles are known. A killed command continues when it is repeated.
        """,
)
EVALUATE = Command(
    "evaluate",
    "Rank the valid and test targets of a data set with a trained model's bundle.",
    _evaluate,
    arguments=("BUNDLE",),
    details="""
        recbole-qbert evaluate saved/results.jsonl --data_path=dataset

        BUNDLE is as in recommend. On the data set of the run, the metrics equal those of run.
        """,
)
