"""Every model on one data set: training, ranking, latency and memory, beside QBERT4Rec.

Each model has the settings and batches that ship for the data set, which needs text and image
vectors, `<data set>.text.npz` and `.image.npz`. Semantic IDs are random, of 256 codes a level: 4
levels for TIGER, 8 for MQL4GRec, 32 for VQRec, 12 for the others. `ms for one user` is the time
from a history to its ten best items. `peak MB` is the largest resident size of the process,
imports, data, training and ranking included. MISSRec's interests are made before the measured
steps.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.harness import Benchmark, Measure, of_quantities, peak_bytes, timed
from benchmarks.sides import (
    as_tuned,
    data_options,
    data_path,
    made_up_ids,
    ranking_rate,
    training_rate,
)
from benchmarks.sides import write_made_up_ids as write_ids

N_LEVELS = {"TIGER": 4, "MQL4GRec": 8, "VQRec": 32}
USUAL_LEVELS = 12
READ_IDS = ("QBERT4Rec", "BBQRec", "FDSA", "S3Rec", *N_LEVELS)
MODALITIES = {
    "MISSRec": ("text", "image"),
    "SASRecContent": ("text", "image"),
    "VIP5": ("image",),
}
OTHERS = ("IDBERT4Rec", "SASRec", "ESASRec", "GSASRec", "GRU4Rec", "BERT4Rec", "P5CID")
MODELS = (*READ_IDS, *MODALITIES, *OTHERS)
N_SINGLE = 20  # users ranked one by one in a round


def _options(parser: argparse.ArgumentParser) -> None:
    data_options(parser)
    parser.add_argument("--steps", type=int, default=4, help="training steps a round")


def _settings(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that name what the model reads."""
    settings: dict[str, Any] = {}
    if model in READ_IDS:
        settings["semantic_id_file"] = str(made_up_ids(options, N_LEVELS.get(model, USUAL_LEVELS)))
    if model in MODALITIES:
        folder = Path(data_path(options)) / options.dataset
        names = MODALITIES[model]
        settings["item_vectors"] = {
            name: str(folder / f"{options.dataset}.{name}.npz") for name in names
        }
    if model == "FDSA":
        settings["selected_features"] = ["semantic_id"]
    if model == "S3Rec":
        settings["item_attribute"] = "semantic_id"
    return settings


def _side(name: str) -> Any:
    """Create the side of a model."""

    def side(options: argparse.Namespace) -> Measure:
        import torch

        torch.set_num_threads(options.threads)
        model, train, valid = as_tuned(name, options, **_settings(name, options))

        from recbole_qbert.speedups.trimmed_forward import trimmed_loss, trimmed_scores

        if hasattr(model, "begin_epoch"):
            model.begin_epoch(0)
        training = training_rate(model, trimmed_loss(model, train.config), train, options.steps)
        score = trimmed_scores(model, train.config)
        ranking = ranking_rate(model, score, valid)
        batch = next(iter(valid))[0]

        def one_by_one() -> None:
            with torch.no_grad():
                for row in range(N_SINGLE):
                    score(batch[row : row + 1]).view(1, -1).topk(10)

        def measure(number: int) -> dict[str, float]:
            found = {**training(number), **ranking(number)}
            found["ms for one user"] = 1000 * timed(one_by_one)[0] / N_SINGLE
            found["peak MB"] = peak_bytes() / 2**20
            return found

        return measure

    return side


def _inputs(options: argparse.Namespace) -> None:
    for n_levels in (USUAL_LEVELS, *N_LEVELS.values()):
        write_ids(options, n_levels)


BENCHMARKS = {
    "models": Benchmark(
        sides={name: _side(name) for name in MODELS},
        pairs=[("QBERT4Rec", name) for name in MODELS[1:]],
        ratios=of_quantities(
            "rows trained a second", "users ranked a second", "ms for one user", "peak MB"
        ),
        add_options=_options,
        inputs=_inputs,
    )
}
