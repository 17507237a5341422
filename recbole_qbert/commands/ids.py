"""`recbole-qbert ids`: checks, inspects, makes and extends files of semantic IDs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from recbole_qbert.commands.command import Command, different_names
from recbole_qbert.commands.recommend import find_bundle
from recbole_qbert.common.errors import InputError, error_context
from recbole_qbert.common.output import counted, new_console
from recbole_qbert.data.domain import DatasetPaths, default_folder


def _check(options: SimpleNamespace) -> int:
    from recbole_qbert.data.semid import check_semantic_ids

    for line in check_semantic_ids(options.file, options.inter):
        print(line)
    return 0


def _inspect(options: SimpleNamespace) -> int:
    from recbole_qbert.reports.inspection.report import inspect

    domain = DatasetPaths(options.dataset, options.data_path / options.dataset)
    item_file = domain.file("item")
    inspect(
        options.semantic_id_file or domain.file("semid"),
        item_path=options.item_file or (item_file if item_file.is_file() else None),
        title_field=options.title_field,
        category_field=options.category_field,
        category_part=options.category_part,
        embeddings=_tables(options.embeddings, domain),
        images=options.images,
        html_path=options.html,
        prefix=options.prefix,
        example_items=options.items,
        n_examples=options.n_examples,
        console=new_console(),
    )
    return 0


def _tables(named: list[str], domain: DatasetPaths) -> dict[str, Path]:
    """Parse `text=a.npz`, `image=b.npz`; none: the embedding tables of the data set."""
    if not named:
        return domain.embedding_tables()
    tables = {}
    for part in named:
        name, equals, file = part.partition("=")
        if not (name and equals and file):
            raise InputError(f"--embeddings: '{part}' is no name=file.npz")
        tables[name] = Path(file)
    return tables


def _from_columns(options: SimpleNamespace) -> int:
    from recbole_qbert.tokenizer.code_columns import build_from_columns

    table = build_from_columns(
        options.item_file,
        options.columns,
        options.output,
        options.codebook_size,
        options.unique,
        options.vocabulary,
        options.beside,
    )
    print(
        f"{options.output}: {counted(table.n_items, 'item')}, {counted(table.n_levels, 'level')}, "
        "all IDs unique"
    )
    return 0


def _add_items(options: SimpleNamespace) -> int:
    names = different_names("dataset", options.dataset)
    if options.bundle and len(names) > 1:
        raise InputError("--bundle: is of one data set; give one --dataset")
    if options.output and not options.bundle:
        raise InputError("--output: is the folder of a new bundle; give the old one with --bundle")

    from recbole_qbert.common.files import check_replaceable, exclusive_folder
    from recbole_qbert.data.domain import find_domain
    from recbole_qbert.data.semid import read_semantic_ids
    from recbole_qbert.serving.bundle import BUNDLE_FILES
    from recbole_qbert.serving.new_items import add_items, added_line, open_bundle
    from recbole_qbert.tokenizer.artifact import Tokenizer
    from recbole_qbert.tokenizer.new_items import encode_new_items
    from recbole_qbert.tokenizer.report import without_content_line

    if options.output:
        with error_context("--output"):
            check_replaceable(options.output, BUNDLE_FILES)
    domains = [find_domain(name, options.data_path) for name in names]
    folder = options.tokenizer or default_folder(options.data_path, names)
    with exclusive_folder(folder):
        tokenizer = Tokenizer.load(folder)
        bundle = None
        if options.bundle:
            # Checked first, so that nothing is written if the bundle cannot take new items.
            bundle = open_bundle(find_bundle(options.bundle, names[0]), tokenizer.vocabulary)
            if not options.output:
                with error_context("without --output, the bundle is replaced"):
                    check_replaceable(bundle.folder, BUNDLE_FILES)
        encoded = encode_new_items(tokenizer, domains)
    output = tokenizer.settings["output"]
    written = ", ".join(str(domain.file(output)) for domain in domains)
    print(
        f"{written}: {counted(len(encoded.keys), 'new item')}, {encoded.moved:,} of them "
        f"moved to a free tuple; {counted(len(tokenizer.keys), 'item')} in all"
    )
    if encoded.without_content:
        print(without_content_line(encoded.without_content))
    if bundle is not None:
        ids = read_semantic_ids(domains[0].file(output))
        target = options.output or bundle.folder
        added = add_items(bundle, ids, domains[0].file("item"), target)
        print(added_line(target, added, len(bundle.loaded.tokens) + len(added)))
    elif encoded.keys:
        print(
            "models trained before do not know the new items; --bundle adds them to a bundle, and "
            "a model trained again knows those with interactions in its .inter file"
        )
    return 0


IDS = (
    Command(
        "ids check",
        "Validate a .semid file; with --inter, also check that each item has an ID.",
        _check,
        arguments=("FILE.semid",),
    ),
    Command(
        "ids inspect",
        "Report usage, tree, nearest items and purity of semantic IDs, as text and as a page.",
        _inspect,
    ),
    Command(
        "ids from-columns",
        "Make a .semid file from columns of codes in an .item file.",
        _from_columns,
        arguments=("ITEM_FILE", "OUTPUT"),
    ),
    Command(
        "ids add-items",
        "Make semantic IDs for new items with the frozen tokenizer, and add the items to a trained "
        "model's bundle; no existing ID or score changes.",
        _add_items,
        details="""
        recbole-qbert ids add-items --dataset=X
        recbole-qbert ids add-items --dataset=X --bundle=saved/results.jsonl:QBERT4Rec

        The new items are those of the .item file and of the embedding tables of the data set that
        have no ID yet. --bundle is the folder of a bundle or a run, results.jsonl for its latest
        run, or results.jsonl:MODEL.
        """,
    ),
)
