r"""Convert downloaded Amazon reviews of 2014, 2018 or 2023 to RecBole's atomic files.

    python dataset_scripts/amazon.py --category=Instruments --release=2018 --folder=raw
    python dataset_scripts/amazon.py --dataset=Beauty --release=2014 \
        --reviews=reviews_Beauty.json.gz --metadata=meta_Beauty.json.gz --require=text,image

The script finds the files of a category by their names (ratings-only files first), or reads the
given ones. It writes dataset/<name>/<name>.inter and .item, a sidecar with counts and hashes, and,
if there are invalid lines, <name>.rejected with each of them.
"""

from __future__ import annotations

import argparse

from recbole_qbert.datasets.scripts import comma_list, run_script


def main() -> None:
    """Parse the options, prepare the data set, and print its report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--release", type=int, required=True, choices=(2014, 2018, 2023))
    parser.add_argument(
        "--category",
        help="Pet | Cell | Automotive | Tools | Toys | Sports | Instruments | Arts | Games",
    )
    parser.add_argument("--folder", default="raw", help="where a category's files lie")
    parser.add_argument("--reviews", type=comma_list, help="files, instead of a category's")
    parser.add_argument("--metadata", type=comma_list, help="files, instead of a category's")
    parser.add_argument("--dataset", help="name of the data set; default: the category")
    parser.add_argument("--data_path", default="dataset", help="folder to make <dataset>/ in")
    parser.add_argument("--core", type=int, default=5, help="fewest of a user and of an item")
    parser.add_argument(
        "--require", type=comma_list, default=[], help="text, image: what an item must have"
    )
    parser.add_argument("--pictures", help="folder of <item_id>.jpg: what has an image")
    parser.add_argument("--duplicates", default="first", help="first | last | identical | all")
    parser.add_argument(
        "--ties", default="shuffled", help="order at one time: file | shuffled | token"
    )
    parser.add_argument("--longest", type=int, help="empty texts of so many characters or more")
    parser.add_argument("--overwrite", action="store_true", help="replace the atomic files")
    options = parser.parse_args()

    from recbole_qbert.datasets.amazon import prepare_and_report

    prepare_and_report(options)


if __name__ == "__main__":
    run_script(main)
