"""The demo: the whole pipeline on ml-100k, which needs no download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import recbole
from rich.console import Console
from rich.table import Table

from recbole_qbert.common.files import atomic_write
from recbole_qbert.config.build import shipped
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.encoders.image import embed_image_files
from recbole_qbert.encoders.text import embed_text
from recbole_qbert.evaluation.results import RunResult
from recbole_qbert.experiments.run import run_models
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.tokenizer.pipeline import tokenize
from recbole_qbert.tokenizer.report import report_lines
from recbole_qbert.tokenizer.settings import tokenize_settings

DATASET = "ml-100k"
MODELS = ("QBERT4Rec", "SASRec")
TEXT_FIELDS = ("movie_title", "release_year", "class")
N_EXAMPLES = 5


def run_demo(folder: Path, console: Console, posters: Path | None = None) -> list[RunResult]:
    """Make embeddings and semantic IDs, train QBERT4Rec and SASRec, and show recommendations.

    Args:
        folder: folder in which `dataset/` and `saved/` are created.
        console: console to print on.
        posters: folder of `<item_id>.jpg`; None: the IDs use only texts and interactions.

    Returns:
        Results of the models, in the order of `MODELS`.
    """
    domain = copy_sample(folder / "dataset")
    make_ids(domain, console, posters)
    settings = {
        "data_path": str(folder / "dataset"),
        "checkpoint_dir": str(folder / "saved"),
        "show_progress": console.is_terminal,
    }
    results = run_models(MODELS, DATASET, [shipped("demo.yaml")], settings, console)
    movies = read_columns(domain.file("item"), ["item_id", "movie_title"])
    titles = dict(zip(movies["item_id"], movies["movie_title"], strict=True))
    console.print(example_users(results[0].bundle, domain.file("inter"), titles))
    return results


def copy_sample(data_path: Path) -> DatasetPaths:
    """Copy ml-100k's atomic files, which RecBole ships, to `data_path`."""
    source = Path(recbole.__file__).parent / "dataset_example" / DATASET
    domain = DatasetPaths(DATASET, data_path / DATASET)
    for suffix in ("inter", "item"):
        with atomic_write(domain.file(suffix), "wb") as handle:
            handle.write((source / domain.file(suffix).name).read_bytes())
    return domain


def make_ids(domain: DatasetPaths, console: Console, posters: Path | None) -> None:
    """Make the data set's embeddings and semantic IDs with all stages of the tokenizer."""
    console.print(f"Text vectors of the {DATASET} movies from {', '.join(TEXT_FIELDS)}")
    embed_text(domain.file("item"), list(TEXT_FIELDS), domain.file("text.npz"), merge=True)
    if posters is not None:
        console.print(f"Image vectors of the posters in {posters}")
        embed_image_files(domain.file("item"), domain.file("image.npz"), folder=posters)
    else:
        domain.file("image.npz").unlink(missing_ok=True)  # from an earlier demo with posters
    console.print("Semantic IDs")
    settings = tokenize_settings(
        [shipped("demo_tokenize.yaml")], {"show_progress": console.is_terminal}
    )
    tokenizer = tokenize([domain], domain.folder / "tokenizer", settings)
    assert tokenizer is not None  # the demo's settings run all stages
    for line in report_lines(tokenizer):
        console.print(f"  {line}", highlight=False)


def example_users(bundle: str, inter_file: Path, titles: dict[str, str]) -> Table:
    """Table of the last movies of `N_EXAMPLES` users and the model's recommendations, as titles."""
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
