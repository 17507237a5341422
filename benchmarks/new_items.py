"""Quality of the IDs of new items, which have no trained ID vector and no co-occurrence.

A tenth of the items is hidden from `tokenize`, with its interactions, and then added by
`ids add-items`. The IDs are compared with those of a `tokenize` run on all items. The first measure
is the share of an item's 10 nearest in each modality that are among the 10 items that share most
codes with it. With `--train`, the second measure is how well a model trained on either file ranks
hidden items as test targets. The model sees the interactions of all items in both cases. Further
`--key=value` are settings of `tokenize`. Each round hides other items and uses another seed,
`--seed` + its number - 1. This comparison measures quality, not time.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Measure, Reading, of_quantities
from recbole_qbert.common.nearest import nearest_items, overlap, unit_rows
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.domain import DatasetPaths, find_domain
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.evaluation.ranking import RANKS_FILE, per_row, read_ranks
from recbole_qbert.tokenizer.catalog import read_catalog
from recbole_qbert.tokenizer.new_items import encode_new_items
from recbole_qbert.tokenizer.pipeline import tokenize
from recbole_qbert.tokenizer.settings import tokenize_settings

HIDDEN_SHARE = 0.1
N_NEIGHBORS = 10
METRICS = ("ndcg@10", "unseen_ndcg@10", "unseen_hit@10")


def _side(way: Callable[..., Path]) -> Callable[[argparse.Namespace], Measure]:
    """Create a side that makes IDs in one way and measures their quality."""

    def side(options: argparse.Namespace) -> Measure:
        def measure(number: int) -> Reading:
            seed = options.seed + number - 1
            source = find_domain(options.dataset, options.data_path)
            given = {"show_progress": "False", "seed": str(seed), **options.settings}
            settings = tokenize_settings((), given)
            items = np.sort(read_columns(source.file("item"), ["item_id"])["item_id"].to_numpy())
            rng = np.random.default_rng(seed)
            hidden = set(rng.choice(items, round(HIDDEN_SHARE * len(items)), replace=False))
            folder = Path(tempfile.mkdtemp(dir=options.folder))
            file = way(source, folder, settings, hidden)
            reading = kept_neighbors(source, file, settings["modalities"], hidden)
            if options.train:
                reading |= ranked(options, seed, folder / "saved", file, hidden)
            return reading

        return measure

    return side


def with_all(
    source: DatasetPaths, folder: Path, settings: dict[str, Any], hidden: set[str]
) -> Path:
    """Make the IDs of all items together; return the `.semid` file."""
    domain = _copy(source, folder)
    tokenize([domain], folder / "tokenizer", settings)
    return domain.file("semid")


def with_hidden(
    source: DatasetPaths, folder: Path, settings: dict[str, Any], hidden: set[str]
) -> Path:
    """Make the IDs of the hidden items after those of the others; return the `.semid` file."""
    domain = _copy(source, folder)
    for suffix in ("item", "inter"):
        kept = []
        for number, line in enumerate(source.file(suffix).read_text("utf-8").splitlines(True)):
            column = line.rstrip("\n").split("\t")
            if number == 0:
                place = [name.partition(":")[0] for name in column].index("item_id")
            if number == 0 or column[place] not in hidden:
                kept.append(line)
        domain.file(suffix).write_text("".join(kept), "utf-8")
    tokenizer = tokenize([domain], folder / "tokenizer", settings)
    assert tokenizer is not None
    for suffix in ("item", "inter"):
        shutil.copyfile(source.file(suffix), domain.file(suffix))
    encode_new_items(tokenizer, [domain])
    return domain.file("semid")


def _copy(source: DatasetPaths, folder: Path) -> DatasetPaths:
    """Copy the data set's files to another folder, without IDs."""
    domain = DatasetPaths(source.name, folder / source.name)
    domain.folder.mkdir(parents=True)
    for file in source.folder.iterdir():
        if file.is_file() and ".semid" not in file.name:
            shutil.copyfile(file, domain.folder / file.name)
    return domain


def kept_neighbors(
    source: DatasetPaths, file: Path, modalities: list[str], hidden: set[str]
) -> dict[str, float]:
    """Compute the share of neighbors in a modality that are neighbors by codes.

    Returns:
        One number for each modality, for hidden and for other items.
    """
    catalog = read_catalog([source], modalities)
    table = read_semantic_ids(file)
    row = {item: number for number, item in enumerate(table.items)}
    codes = table.codes[[row[item] for _, item in catalog.keys]]
    starts = np.cumsum([0, *table.codebook_sizes[:-1]])
    shared = np.zeros((len(codes), sum(table.codebook_sizes)), dtype=np.float32)
    np.put_along_axis(shared, codes + starts, 1, axis=1)
    by_codes, _ = nearest_items(shared, N_NEIGHBORS)
    is_hidden = np.array([item in hidden for _, item in catalog.keys])
    kept = {}
    for name, (vectors, _) in catalog.parts.items():
        pooled = unit_rows(vectors.sum(axis=1))
        near, _ = nearest_items(pooled - pooled.mean(axis=0), N_NEIGHBORS)
        for which, rows in (("hidden", is_hidden), ("others", ~is_hidden)):
            kept[f"10-NN {name}, {which}"] = overlap(near[rows], by_codes[rows])
    return kept


def ranked(
    options: argparse.Namespace, seed: int, folder: Path, file: Path, hidden: set[str]
) -> dict[str, float]:
    """Train QBERT4Rec with these IDs; return test metrics for hidden and for other targets."""
    from recbole.data import data_preparation
    from rich.console import Console

    from recbole_qbert.config.build import build_config
    from recbole_qbert.experiments.run import run_models
    from recbole_qbert.experiments.splits import load_dataset
    from recbole_qbert.registry import model_entry

    given = {
        "data_path": options.data_path,
        "semantic_id_file": str(file),
        "checkpoint_dir": str(folder),
        "seed": seed,
        "show_progress": False,
    }
    console = Console(file=sys.stderr)
    result = run_models(("QBERT4Rec",), options.dataset, [], given, console)[0]
    config = build_config("QBERT4Rec", options.dataset, settings=given)
    dataset = load_dataset(model_entry("QBERT4Rec").dataset, config)
    test = data_preparation(config, dataset)[2].dataset
    users, targets = (test.inter_feat[field].numpy() for field in (test.uid_field, test.iid_field))
    target_of = dict(zip(users, test.id2token(test.iid_field, targets), strict=True))
    ranks, _ = read_ranks(Path(result.folder) / RANKS_FILE)
    was_hidden = np.array([target_of[user] in hidden for user in ranks.users])
    found = {}
    for metric in METRICS:
        values = per_row(metric, ranks)
        for which, rows in (("hidden", was_hidden), ("others", ~was_hidden)):
            found[f"test {metric}, {which}"] = float(values[rows].mean())
    return found


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--seed", type=int, default=2026, help="of the first round")
    parser.add_argument("--train", action="store_true")


BENCHMARKS = {
    "new_items": Benchmark(
        sides={"tokenize": _side(with_all), "ids add-items": _side(with_hidden)},
        pairs=[("ids add-items", "tokenize")],
        ratios=of_quantities(),
        add_options=_add_options,
        fresh=True,
        warm_up=0,
        settings=True,
    )
}
