r"""Download raw files, or pictures of items, by lists of URLs.

    python dataset_scripts/download.py --items=dataset/X/X.item --column=image_url \
        --output=pictures/X --pictures
    python dataset_scripts/download.py --list=urls.tsv --output=raw

`urls.tsv` has one row per file: its name, a tab, URLs separated by blanks (tried in order), and
optionally a tab and its SHA-256. Repeat the command after a kill, or to try failed files again;
status.tsv in the folder has the state of each file. For a machine without a network, download the
files elsewhere and give their folder: --offline=FOLDER.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields
from pathlib import Path

from recbole_qbert.common.errors import InputError
from recbole_qbert.datasets.download import STATUS, download, read_items, read_list
from recbole_qbert.datasets.http import FAILED, STATES, HttpOptions
from recbole_qbert.datasets.scripts import comma_list, run_script


def main() -> None:
    """Parse the options, download the files, and print the counts.

    Raises:
        InputError: an option or a list is invalid, or a download failed without --allow_failed.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--list", help="text file: name, tab, URLs[, tab, SHA-256]")
    source.add_argument("--items", help=".item file with URLs in --column")
    parser.add_argument("--column", help="of --items: URLs with blanks between")
    parser.add_argument("--output", required=True, help="folder to put the files in")
    parser.add_argument("--pictures", action="store_true", help="keep only whole pictures")
    parser.add_argument("--offline", type=Path, help="folder to take the files from")
    parser.add_argument("--again", type=comma_list, default=[], help=", ".join(STATES))
    parser.add_argument("--check", action="store_true", help="read what is done again")
    parser.add_argument(
        "--allow_failed", action="store_true", help="end well even where the network failed"
    )
    usual = HttpOptions()
    parser.add_argument("--workers", type=int, default=usual.workers, help="files at a time")
    parser.add_argument("--per_host", type=int, default=usual.per_host, help="of them, of one host")
    parser.add_argument("--timeout", type=float, default=usual.timeout, help="s without a byte")
    parser.add_argument(
        "--file_timeout", type=float, default=usual.file_timeout, help="s for a whole file"
    )
    parser.add_argument("--retries", type=int, default=usual.retries, help="after transient errors")
    parser.add_argument("--backoff", type=float, default=usual.backoff, help="s, doubled each time")
    parser.add_argument("--max_wait", type=float, default=usual.max_wait, help="s, the longest")
    parser.add_argument("--user_agent", default=usual.user_agent, help="who asks")
    options = parser.parse_args()
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # status.tsv has the reasons
    if options.workers < 1 or options.per_host < 1 or options.timeout <= 0 or options.retries < 0:
        raise InputError("--workers, --per_host, --timeout: more than 0; --retries: 0 or more")
    if options.items and not options.column:
        raise InputError("--column=... is needed: the column of --items that has the URLs")
    entries = (
        read_items(options.items, options.column) if options.items else read_list(options.list)
    )
    counts = download(
        entries,
        options.output,
        HttpOptions(**{each.name: getattr(options, each.name) for each in fields(HttpOptions)}),
        pictures=options.pictures,
        offline=options.offline,
        again=options.again,
        check=options.check,
    )
    shown = ", ".join(f"{counts[state]:,} {state}" for state in STATES if counts[state])
    print(f"{options.output}: {shown}")
    if counts[FAILED] and not options.allow_failed:
        raise InputError(
            f"{counts[FAILED]:,} of {len(entries):,} failed (see {options.output}/{STATUS}); "
            "repeat the command, or go on without them: --allow_failed"
        )


if __name__ == "__main__":
    run_script(main)
