r"""Import data sets of other projects to RecBole's atomic files.

    python dataset_scripts/import_data.py --format=mql4grec --source=data/Instruments \
        --dataset=Instruments --data_path=dataset

`mql4grec` (and LC-Rec): X.inter.json, X.item.json, X.index*.json, X.user2id, X.item2id.
`unisrec` (and VQ-Rec): X.{train,valid,test}.inter, X.text, X.feat1CLS, X.user2index, X.item2index.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.arrow_cache import check_target
from recbole_qbert.datasets.mql4grec import import_json
from recbole_qbert.datasets.scripts import run_script
from recbole_qbert.datasets.unisrec import import_folder

FORMATS = {"mql4grec": import_json, "unisrec": import_folder}


def main() -> None:
    """Parse the options, import the data set, and print its counts.

    Raises:
        InputError: an option or a file is invalid, or files would be replaced without --overwrite.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--format", required=True, choices=sorted(FORMATS))
    parser.add_argument("--source", required=True, type=Path, help="folder to read")
    parser.add_argument("--name", help="of the data set there; default: --dataset")
    parser.add_argument("--dataset", required=True, help="name of the data set to write")
    parser.add_argument("--data_path", default="dataset", type=Path, help="folder to make it in")
    parser.add_argument("--overwrite", action="store_true", help="replace the atomic files and IDs")
    options = parser.parse_args()
    into = DatasetPaths(options.dataset, options.data_path / options.dataset)
    check_target(into, options.overwrite)
    if not options.source.is_dir():
        raise InputError(f"{options.source}: no such folder; correct --source")
    facts = FORMATS[options.format](options.source, options.name or options.dataset, into)
    print(
        f"{into.folder}: {facts['users']:,} users, {facts['items']:,} items, "
        f"{facts['interactions']:,} interactions"
    )
    for remark in facts["remarks"]:
        print(f"  {remark}")


if __name__ == "__main__":
    run_script(main)
