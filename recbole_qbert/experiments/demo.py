"""The demo: the whole pipeline on ml-100k, which needs no download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import recbole
from rich.console import Console
from rich.table import Table

from recbole_qbert.common.errors import InputError
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
    console.print(example_users(results[0].bundle, domain))
    return results


def copy_sample(data_path: Path) -> DatasetPaths:
    """Copy ml-100k's atomic files, which RecBole ships, to `data_path`.

    Raises:
        InputError: the folder has other files of these names.
    """
    source = Path(recbole.__file__).parent / "dataset_example" / DATASET
    domain = DatasetPaths(DATASET, data_path / DATASET)
    contents = {
        path: (source / path.name).read_bytes() for path in map(domain.file, ("inter", "item"))
    }
    for path, content in contents.items():
        if path.is_file() and path.read_bytes() != content:
            raise InputError(f"{path}: is another data set; give another data_path, or move it")
    for path, content in contents.items():
        with atomic_write(path, "wb") as handle:
            handle.write(content)
    return domain


def make_ids(domain: DatasetPaths, console: Console, posters: Path | None) -> None:
    """Make the data set's embeddings and semantic IDs with all stages of the tokenizer."""
    console.print(f"Text vectors of {DATASET}, from {', '.join(TEXT_FIELDS)}")
    embed_text(domain.file("item"), list(TEXT_FIELDS), domain.file("text.npz"), merge=True)
    modalities = ["text"]
    if posters is not None:
        console.print(f"Image vectors of {DATASET}, from {posters}")
        embed_image_files(domain.file("item"), domain.file("image.npz"), folder=posters)
        modalities.append("image")
    console.print("Semantic IDs")
    given = {"show_progress": console.is_terminal, "modalities": modalities}
    settings = tokenize_settings([shipped("demo_tokenize.yaml")], given)
    tokenizer = tokenize([domain], domain.folder / "tokenizer", settings)
    assert tokenizer is not None  # the demo's settings run all stages
    for line in report_lines(tokenizer):
        console.print(f"  {line}", highlight=False)


def example_users(bundle: str, domain: DatasetPaths) -> Table:
    """Table of the last movies of `N_EXAMPLES` users and the model's recommendations, as titles."""
    movies = read_columns(domain.file("item"), ["item_id", "movie_title"])
    titles = dict(zip(movies["item_id"], movies["movie_title"], strict=True))
    inter = read_columns(domain.file("inter"), ["user_id", "item_id", "timestamp"])
    inter = inter.astype({"timestamp": float, "user_id": int})
    inter = inter.sort_values(["user_id", "timestamp"], kind="stable")
    histories = inter.groupby("user_id")["item_id"].agg(list).head(N_EXAMPLES)
    recommended = Recommender.load(bundle).recommend(histories.tolist(), k=3)
    table = Table(title="Recommendations of QBERT4Rec for five users", show_lines=True)
    for column in ("user", "last movies", "recommended"):
        table.add_column(column, overflow="fold")

    def lines(items: Sequence[str]) -> str:
        return "\n".join(titles.get(item, item) for item in items)

    for (user, history), items in zip(histories.items(), recommended, strict=True):
        table.add_row(str(user), lines(history[-3:]), lines([item for item, _ in items]))
    return table
