r"""Split a data set into benchmark files for RecBole.

    python dataset_scripts/split.py --dataset=X                          # leave-one-out
    python dataset_scripts/split.py --dataset=X --method=temporal --shares=0.8,0.9
    python dataset_scripts/split.py --dataset=X --method=temporal \
        --valid_from=1388534400 --test_from=1396310400
    python dataset_scripts/split.py --dataset=X --parts=my_train.inter,my_valid.inter,my_test.inter

The script writes dataset/X/X.train.inter, X.valid.inter and X.test.inter. Each row is a target with
its history. It also writes X.split.yaml, with which RecBole numbers the items of histories and
targets jointly: `recbole-qbert run --dataset=X --config_files=dataset/X/X.split.yaml ...`. It
prints how much of the future the split reveals in training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.interactions import Interactions
from recbole_qbert.datasets.scripts import comma_list, run_script
from recbole_qbert.datasets.split import (
    cut_offs,
    explain,
    leak,
    leave_one_out,
    own_parts,
    read_sequences,
    temporal,
    write_split,
)


def main() -> None:
    """Parse the options, split the data set, and print the counts and the leakage.

    Raises:
        InputError: an option or a file is invalid.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="name of the data set")
    parser.add_argument("--data_path", default="dataset", help="folder that holds <dataset>/")
    parser.add_argument("--method", default="leave_one_out", choices=("leave_one_out", "temporal"))
    parser.add_argument("--shares", type=comma_list, help="of interactions before valid and test")
    parser.add_argument("--valid_from", type=float, help="temporal: first time of valid")
    parser.add_argument("--test_from", type=float, help="temporal: first time of test")
    parser.add_argument("--parts", type=comma_list, help="your own three .inter files")
    parser.add_argument("--max_length", type=int, default=50, help="of a history; 0: all")
    options = parser.parse_args()
    if options.max_length < 0:
        raise InputError(f"--max_length={options.max_length}: give 0 or more")
    domain = DatasetPaths(options.dataset, Path(options.data_path) / options.dataset)
    paths = [Path(part) for part in options.parts or [domain.file("inter")]]
    if options.parts and len(paths) != 3:
        raise InputError(f"--parts: {len(paths)} files; give three, train, valid and test")
    sequences = read_sequences(*paths)
    method = "own parts" if options.parts else options.method
    if options.parts:
        rows = own_parts(sequences, paths)
    elif options.method == "temporal":
        rows = temporal(sequences, *_times(options, sequences))
    else:
        rows = leave_one_out(sequences)
    source = {
        "method": method,
        "max_length": options.max_length,
        "from": {path.name: sha256_file(path) for path in paths},
    }
    counts = write_split(domain, sequences, rows, options.max_length, source)
    print(f"{domain.folder}: " + ", ".join(f"{part} {n:,} rows" for part, n in counts.items()))
    for line in explain(leak(sequences, rows)):
        print(line)
    print(f"use it with --config_files={domain.file('split.yaml')}")


def _times(options: argparse.Namespace, sequences: Interactions) -> tuple[float, float]:
    """Return the start times of the validation and the test part."""
    given = (options.valid_from, options.test_from)
    if options.shares is None:
        if None in given:
            raise InputError(
                "--method=temporal needs --shares=0.8,0.9, or --valid_from, --test_from"
            )
        return given
    try:
        shares = [float(share) for share in options.shares]
    except ValueError:
        raise InputError(f"--shares={','.join(options.shares)}: give two numbers") from None
    return cut_offs(sequences, shares)


if __name__ == "__main__":
    run_script(main)
