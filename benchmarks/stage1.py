"""The paper's Figures 6 and 7 for designs of stage 1: python -m benchmarks.stage1 --help.

Each design is trained with dynamic and with fixed depth. The Markdown table has means over seeds:

- gap: squared distance of an item's fused vector from the vector of a modality in stage 1's space,
  all of length 1; mean over items and modalities (Figure 6)
- items by depth: share of the items that use 1, 2, ... blocks (Figure 7)
- depth with vectors, users: rank correlation of an item's depth with its number of vectors and of
  training users; a dash if all depths or numbers are equal
- neighbors: share of an item's 10 nearest fused vectors that are among the 10 nearest in a source

Shapes: N items, M modalities, D hidden size, S largest depth.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recbole_qbert.common.nearest import unit_rows
from recbole_qbert.data.domain import DatasetPaths, find_domain
from recbole_qbert.evaluation.results import without_zero
from recbole_qbert.tokenizer.pipeline import tokenize
from recbole_qbert.tokenizer.settings import tokenize_settings
from recbole_qbert.training.checkpoint import load_checkpoint

PAPER = """\
| the paper on Instruments, dynamic | .635 | most from 1 to 3, median 2 | | | |
| the paper on Instruments, fixed | .660 | | | | |"""
SOFT = {"fusion": "injection", "injection.temperature": "0.5"}
QUERIES = {"id_query": "interactions", "injection.consistency_weight": "1"}
DESIGNS: dict[str, dict[str, str]] = {
    "injection, the paper's": {"fusion": "injection"},
    "injection, temperature .5": SOFT,
    "injection, temperature .5, queries of co-occurrence": SOFT | QUERIES,
    "next_item": {"fusion": "next_item"},
}
GATES = ("dynamic", "fixed")


class Fusion(NamedTuple):
    """Measures of one trained stage 1; see the module docstring."""

    gap: float
    depths: np.ndarray  # float [S], rows sum to 1
    depth_with: dict[str, float]
    neighbors: dict[str, float]


def train(domain: DatasetPaths, modalities: str, seed: int, given: dict[str, str]) -> Fusion:
    """Train stage 1 with the defaults of `tokenize` and these settings, and measure it."""
    base = {"modalities": modalities, "streams": "fused", "until": "fusion", "seed": str(seed)}
    settings = tokenize_settings((), base | given)
    with tempfile.TemporaryDirectory() as folder:
        tokenize([domain], Path(folder), settings)
        stage = load_checkpoint(Path(folder) / "stage1.safetensors")
    report = stage["report"]
    counts = np.array(report["depths"], dtype=np.float64)
    gap = modality_gap(stage["fused"], stage["state"]["contents"])
    return Fusion(gap, counts / counts.sum(), report["depth_with"], report["neighbors"])


def modality_gap(fused: np.ndarray, contents: np.ndarray) -> float:
    """Compute the gap of fused vectors [N, D] and contents [N, M * D]; zeros: no such modality."""
    blocks = contents.reshape(len(contents), -1, fused.shape[1])  # [N, M, D]
    there = blocks.any(axis=2)
    distance = np.square(unit_rows(fused)[:, None] - blocks).sum(axis=2)
    return float(distance[there].mean())


def line(name: str, found: Sequence[Fusion]) -> str:
    """Format the means of one design over its seeds as a row of the table."""
    depths = " / ".join(short(each) for each in np.mean([one.depths for one in found], axis=0))
    cells = [
        name,
        short(np.mean([one.gap for one in found])),
        depths,
        *(over_seeds([one.depth_with for one in found], key) for key in ("parts", "users")),
        ", ".join(
            f"{key} {over_seeds([one.neighbors for one in found], key)}"
            for key in found[0].neighbors
        ),
    ]
    return f"| {' | '.join(cells)} |"


def over_seeds(found: Sequence[dict[str, float]], key: str) -> str:
    """Format the mean of the seeds that have a number; a dash if none has."""
    values = [one[key] for one in found if key in one]
    return short(np.mean(values)) if values else "–"


def short(value: Any) -> str:
    """Format without the leading zero: `.251`, `-.030`, `1.204`."""
    return without_zero(f"{value:.3f}")


def main() -> None:
    """Train all designs and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stage1",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_path", type=Path, default=Path("dataset"))
    parser.add_argument("--modalities", default="text,image", help="with commas between them")
    parser.add_argument("--seeds", default="2026,2027,2028", help="with commas between them")
    given = parser.parse_args()
    domain = find_domain(given.dataset, given.data_path)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    print("| stage 1 | gap | items by depth | depth with vectors | with users | neighbors |")
    print("|---|---:|---|---:|---:|---|")
    print(PAPER, flush=True)
    for name, settings in DESIGNS.items():
        for gate in GATES:
            chosen = {**settings, f"{settings['fusion']}.gate": gate}
            found = [train(domain, given.modalities, seed, chosen) for seed in seeds]
            print(line(f"{name}, {gate}", found), flush=True)


if __name__ == "__main__":
    main()
