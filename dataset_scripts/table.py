r"""Convert a table of interactions, and one of items, to RecBole's atomic files.

    python dataset_scripts/table.py --dataset=Shop --inter_file=events.csv \
        --user=customer --item=article --time=date --time_unit=date \
        --item_file=articles.parquet --item_id=article --item_fields=name,brand:token,price:float

Tables are CSV, TSV, Parquet or JSON lines; the format follows from the name, or from --format.
Without --time, the rows must be in time order. The script writes dataset/<name>/<name>.inter and
.item, a sidecar with counts and hashes, and, if there are invalid rows, <name>.rejected with each
of them.
"""

from __future__ import annotations

import argparse

from recbole_qbert.datasets.scripts import comma_list, run_script


def main() -> None:
    """Parse the options, prepare the data set, and print its report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="name of the data set")
    parser.add_argument("--data_path", default="dataset", help="folder to make <dataset>/ in")
    parser.add_argument("--inter_file", required=True, help="table of interactions")
    parser.add_argument("--user", required=True, help="its column of users")
    parser.add_argument("--item", required=True, help="its column of items")
    parser.add_argument("--time", help="its column of times; default: the order of the rows")
    parser.add_argument(
        "--time_unit", default="s", help="s | ms | us | ns since 1970, or date (ISO 8601)"
    )
    parser.add_argument("--rating", help="its column of ratings")
    parser.add_argument("--columns", type=comma_list, help="names, if it has no header")
    parser.add_argument("--item_file", help="table of items")
    parser.add_argument("--item_id", help="its column of items; default: as --item")
    parser.add_argument(
        "--item_fields",
        type=comma_list,
        default=[],
        help="its columns to keep, as NAME or NAME:TYPE of token_seq, token, float; default: all",
    )
    parser.add_argument("--format", help="csv | tsv | parquet | json; default: by the name")
    parser.add_argument("--item_format", help="as --format, of --item_file")
    parser.add_argument("--delimiter", help="of CSV and TSV files")
    parser.add_argument("--encoding", default="utf-8", help="of CSV and TSV files")
    parser.add_argument("--core", type=int, default=0, help="fewest of a user and of an item")
    parser.add_argument("--duplicates", default="all", help="first | last | identical | all")
    parser.add_argument("--ties", default="file", help="order at one time: file | shuffled | token")
    parser.add_argument("--overwrite", action="store_true", help="replace the atomic files")
    options = parser.parse_args()

    from recbole_qbert.datasets.table import prepare_and_report

    prepare_and_report(options)


if __name__ == "__main__":
    run_script(main)
