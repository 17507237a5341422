"""Pretraining on a synthetic corpus of the size of the paper's six source domains.

The numbers of users, items and interactions of each domain are those of the paper's Table 1:
785,066 users, 255,218 items and 7.1 million interactions in total. `--share=0.01` keeps a hundredth
of the users. Sequence lengths are 5 or more, with a geometric distribution; items follow Zipf's
law; IDs are 4 random codes of 256 in one vocabulary. A round is a new process that runs `pretrain`
for `--steps`, with any further `--key=value`. The sides are: `first`, from the atomic files;
`again`, with the sequences already on disk; `sampled`, as `again`, with a softmax over 4,096
sampled items (`softmax_samples`).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from benchmarks.harness import Benchmark, Measure, Reading, of_quantities, peak_bytes, timed
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.datasets.amazon import amazon_categories

SOURCES = ("Pet", "Cell", "Automotive", "Tools", "Toys", "Sports")
DOMAINS = {name: amazon_categories()[name].counts["paper"] for name in SOURCES}
FEWEST, N_LEVELS, CODEBOOK_SIZE = 5, 4, 256


def _write_corpus(options: argparse.Namespace) -> None:
    """Write the atomic files of all domains."""
    rng = np.random.default_rng(2026)
    # The high bits are distinct, so that no two items of any domain share a tuple.
    numbers = rng.permutation(1 << 20) << 12 | rng.integers(1 << 12, size=1 << 20)
    for name, (users, items, interactions) in DOMAINS.items():
        own, numbers = numbers[:items], numbers[items:]
        sizes = (round(users * options.share), round(interactions * options.share))
        write_domain(options.folder, name, sizes, own, rng)


def _pretrain(first: bool = False, **settings: Any) -> Callable[[argparse.Namespace], Measure]:
    """Create a side that runs `pretrain`, including its imports."""

    def side(options: argparse.Namespace) -> Measure:
        given = {
            "data_path": str(options.folder),
            "checkpoint_dir": tempfile.mkdtemp(dir=options.folder),
            "epochs": 1,
            "steps_per_epoch": options.steps,
            "show_progress": False,
        }

        def work() -> None:
            import torch

            from recbole_qbert.pretraining.fit import pretrain

            torch.set_num_threads(options.threads)
            pretrain(list(DOMAINS), settings=given | settings | options.settings)

        def measure(number: int) -> Reading:
            if first:
                for name in DOMAINS:
                    shutil.rmtree(options.folder / name / f"{name}.sequences", ignore_errors=True)
            seconds, cpu_seconds = timed(work)
            peak = peak_bytes() / 2**30
            return {"seconds": seconds, "CPU seconds": cpu_seconds, "peak GiB": peak}

        return measure

    return side


def write_domain(
    root: Path, name: str, sizes: tuple[int, int], numbers: np.ndarray, rng: np.random.Generator
) -> None:
    """Write a domain's `.inter` and `.semid` files.

    Args:
        root: folder of the data sets.
        name: name of the domain.
        sizes: numbers of users and interactions.
        numbers: int [n_items], one number per item, whose base-256 digits are its codes.
        rng: random generator.
    """
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


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.02, help="of the users of each domain")


BENCHMARKS = {
    "corpus": Benchmark(
        sides={
            "first": _pretrain(first=True),
            "again": _pretrain(),
            "sampled": _pretrain(softmax_samples=4096),
        },
        pairs=[("again", "first"), ("sampled", "again")],
        ratios=of_quantities("seconds", "CPU seconds", "peak GiB"),
        add_options=_add_options,
        inputs=_write_corpus,
        fresh=True,
        settings=True,
    )
}
