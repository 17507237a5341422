"""`recbole-qbert report`: shows results folders as an HTML page, and as plots for papers."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_qbert.commands.inspect import add_item_fields


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its flags to the parser."""
    parser = commands.add_parser("report", help="results folders as one HTML page, and as plots")
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER",
        help="a checkpoint_dir, or any folder above it: results.jsonl, benchmarks, sweeps",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="the page")
    parser.add_argument("--plots", type=Path, help="folder for each plot as PNG and SVG")
    parser.add_argument("--metric", default="ndcg@10", help="of the charts, in both rankings")
    parser.add_argument("--dataset", help="whose items and users are shown, if there are several")
    parser.add_argument("--data_path", type=Path, help="folder that holds <dataset>/")
    parser.add_argument("--semantic_id_file", type=Path, help="instead of <dataset>.semid")
    parser.add_argument("--tokenizer", type=Path, help="its folder, if not the data set's")
    add_item_fields(parser, "its field of categories: colors of the map")
    parser.add_argument("--images", type=Path, help="folder of <item_id>.<jpg|png|...>")
    parser.add_argument("--projection", default="tsne", help="of the map of items: tsne or pca")
    parser.add_argument("--n_users", type=int, default=5, help="example users")
    parser.set_defaults(function=_report)


def _report(options: argparse.Namespace) -> int:
    from recbole_qbert.commands.run import wide_console
    from recbole_qbert.reports.report import ReportRequest, report

    asked = vars(options)
    del asked["function"]
    asked["folders"] = tuple(asked["folders"])
    report(ReportRequest(**asked), wide_console())
    return 0
