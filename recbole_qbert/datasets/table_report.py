"""Implementation of `dataset_scripts/table.py`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.finish import report
from recbole_qbert.datasets.table import Columns, ItemColumns, prepare_table
from recbole_qbert.datasets.table_source import open_source


def prepare_and_report(options: SimpleNamespace) -> None:
    """Prepare the data set and print its report.

    Raises:
        InputError: a flag, file or column is invalid.
    """
    text = {"delimiter": options.delimiter, "encoding": options.encoding}
    source = open_source(options.inter_file, format=options.format, names=options.columns, **text)
    columns = Columns(options.user, options.item, options.time, options.time_unit, options.rating)
    items = None
    if options.item_file:
        fields = [field.rpartition(":") for field in options.item_fields]
        table = open_source(options.item_file, format=options.item_format, **text)
        if not options.item_id:
            table.check([options.item], ", as --item names it (--item_id names another)")
        items = (
            table,
            ItemColumns(
                options.item_id or options.item,
                tuple((name, kind) if name else (kind, "token_seq") for name, _, kind in fields),
            ),
        )
    elif options.item_fields or options.item_id:
        raise InputError("--item_id and --item_fields are of an --item_file; give it as well")
    domain = DatasetPaths(options.dataset, Path(options.data_path) / options.dataset)
    console = Console(highlight=False)
    made = prepare_table(
        domain, source, columns, items,
        core=options.core, duplicates=options.duplicates, ties=options.ties,
        overwrite=options.overwrite, progress=console.is_terminal,
    )  # fmt: skip
    report(domain, made, console)
