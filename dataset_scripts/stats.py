"""Print statistics of a data set: counts, lengths, duplicates, cold items, coverage of modalities.

    python dataset_scripts/stats.py --dataset=Instruments --json=stats.json --html=stats.html

Embedding tables beside the data set and pictures in a folder (--pictures) count as modalities.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_qbert.datasets.scripts import run_script


def main() -> None:
    """Parse the options, compute the statistics, and print and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="name of the data set")
    parser.add_argument("--data_path", default="dataset", help="folder that holds <dataset>/")
    parser.add_argument("--pictures", type=Path, help="folder of <item_id>.jpg")
    parser.add_argument("--json", type=Path, help="also write all facts there")
    parser.add_argument("--html", type=Path, help="also write a page with plots there")
    options = parser.parse_args()

    from rich.console import Console

    from recbole_qbert.common.files import write_json
    from recbole_qbert.data.domain import find_domain
    from recbole_qbert.datasets.stats import gather_stats
    from recbole_qbert.reports.dataset_statistics import print_stats, write_page

    facts = gather_stats(find_domain(options.dataset, options.data_path), options.pictures)
    print_stats(facts, Console(highlight=False))
    if options.json:
        write_json(options.json, facts)
    if options.html:
        write_page(options.html, facts)


if __name__ == "__main__":
    run_script(main)
