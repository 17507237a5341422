"""`recbole-qbert prepare`: makes atomic files from raw data."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from recbole_qbert.commands.command import Command
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import counted, new_console
from recbole_qbert.data.domain import DatasetPaths


def _amazon(options: SimpleNamespace) -> int:
    from recbole_qbert.common.errors import one_of
    from recbole_qbert.datasets.amazon import (
        Options,
        amazon_categories,
        find_interactions,
        find_metadata,
        prepare_amazon,
        published,
    )
    from recbole_qbert.datasets.prepare import report

    name = options.dataset or options.category
    if not name or not (options.category or options.reviews):
        raise InputError("give --category, or --dataset and --reviews")
    if options.category:
        one_of("--category", options.category, list(amazon_categories()))
    reviews, metadata = ([Path(file) for file in each or ()]
                         for each in (options.reviews, options.metadata))  # fmt: skip
    if options.category:
        place = options.folder, options.category, options.release
        reviews = reviews or find_interactions(*place)
        metadata = metadata or find_metadata(*place)
    domain = DatasetPaths(name, options.data_path / name)
    console = new_console(highlight=False)
    for path in (*reviews, *metadata):
        console.print(f"Reads {path}", soft_wrap=True)
    settings = Options(
        core=options.core,
        require=tuple(options.require),
        pictures=options.pictures,
        duplicates=options.duplicates,
        ties=options.ties,
        longest=options.longest,
    )
    made = prepare_amazon(
        domain, options.release, reviews, metadata, settings,
        overwrite=options.overwrite, progress=console.is_terminal,
    )  # fmt: skip
    report(domain, made, console, **published(options.category, options.release, options.core))
    return 0


def _table(options: SimpleNamespace) -> int:
    from recbole_qbert.datasets.prepare import report
    from recbole_qbert.datasets.table import Columns, ItemColumns, prepare_table
    from recbole_qbert.datasets.table_source import open_source

    text = {"delimiter": options.delimiter, "encoding": options.encoding}
    names = options.columns or None
    source = open_source(options.inter_file, format=options.format, names=names, **text)
    columns = Columns(options.user, options.item, options.time, options.time_unit, options.rating)
    items = None
    if options.item_file:
        fields = [field.rpartition(":") for field in options.item_fields]
        table = open_source(options.item_file, format=options.item_format, **text)
        if not options.item_id:
            table.check([options.item], ", which --item names (--item_id names another)")
        kinds = tuple((name, kind) if name else (kind, "token_seq") for name, _, kind in fields)
        items = table, ItemColumns(options.item_id or options.item, kinds)
    elif options.item_fields or options.item_id:
        raise InputError("--item_id and --item_fields require --item_file; give it as well")
    domain = DatasetPaths(options.dataset, options.data_path / options.dataset)
    console = new_console(highlight=False)
    made = prepare_table(
        domain, source, columns, items,
        core=options.core, duplicates=options.duplicates, ties=options.ties,
        overwrite=options.overwrite, progress=console.is_terminal,
    )  # fmt: skip
    report(domain, made, console)
    return 0


def _movielens(options: SimpleNamespace) -> int:
    from recbole_qbert.datasets.movielens import Extras, prepare_movielens, published
    from recbole_qbert.datasets.prepare import report

    name = options.dataset or options.folder.resolve().name
    domain = DatasetPaths(name, options.data_path / name)
    console = new_console(highlight=False)
    made = prepare_movielens(
        domain,
        options.folder,
        Extras(options.descriptions, options.posters),
        core=options.core,
        duplicates=options.duplicates,
        ties=options.ties,
        overwrite=options.overwrite,
        progress=console.is_terminal,
    )
    found = published(name)
    report(domain, made, console, **({"raw": found} if found else {}))
    return 0


def _import(options: SimpleNamespace) -> int:
    from recbole_qbert.datasets.mql4grec import import_json
    from recbole_qbert.datasets.target import check_target
    from recbole_qbert.datasets.unisrec import import_folder

    formats = {"mql4grec": import_json, "unisrec": import_folder}
    into = DatasetPaths(options.dataset, options.data_path / options.dataset)
    if not options.source.is_dir():
        raise InputError(f"{options.source}: no such folder; correct --source")
    if options.source.resolve() == into.folder.resolve():
        raise InputError(
            f"{options.source}: --source is the folder to write to, whose files would be replaced; "
            "give another --dataset or --data_path"
        )
    check_target(into, options.overwrite)
    facts = formats[options.format](options.source, options.name or options.dataset, into)
    _print_counts(into.folder, facts)
    for remark in facts["remarks"]:
        print(f"  {remark}")
    return 0


def _export(options: SimpleNamespace) -> int:
    from recbole_qbert.data.domain import find_domain
    from recbole_qbert.datasets.mql4grec import export_json
    from recbole_qbert.datasets.unisrec import export_folder

    domain = find_domain(options.dataset, options.data_path)
    if options.format == "mql4grec":
        facts = export_json(domain, options.output, overwrite=options.overwrite)
    else:
        facts = export_folder(
            domain, options.output, options.text_fields, overwrite=options.overwrite
        )
    _print_counts(options.output, facts)
    if facts["lost"]:
        print(f"  without {', '.join(facts['lost'])}")
    return 0


def _print_counts(folder: Path, facts: dict[str, int]) -> None:
    print(
        f"{folder}: {counted(facts['users'], 'user')}, {counted(facts['items'], 'item')}, "
        f"{counted(facts['interactions'], 'interaction')}"
    )


def _sample(options: SimpleNamespace) -> int:
    from recbole_qbert.experiments.demo import copy_sample

    domain = copy_sample(options.data_path)
    print(f"{domain.file('inter')} and .item: written")
    return 0


PREPARE = (
    Command(
        "prepare table",
        "Convert a table of interactions, and one of items, to atomic files.",
        _table,
        details="""
        recbole-qbert prepare table --dataset=Shop --inter_file=events.csv \\
            --user=customer --item=article --time=clicked_at --time_unit=date \\
            --item_file=articles.parquet --item_id=article --item_fields=name,brand:token

        Tables are CSV, TSV, Parquet or JSON lines. The command writes <dataset>.inter and .item, a
        sidecar with counts and hashes, and, if there are invalid rows, <dataset>.rejected.
        """,
    ),
    Command(
        "prepare amazon",
        "Convert downloaded Amazon reviews of 2014, 2018 or 2023 to atomic files.",
        _amazon,
        details="""
        recbole-qbert prepare amazon --category=Instruments --release=2018 --folder=raw
        recbole-qbert prepare amazon --dataset=Beauty --release=2014 \\
            --reviews=reviews_Beauty.json.gz --metadata=meta_Beauty.json.gz --require=text,image
        """,
    ),
    Command(
        "prepare movielens",
        "Convert an unpacked MovieLens archive (100K, 1M, 10M, 20M or later) to atomic files.",
        _movielens,
        details="recbole-qbert prepare movielens --folder=ml-1m --posters=posters",
    ),
    Command(
        "prepare import",
        "Convert a data set of another project to atomic files.",
        _import,
        details="""
        recbole-qbert prepare import --format=mql4grec --source=data/Arts --dataset=Arts

        mql4grec (and LC-Rec): X.inter.json, X.item.json, X.index*.json, X.user2id, X.item2id.
        unisrec (and VQ-Rec): X.{train,valid,test}.inter, X.text, X.feat1CLS, X.user2index,
        X.item2index.
        """,
    ),
    Command(
        "prepare export",
        "Convert atomic files to the format of another project.",
        _export,
        details="""
        recbole-qbert prepare export --format=mql4grec --dataset=Arts --output=data/Arts

        mql4grec keeps the order of the interactions but not their times. unisrec splits
        leave-one-out with histories of 50 items, and reads its features from X.text.npz.
        """,
    ),
    Command(
        "prepare sample",
        "Copy ml-100k, which RecBole ships, to the folder of data sets.",
        _sample,
    ),
)
