"""Pretraining over a made-up corpus of the size of the paper's six source domains.

    python -m benchmarks.corpus --steps=200
    python -m benchmarks.corpus --steps=200 --share=0.01        # a hundredth of the users

Users, items and interactions of each domain are those of the paper's Table 1: 785,066 users,
255,218 items, 7.1 million interactions in all. Lengths are at least 5 and geometric above, items
are drawn by Zipf's law, IDs are 4 random codes of 256 in one vocabulary. The corpus is written as
atomic files; then `recbole-qbert pretrain` runs on it in a process of its own, whose time and
largest resident size are printed, and once more, with the sequences already on disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.csv

from recbole_qbert.commands.settings import parse_settings
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.preparation.published import amazon_categories

SOURCES = ("Pet", "Cell", "Automotive", "Tools", "Toys", "Sports")
DOMAINS = {name: amazon_categories()[name].counts["paper"] for name in SOURCES}
FEWEST, N_LEVELS, CODEBOOK_SIZE = 5, 4, 256


def main() -> int:
    """Write the corpus, pretrain on it twice, print time and memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--share", type=float, default=1.0, help="of the users of each domain")
    parser.add_argument("--pretrain", help=argparse.SUPPRESS)
    options, others = parser.parse_known_args()
    if options.pretrain:
        return pretrain_here(Path(options.pretrain), options.steps, parse_settings(others))
    with tempfile.TemporaryDirectory() as folder:
        started = perf_counter()
        rng = np.random.default_rng(2026)
        # Distinct in their high bits, so that no two items of any domain share a tuple.
        numbers = rng.permutation(1 << 20) << 12 | rng.integers(1 << 12, size=1 << 20)
        for name, (users, items, interactions) in DOMAINS.items():
            own, numbers = numbers[:items], numbers[items:]
            sizes = (round(users * options.share), round(interactions * options.share))
            write_domain(Path(folder), name, sizes, own, rng)
        print(f"corpus written in {perf_counter() - started:.0f} s")
        for place in ("first time", "once more"):
            command = [sys.executable, "-m", "benchmarks.corpus", *sys.argv[1:]]
            done = subprocess.run(
                [*command, f"--pretrain={folder}"], stdout=subprocess.PIPE, text=True, check=True
            )
            *shown, last = done.stdout.splitlines()
            print("\n".join(shown))
            print(f"{place}: " + ", ".join(f"{k} {v:,.4g}" for k, v in json.loads(last).items()))
    return 0


def pretrain_here(folder: Path, steps: int, settings: dict[str, str]) -> int:
    """`pretrain` in this process; the last line is what it took."""
    from recbole_qbert.pretraining.fit import pretrain

    started = perf_counter()
    given = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "saved"),
        "epochs": 1,
        "steps_per_epoch": steps,
        "show_progress": False,
    }
    pretrain(list(DOMAINS), settings=given | settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(json.dumps({"seconds": perf_counter() - started, "peak GiB": peak}))
    return 0


def write_domain(
    root: Path, name: str, sizes: tuple[int, int], numbers: np.ndarray, rng: np.random.Generator
) -> None:
    """A domain's `.inter` and `.semid`: so many users and interactions, and an item a number."""
    n_users, n_interactions = sizes
    n_items = len(numbers)
    folder = root / name
    folder.mkdir()
    extra = rng.geometric(n_users / (n_interactions - (FEWEST - 1) * n_users), n_users)
    lengths = extra + FEWEST - 1
    users = np.repeat(np.arange(n_users), lengths)
    chances = 1 / np.arange(1, n_items + 1)
    items = rng.choice(n_items, len(users), p=chances / chances.sum())
    numbered = [pa.array(users), pa.array(items), pa.array(np.arange(len(users)))]
    with open(folder / f"{name}.inter", "wb") as handle:
        handle.write(b"user_id:token\titem_id:token\ttimestamp:float\n")
        options = pyarrow.csv.WriteOptions(include_header=False, delimiter="\t")
        pyarrow.csv.write_csv(pa.table(numbered, list("uit")), handle, options)
    codes = np.stack(
        [numbers // CODEBOOK_SIZE**level % CODEBOOK_SIZE for level in range(N_LEVELS)], axis=1
    )
    tokens = tuple(str(number) for number in range(n_items))
    ids = SemanticIDTable(tokens, codes, (CODEBOOK_SIZE,) * N_LEVELS, vocabulary="made up")
    write_semantic_ids(folder / f"{name}.semid", ids, {"made_by": "benchmarks/corpus.py"})


if __name__ == "__main__":
    sys.exit(main())
