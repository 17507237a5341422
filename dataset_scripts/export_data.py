r"""Export atomic files to the formats of other projects.

    python dataset_scripts/export_data.py --format=mql4grec --dataset=Instruments \
        --data_path=dataset --output=data/Instruments
    python dataset_scripts/export_data.py --format=unisrec --dataset=X --text_fields=title,brand \
        --output=downstream/X

The formats are those of import_data.py. `mql4grec` keeps the order of the interactions but not
their times. `unisrec` splits leave-one-out with histories of 50 items, and reads its features from
X.text.npz.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_qbert.data.domain import find_domain
from recbole_qbert.datasets.mql4grec import export_json
from recbole_qbert.datasets.scripts import comma_list, run_script
from recbole_qbert.datasets.unisrec import export_folder


def main() -> None:
    """Parse the options, export the data set, and print its counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--format", required=True, choices=("mql4grec", "unisrec"))
    parser.add_argument("--dataset", required=True, help="name of the data set")
    parser.add_argument("--data_path", default="dataset", help="folder that holds <dataset>/")
    parser.add_argument("--output", required=True, type=Path, help="folder to write")
    parser.add_argument("--text_fields", type=comma_list, default=[], help="unisrec: of X.text")
    options = parser.parse_args()
    domain = find_domain(options.dataset, options.data_path)
    if options.format == "mql4grec":
        facts = export_json(domain, options.output)
    else:
        facts = export_folder(domain, options.output, options.text_fields)
    print(
        f"{options.output}: {facts['users']:,} users, {facts['items']:,} items, "
        f"{facts['interactions']:,} interactions"
    )
    if facts["lost"]:
        print(f"  without {', '.join(facts['lost'])}")


if __name__ == "__main__":
    run_script(main)
