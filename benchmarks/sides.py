"""What is measured on each side. A side runs alone in its process."""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

from benchmarks import quantise

Result = dict[str, float]
BATCH_SIZE = 256


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The same for both models."""
    return {
        "data_path": options.data_path,
        "hidden_size": options.hidden_size,
        "inner_size": 2 * options.hidden_size,
        "n_layers": options.n_layers,
        "n_heads": 4,
        "MAX_ITEM_LIST_LENGTH": options.length,
        "train_batch_size": BATCH_SIZE,
        "eval_batch_size": 1024,
        "show_progress": False,
        "checkpoint_dir": "saved/benchmarks",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    }


def _plain_recbole(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """RecBole's BERT4Rec as `run_recbole` makes it: model, train data, valid data."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_seed

    sequential = {
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "repeatable": True,
    }
    import sys

    arguments, sys.argv = sys.argv, sys.argv[:1]  # RecBole reads every --key=value it finds there
    config = Config("BERT4Rec", options.dataset, config_dict=_settings(options) | sequential)
    sys.argv = arguments
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = data_preparation(config, create_dataset(config))
    return get_model("BERT4Rec")(config, train._dataset), train, valid


def _with_package(model: str, options: argparse.Namespace, **extra: Any) -> tuple[Any, Any, Any]:
    """A model under this package: config, train data, valid data, all as `run` makes them."""
    if options.semantic_id_file:
        extra["semantic_id_file"] = options.semantic_id_file
    elif model == "QBERT4Rec":
        extra |= {"item_representation": "id"}
    return _built(model, options.dataset, _settings(options) | extra)


def _built(model: str, dataset: str, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Model, train data, valid data."""
    import recbole_qbert  # noqa: F401  applies the workarounds
    from recbole_qbert.config import build_config
    from recbole_qbert.data.splits import load_splits
    from recbole_qbert.process import flush_denormals
    from recbole_qbert.registry import model_entry

    flush_denormals()
    config = build_config(model, dataset, settings=settings)
    splits = load_splits(config)
    return model_entry(model).model(config, splits.train._dataset), splits.train, splits.valid


def _training_speed(model: Any, loss: Callable[[Any], Any], train: Any, steps: int) -> Result:
    """Median step after a warm-up, where the model is."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    device = next(model.parameters()).device
    model.train()
    seconds = []
    for batch in itertools.islice(itertools.cycle(train), steps + 2):
        start = perf_counter()
        optimizer.zero_grad()
        value = loss(batch.to(device))
        value.backward()
        optimizer.step()
        value.item()  # waits for a GPU, as training does
        seconds.append(perf_counter() - start)
    step = statistics.median(seconds[2:])
    return {"rows trained a second": train.step / step, "seconds an epoch": step * len(train)}


def _speed(model: Any, train: Any, valid: Any, steps: int) -> Result:
    """Training, and three ranking batches."""
    import torch

    trained = _training_speed(model, model.calculate_loss, train, steps)
    model.eval()
    ranked = []
    with torch.no_grad():
        for interaction, *_ in itertools.islice(itertools.cycle(valid), 4):
            start = perf_counter()
            scores = model.full_sort_predict(interaction).view(len(interaction), -1)
            scores.topk(10)
            ranked.append(len(interaction) / (perf_counter() - start))
    return trained | {"users ranked a second": statistics.median(ranked[1:])}


def _measure_speed(build: Callable[[argparse.Namespace], tuple[Any, Any, Any]]) -> Any:
    def measure(options: argparse.Namespace) -> Result:
        import torch

        torch.set_num_threads(options.threads)
        return _speed(*build(options), options.steps)

    return measure


# Of S3Rec: sequences, not prefixes, and few of them a step.
FIRST_STAGE = {"augmentation": "none", "train_batch_size": 128}


def _measure_peer(**settings: Any) -> Any:
    """A model of RecBole's as tuned for the data set, S3Rec in its first stage.

    On a GPU where there is one.
    """

    def measure(options: argparse.Namespace) -> Result:
        import torch

        torch.set_num_threads(options.threads)
        stage = FIRST_STAGE if options.peer == "S3Rec" else {}
        model, train, _ = _as_tuned(options.peer, options, **settings, **stage)

        from recbole_qbert.lean_forward import lean_loss

        model = model.to(train.config["device"])
        return _training_speed(model, lean_loss(model, train.config), train, options.steps)

    return measure


def _measure_best(model: str, build: Callable[..., Any], metric: str) -> Any:
    """Train until early stopping or the budget; seconds to the best of a valid metric."""

    def measure(options: argparse.Namespace) -> Result:
        import torch

        from recbole_qbert.registry import model_entry

        torch.set_num_threads(options.threads)
        network, train, valid = build(model, options)
        trainer = model_entry(model).trainer(train.config, network)

        def watch(epoch: int, score: float) -> None:
            if trainer.curve[-1]["seconds"] > options.budget:
                raise TimeoutError

        stopped_by_itself = 1.0
        try:
            trainer.fit(train, valid, verbose=False, saved=False, callback_fn=watch)
        except TimeoutError:
            stopped_by_itself = 0.0
        best = max(trainer.curve, key=lambda row: row[metric])
        return {
            "best valid": best[metric],
            "seconds to it": best["seconds"],
            "epochs to it": best["epoch"] + 1,
            "epochs trained": len(trainer.curve),
            "seconds trained": trainer.curve[-1]["seconds"],
            "stopped by itself": stopped_by_itself,
            "curve": [[row["seconds"], row[metric]] for row in trainer.curve],  # type: ignore
        }

    return measure


def _same_size(model: str, options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Width, depth and length of the options for every model."""
    return _with_package(model, options, use_tuned=False, stopping_step=3)


def _as_tuned(model: str, options: argparse.Namespace, **extra: Any) -> tuple[Any, Any, Any]:
    """The shipped settings for the data set, evaluated after each epoch; for QBERT4Rec also the
    `--key=value` of the command line."""
    settings = {"data_path": options.data_path, "show_progress": False, "eval_step": 1}
    settings |= {"checkpoint_dir": "saved/benchmarks", "valid_metric": "unseen_NDCG@10"}
    if model == "QBERT4Rec":
        settings |= {"semantic_id_file": options.semantic_id_file, **options.settings}
    else:
        settings["stopping_step"] = 4
    return _built(model, options.dataset, settings | extra)


def _as_recbole_trains(model: str, options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """`_as_tuned`, on padded sequences."""
    return _as_tuned(model, options, trim_padding=False)


def _measure_dropout(ours: bool) -> Any:
    """Forward and backward of one dropout layer over 256 sequences of 50 positions."""

    def measure(options: argparse.Namespace) -> Result:
        import torch

        from recbole_qbert.model.dropout import Dropout

        torch.set_num_threads(options.threads)
        layer = Dropout(0.25) if ours else torch.nn.Dropout(0.25)
        values = torch.rand(BATCH_SIZE, 50, options.hidden_size, requires_grad=True)
        seconds = []
        for _ in range(options.steps + 2):
            start = perf_counter()
            layer(values).sum().backward()
            seconds.append(perf_counter() - start)
        return {"ms": 1000 * statistics.median(seconds[2:])}

    return measure


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _memory_recbole(options: argparse.Namespace) -> Result:
    import ray.tune  # noqa: F401  what run_recbole imports
    import recbole.quick_start  # noqa: F401

    before = _peak_mb()
    _, train, _ = _plain_recbole(options)
    return {"MB before": before, "MB after": _peak_mb(), "growth MB": _peak_mb() - before}


def _memory_ours(options: argparse.Namespace) -> Result:
    import ray.tune  # noqa: F401  so that both sides start from the same imports
    import recbole.quick_start  # noqa: F401

    import recbole_qbert  # noqa: F401

    before = _peak_mb()
    _with_package("QBERT4Rec", options)
    return {"MB before": before, "MB after": _peak_mb(), "growth MB": _peak_mb() - before}


MEASURES: dict[str, dict[str, Callable[[argparse.Namespace], Result]]] = {
    "speed": {
        "recbole": _measure_speed(_plain_recbole),
        "mended": _measure_speed(lambda options: _with_package("BERT4Rec", options)),
        "QBERT4Rec": _measure_speed(lambda options: _with_package("QBERT4Rec", options)),
    },
    "peer": {
        "recbole": _measure_peer(trim_padding=False),
        "lean": _measure_peer(),
        "by user": _measure_peer(batch_by="user"),
    },
    "best": {
        "mended": _measure_best("BERT4Rec", _same_size, "ndcg@10"),
        "QBERT4Rec": _measure_best("QBERT4Rec", _same_size, "ndcg@10"),
    },
    "race": {
        "SASRec, padded": _measure_best("SASRec", _as_recbole_trains, "unseen_ndcg@10"),
        "SASRec": _measure_best("SASRec", _as_tuned, "unseen_ndcg@10"),
        "QBERT4Rec": _measure_best("QBERT4Rec", _as_tuned, "unseen_ndcg@10"),
    },
    "dropout": {"torch": _measure_dropout(False), "QBERT4Rec": _measure_dropout(True)},
    "memory": {"recbole": _memory_recbole, "QBERT4Rec": _memory_ours},
    "quantise": {"faiss": quantise.measure_faiss, "QBERT4Rec": quantise.measure_rqvae},
}


def compare(what: str, results: dict[str, Any]) -> list[str]:
    """The last side, which is ours, over its peers, as ratios."""
    *peers, own = results
    ours = results[own]
    lines = []
    for side in peers:
        peer = results[side]
        if what == "speed":
            for key in ("rows trained a second", "users ranked a second"):
                lines.append(f"QBERT4Rec / {side}, {key}: {ours[key] / peer[key]:.2f}x")
        elif what == "peer":
            ratio = ours["rows trained a second"] / peer["rows trained a second"]
            lines.append(f"{own} trains {ratio:.2f}x as fast as {side}")
        elif what == "dropout":
            lines.append(f"QBERT4Rec's dropout / {side}'s: {ours['ms'] / peer['ms']:.2f}")
        elif what == "quantise":
            ratio = ours["seconds in all"] / peer["seconds in all"]
            lines.append(f"QBERT4Rec / {side}, seconds in all: {ratio:.2f}")
        elif what == "memory":
            lines.append(f"QBERT4Rec / {side}, growth: {ours['growth MB'] / peer['growth MB']:.3f}")
        else:
            reached = [s for s, value in ours["curve"] if value >= peer["best valid"]]
            if reached:
                lines.append(
                    f"QBERT4Rec reaches {side}'s best in {reached[0]:.0f} s, "
                    f"1/{peer['seconds to it'] / reached[0]:.1f} of {side}'s time"
                )
            lines.append(
                f"each to its own best: 1/{peer['seconds to it'] / ours['seconds to it']:.1f}"
            )
    return lines
