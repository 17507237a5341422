r"""Convert an unpacked MovieLens archive (100K, 1M, 10M, 20M or later) to RecBole's atomic files.

    python dataset_scripts/movielens.py --folder=ml-1m --dataset=ml-1m \
        --descriptions=descriptions.tsv --posters=posters

The names of the files determine the layout. The descriptions are a tab-separated table with the
columns item_id and description. The posters are a folder of <item_id>.jpg, or a tab-separated table
with the columns item_id and poster. The script writes dataset/<name>/<name>.inter, .item, .user if
there are users, and a sidecar with counts and hashes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_qbert.datasets.scripts import run_script


def main() -> None:
    """Parse the options, prepare the data set, and print its report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="the unpacked archive")
    parser.add_argument("--dataset", help="name of the data set; default: the folder's")
    parser.add_argument("--data_path", default="dataset", help="folder to make <dataset>/ in")
    parser.add_argument("--descriptions", type=Path, help="table of item_id and description")
    parser.add_argument("--posters", type=Path, help="folder of <item_id>.jpg, or table")
    parser.add_argument("--core", type=int, default=0, help="fewest of a user and of an item")
    parser.add_argument("--duplicates", default="all", help="first | last | identical | all")
    parser.add_argument(
        "--ties", default="shuffled", help="order at one time: file | shuffled | token"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the atomic files")
    options = parser.parse_args()

    from rich.console import Console

    from recbole_qbert.data.domain import DatasetPaths
    from recbole_qbert.datasets.movielens import Extras, prepare_movielens, published
    from recbole_qbert.datasets.prepare import report

    name = options.dataset or options.folder.resolve().name
    domain = DatasetPaths(name, Path(options.data_path) / name)
    console = Console(highlight=False)
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


if __name__ == "__main__":
    run_script(main)
