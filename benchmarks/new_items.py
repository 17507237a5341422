"""What it costs that a new item has no trained ID vector and no co-occurrence.

    python -m benchmarks.new_items --dataset=Scientific --data_path=dataset --streams=fused
    python -m benchmarks.new_items ... --train --seed=2026

A tenth of the items, drawn by the seed, is hidden from `tokenize` with its interactions and then
added by `encode-items`. Their IDs are compared with those that `tokenize` gives to all items: how
many of an item's 10 nearest in each modality are among the 10 that share most codes with it; and,
with `--train`, how well a model trained on either file ranks the hidden items where they are the
test target. The model sees the interactions of all items in both cases.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from recbole_qbert.commands.settings import parse_settings
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.domain import Domain, find_domain
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.evaluation.ranking import RANKS_FILE, per_row, read_ranks
from recbole_qbert.neighbours import nearest_items, overlap, unit_rows
from recbole_qbert.tokenizer.inputs import read_catalogue
from recbole_qbert.tokenizer.new_items import encode_new_items
from recbole_qbert.tokenizer.pipeline import tokenize
from recbole_qbert.tokenizer.settings import tokenize_settings

HIDDEN_SHARE = 0.1
N_NEIGHBOURS = 10
METRICS = ("ndcg@10", "unseen_ndcg@10", "unseen_hit@10")


def main() -> int:
    """Both ID files, what they are worth, and a table of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.new_items", description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--seed", type=int, default=2026, help="of the draw and of training")
    parser.add_argument("--train", action="store_true")
    options, others = parser.parse_known_args()
    source = find_domain(options.dataset, options.data_path)
    settings = tokenize_settings((), {"show_progress": "False", **parse_settings(others)})
    items = read_columns(source.file("item"), ["item_id"])["item_id"].to_numpy()
    rng = np.random.default_rng(options.seed)
    hidden = set(rng.choice(np.sort(items), round(HIDDEN_SHARE * len(items)), replace=False))
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "tokenize": with_all(source, Path(folder) / "all", settings),
            "encode-items": with_hidden(source, Path(folder) / "hidden", settings, hidden),
        }
        for name, file in files.items():
            for line in kept_neighbours(source, file, settings["modalities"], hidden):
                print(f"{name}: {line}")
            if options.train:
                for line in ranked(options, Path(folder) / f"saved-{name}", file, hidden):
                    print(f"{name}: {line}")
    return 0


def with_all(source: Domain, folder: Path, settings: dict[str, object]) -> Path:
    """The IDs that all items get together."""
    domain = _copy(source, folder)
    tokenize([domain], folder / "tokenizer", settings)
    return domain.file("semid")


def with_hidden(
    source: Domain, folder: Path, settings: dict[str, object], hidden: set[str]
) -> Path:
    """The IDs where the hidden items came later."""
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


def _copy(source: Domain, folder: Path) -> Domain:
    """The data set's files under another folder, without IDs."""
    domain = Domain(source.name, folder / source.name)
    domain.folder.mkdir(parents=True)
    for file in source.folder.iterdir():
        if file.is_file() and ".semid" not in file.name:
            shutil.copyfile(file, domain.folder / file.name)
    return domain


def kept_neighbours(
    source: Domain, file: Path, modalities: list[str], hidden: set[str]
) -> list[str]:
    """Neighbours by modality that are neighbours by codes, for hidden and for other items."""
    catalogue = read_catalogue([source], modalities)
    table = read_semantic_ids(file)
    row = {item: number for number, item in enumerate(table.items)}
    codes = table.codes[[row[item] for _, item in catalogue.keys]]
    starts = np.cumsum([0, *table.codebook_sizes[:-1]])
    shared = np.zeros((len(codes), sum(table.codebook_sizes)), dtype=np.float32)
    np.put_along_axis(shared, codes + starts, 1, axis=1)
    by_codes = _others(shared)
    is_hidden = np.array([item in hidden for _, item in catalogue.keys])
    lines = []
    for name, (vectors, _) in catalogue.parts.items():
        pooled = unit_rows(vectors.sum(axis=1))
        near = _others(pooled - pooled.mean(axis=0))
        of_hidden = overlap(near[is_hidden], by_codes[is_hidden])
        of_others = overlap(near[~is_hidden], by_codes[~is_hidden])
        lines.append(f"{name}: 10 nearest kept, hidden {of_hidden:.4f}, others {of_others:.4f}")
    return lines


def _others(vectors: np.ndarray) -> np.ndarray:
    """Each row's nearest, itself left out."""
    found, _ = nearest_items(vectors, N_NEIGHBOURS + 1)
    other = found != np.arange(len(found))[:, None]
    other[other.all(axis=1), -1] = False
    return found[other].reshape(len(found), N_NEIGHBOURS)


def ranked(options: argparse.Namespace, folder: Path, file: Path, hidden: set[str]) -> list[str]:
    """Test metrics of QBERT4Rec with these IDs, by whether the target was hidden."""
    from recbole.data import data_preparation
    from rich.console import Console

    from recbole_qbert.config import build_config
    from recbole_qbert.data.splits import load_dataset
    from recbole_qbert.quick_start import run_models
    from recbole_qbert.registry import model_entry

    given = {
        "data_path": options.data_path,
        "semantic_id_file": str(file),
        "checkpoint_dir": str(folder),
        "seed": options.seed,
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
    lines = []
    for metric in METRICS:
        values = per_row(metric, ranks)
        lines.append(
            f"test {metric}: {was_hidden.sum()} rows with a hidden target "
            f"{values[was_hidden].mean():.4f}, {(~was_hidden).sum():,} others "
            f"{values[~was_hidden].mean():.4f}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
