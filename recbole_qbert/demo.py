"""The main job on data that needs no download: ml-100k, from titles to recommendations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import recbole
from rich.console import Console
from rich.table import Table

from recbole_qbert.bundle import Recommender
from recbole_qbert.config import shipped
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.evaluation.results import RunResult
from recbole_qbert.quick_start import run_models
from recbole_qbert.tokenizer.build import build_from_text

DATASET = "ml-100k"
MODELS = ("QBERT4Rec", "SASRec")
TEXT_FIELDS = ("movie_title", "release_year", "class")
N_EXAMPLES = 5


def run_demo(folder: Path, console: Console) -> list[RunResult]:
    """Semantic IDs from titles, years and genres; QBERT4Rec beside SASRec; example users."""
    source = Path(recbole.__file__).parent / "dataset_example" / DATASET
    item_file = source / f"{DATASET}.item"
    semid_file = folder / "dataset" / DATASET / f"{DATASET}.semid"
    console.print(f"Semantic IDs of the {DATASET} movies from {', '.join(TEXT_FIELDS)}")
    table = build_from_text(item_file, list(TEXT_FIELDS), semid_file)
    console.print(f"  {table.n_items:,} movies, {table.n_levels} levels, written to {semid_file}")
    settings = {
        "semantic_id_file": str(semid_file),
        "checkpoint_dir": str(folder / "saved"),
        "show_progress": console.is_terminal,
    }
    results = run_models(MODELS, DATASET, [shipped("demo.yaml")], settings, console)
    movies = read_columns(item_file, ["item_id", "movie_title"])
    titles = dict(zip(movies["item_id"], movies["movie_title"], strict=True))
    console.print(example_users(results[0].bundle, source / f"{DATASET}.inter", titles))
    return results


def example_users(bundle: str, inter_file: Path, titles: dict[str, str]) -> Table:
    """The last movies of five users and what the model recommends to them, by title."""
    inter = read_columns(inter_file, ["user_id", "item_id", "timestamp"])
    inter["timestamp"] = inter["timestamp"].astype(float)
    inter = inter.sort_values(["user_id", "timestamp"], kind="stable")
    users = sorted(inter["user_id"].unique(), key=int)[:N_EXAMPLES]
    histories = [inter.loc[inter["user_id"] == user, "item_id"].tolist() for user in users]
    recommended = Recommender.load(bundle).recommend(histories, k=3)
    table = Table(title="Five users: what QBERT4Rec would show them next", show_lines=True)
    for column in ("user", "watched last", "recommended"):
        table.add_column(column)
    for user, history, items in zip(users, histories, recommended, strict=False):
        table.add_row(user, _lines(history[-3:], titles), _lines([i for i, _ in items], titles))
    return table


def _lines(items: Sequence[str], titles: dict[str, str]) -> str:
    return "\n".join(titles.get(item, item) for item in items)
