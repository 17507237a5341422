"""QBERT4Rec and RecBole's models: training, ranking, time to the best epoch, memory, dropout.

speed   BERT4Rec and QBERT4Rec of the same width, depth and length. `recbole` is the released
        RecBole 1.2.1 (`recbole_qbert` is never imported). `fixed` is the same model under this
        package, whose workarounds switch autograd's anomaly detection off.
peer    A model of RecBole, as tuned for the data set (S3Rec in its first stage): computed as in
        RecBole (`recbole`), with the speedups of recbole_qbert/speedups (`lean`), and also with a
        user's rows in one batch (`by user`, `batch_by: user`); on a GPU if there is one.
best    BERT4Rec and QBERT4Rec of the same size, trained to their best epoch or for `--budget`.
race    SASRec and QBERT4Rec, as tuned for the data set, to SASRec's best validation NDCG@10 on
        unseen items; SASRec with padding as in RecBole, and without it (`trim_padding`). QBERT4Rec
        also reads further `--key=value`.
memory  Growth of the process's memory by the data set and the model, after the same imports.
dropout One layer, forward and backward.

A round of `best` or `race` is a complete training of each side. The semantic IDs of `speed`, `peer`
and `memory` are random (12 levels of 256 codes), which does not change the cost; `best` and `race`
read real ones. The default data set is ml-100k, which is part of RecBole.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Benchmark, Measure, Reading, of_quantities, peak_bytes, timed

BATCH_SIZE = 256
N_LEVELS, CODEBOOK_SIZE = 12, 256


def data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", help="default: dataset; of ml-100k RecBole's own sample")


def _size_options(parser: argparse.ArgumentParser) -> None:
    data_options(parser)
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--n_layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=50)


def _speed_options(parser: argparse.ArgumentParser) -> None:
    _size_options(parser)
    parser.add_argument("--steps", type=int, default=4, help="training steps a round")


def _peer_options(parser: argparse.ArgumentParser) -> None:
    data_options(parser)
    parser.add_argument("--peer", default="SASRec", help="a model of RecBole's")
    parser.add_argument("--steps", type=int, default=4, help="training steps a round")


def _best_options(parser: argparse.ArgumentParser) -> None:
    _size_options(parser)
    parser.add_argument("--semantic_id_file")
    parser.add_argument("--budget", type=float, default=1800, help="seconds a side may train")


def _race_options(parser: argparse.ArgumentParser) -> None:
    data_options(parser)
    parser.add_argument("--semantic_id_file")
    parser.add_argument("--budget", type=float, default=1800, help="seconds a side may train")


def _dropout_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="forward and backward, a round")


def data_path(options: argparse.Namespace) -> str:
    """Return the folder of data sets; for ml-100k, the default is RecBole's own folder."""
    if options.data_path:
        return str(options.data_path)
    if options.dataset != "ml-100k":
        return "dataset"
    spec = importlib.util.find_spec("recbole")
    assert spec is not None and spec.origin is not None  # it is installed
    return str(Path(spec.origin).parent / "dataset_example")


def made_up_ids(options: argparse.Namespace, n_levels: int = N_LEVELS) -> Path:
    """Return the path of the file that `write_made_up_ids` writes."""
    return Path(options.folder) / f"made-up-{n_levels}.semid"


def write_made_up_ids(options: argparse.Namespace, n_levels: int = N_LEVELS) -> None:
    """Write random semantic IDs for all items of the data set."""
    import numpy as np

    from recbole_qbert.data.atomic import read_columns
    from recbole_qbert.data.domain import find_domain
    from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids

    domain = find_domain(options.dataset, data_path(options))
    files = [file for file in map(domain.file, ("inter", "item")) if file.exists()]
    items = sorted({item for file in files for item in read_columns(file, ["item_id"])["item_id"]})
    sizes = (CODEBOOK_SIZE,) * n_levels
    codes = np.random.default_rng(2026).integers(CODEBOOK_SIZE, size=(len(items), n_levels))
    table = SemanticIDTable(tuple(items), codes, sizes, vocabulary="made up")
    write_semantic_ids(made_up_ids(options, n_levels), table, {"made_by": "benchmarks/sides.py"})


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that both models share."""
    return {
        "data_path": data_path(options),
        "hidden_size": options.hidden_size,
        "inner_size": 2 * options.hidden_size,
        "n_layers": options.n_layers,
        "n_heads": 4,
        "MAX_ITEM_LIST_LENGTH": options.length,
        "train_batch_size": BATCH_SIZE,
        "eval_batch_size": 1024,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        **_quiet(options),
    }


def _quiet(options: argparse.Namespace) -> dict[str, Any]:
    """Return settings without progress bars, and with checkpoints in the benchmark's folder."""
    return {"show_progress": False, "checkpoint_dir": str(Path(options.folder) / "saved")}


def _plain_recbole(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Build RecBole's BERT4Rec like `run_recbole`: model, training data, validation data."""
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


def _same_size(model: str, options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Build a model of this package in the size of the options; see `_built`."""
    ids = {"semantic_id_file": str(made_up_ids(options))} if model == "QBERT4Rec" else {}
    return _built(model, options.dataset, _settings(options) | ids)


def _built(model: str, dataset: str, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Build model, training data and validation data."""
    import recbole_qbert  # noqa: F401  applies the workarounds
    from recbole_qbert.common.process import flush_denormals
    from recbole_qbert.config.build import build_config
    from recbole_qbert.experiments.splits import load_splits
    from recbole_qbert.registry import model_entry

    flush_denormals()
    config = build_config(model, dataset, settings=settings)
    splits = load_splits(config)
    return model_entry(model).model(config, splits.train._dataset), splits.train, splits.valid


def _forever(batches: Iterable[Any]) -> Iterator[Any]:
    """Repeat the batches, epoch after epoch."""
    while True:
        yield from batches


def training_rate(model: Any, loss: Callable[[Any], Any], train: Any, steps: int) -> Measure:
    """Measure `steps` training steps per round, including batch creation, on the model's device."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    device = next(model.parameters()).device
    batches = _forever(train)

    def work() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            value = loss(next(batches).to(device))
            value.backward()
            optimizer.step()
            value.item()  # waits for the GPU, as in training

    def measure(number: int) -> Reading:
        model.train()
        seconds, cpu_seconds = timed(work)
        rows = steps * train.step
        return {
            "rows trained a second": rows / seconds,
            "rows trained a CPU second": rows / cpu_seconds,
            "seconds an epoch": seconds / steps * len(train),
        }

    return measure


def ranking_rate(model: Any, score: Callable[[Any], Any], valid: Any) -> Measure:
    """Measure the ranking of one batch of users per round; `score` is as `full_sort_predict`."""
    import torch

    batches = _forever(valid)

    def work() -> None:
        interaction = next(batches)[0]
        score(interaction).view(len(interaction), -1).topk(10)

    def measure(number: int) -> Reading:
        model.eval()
        with torch.no_grad():
            seconds, cpu_seconds = timed(work)
        return {
            "users ranked a second": valid.step / seconds,
            "users ranked a CPU second": valid.step / cpu_seconds,
        }

    return measure


def _speed(build: Callable[[argparse.Namespace], tuple[Any, Any, Any]]) -> Any:
    def side(options: argparse.Namespace) -> Measure:
        import torch

        torch.set_num_threads(options.threads)
        model, train, valid = build(options)
        training = training_rate(model, model.calculate_loss, train, options.steps)
        ranking = ranking_rate(model, model.full_sort_predict, valid)
        return lambda number: {**training(number), **ranking(number)}

    return side


def _peer(**settings: Any) -> Any:
    """Create a side that trains a model of RecBole as tuned for the data set."""

    def side(options: argparse.Namespace) -> Measure:
        import torch

        torch.set_num_threads(options.threads)
        given = {"semantic_id_file": str(made_up_ids(options)), **settings}
        if options.peer == "S3Rec":  # its first stage trains on sequences, in small batches
            given |= {"augmentation": "none", "train_batch_size": 128}
        model, train, _ = as_tuned(options.peer, options, **given)

        from recbole_qbert.speedups.trimmed_forward import trimmed_loss

        model = model.to(train.config["device"])
        return training_rate(model, trimmed_loss(model, train.config), train, options.steps)

    return side


def _trained(
    model: str, build: Callable[..., tuple[Any, Any, Any]], metric: str, **settings: Any
) -> Any:
    """Create a side that trains until early stopping or the budget.

    It measures the seconds to the best value of a validation metric.
    """

    def side(options: argparse.Namespace) -> Measure:
        import torch

        from recbole_qbert.registry import model_entry

        torch.set_num_threads(options.threads)
        network, train, valid = build(model, options, **settings)
        trainer = model_entry(model).trainer(train.config, network)

        def watch(epoch: int, score: float) -> None:
            if trainer.curve[-1]["seconds"] > options.budget:
                raise TimeoutError

        def measure(number: int) -> Reading:
            stopped_by_itself = 1
            try:
                trainer.fit(train, valid, verbose=False, saved=False, callback_fn=watch)
            except TimeoutError:
                stopped_by_itself = 0
            best = max(trainer.curve, key=lambda row: row[metric])
            return {
                "best valid": best[metric],
                "seconds to it": best["seconds"],
                "epochs to it": best["epoch"] + 1,
                "epochs trained": len(trainer.curve),
                "seconds trained": trainer.curve[-1]["seconds"],
                "stopped by itself": stopped_by_itself,
                "curve": [[row["seconds"], row[metric]] for row in trainer.curve],
            }

        return measure

    return side


def time_to_best(ours: Reading, peer: Reading) -> dict[str, float]:
    """Compute the ratios of times: to the peer's best value (NaN if never), to each one's own."""
    reached = [seconds for seconds, value in ours["curve"] if value >= peer["best valid"]]
    return {
        "seconds to the peer's best": (reached[0] if reached else math.nan) / peer["seconds to it"],
        "seconds to its own best": ours["seconds to it"] / peer["seconds to it"],
    }


def _of_size(model: str, options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Build a model with the width, depth and length of the options, and early stopping."""
    settings = _settings(options) | {"use_tuned": False, "stopping_step": 3}
    if model == "QBERT4Rec":
        settings["semantic_id_file"] = options.semantic_id_file
    return _built(model, options.dataset, settings)


def as_tuned(model: str, options: argparse.Namespace, **extra: Any) -> tuple[Any, Any, Any]:
    """Build a model with the shipped settings for the data set, evaluated after each epoch."""
    settings = {"data_path": data_path(options), "eval_step": 1, **_quiet(options)}
    settings |= {"valid_metric": "unseen_NDCG@10"}
    if model != "QBERT4Rec":
        settings["stopping_step"] = 4
    return _built(model, options.dataset, settings | extra)


def _qbert4rec_as_asked(model: str, options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Call `as_tuned` with the IDs and the `--key=value` of the command line."""
    given = {"semantic_id_file": options.semantic_id_file, **options.settings}
    return as_tuned(model, options, **given)


def _dropout(ours: bool) -> Any:
    """Create a side that runs one dropout layer, forward and backward, on [256, 50, hidden]."""

    def side(options: argparse.Namespace) -> Measure:
        import torch

        from recbole_qbert.models.layers.dropout import Dropout

        torch.set_num_threads(options.threads)
        layer = Dropout(0.25) if ours else torch.nn.Dropout(0.25)
        values = torch.rand(BATCH_SIZE, 50, options.hidden_size, requires_grad=True)

        def work() -> None:
            for _ in range(options.steps):
                layer(values).sum().backward()

        def measure(number: int) -> Reading:
            seconds, cpu_seconds = timed(work)
            return {
                "ms": 1000 * seconds / options.steps,
                "CPU ms": 1000 * cpu_seconds / options.steps,
            }

        return measure

    return side


def _memory(build: Callable[[argparse.Namespace], object], ours: bool) -> Any:
    """Create a side that measures the growth of the peak resident size by data set and model."""

    def side(options: argparse.Namespace) -> Measure:
        import ray.tune  # noqa: F401  as run_recbole does
        import recbole.quick_start  # noqa: F401

        if ours:
            import recbole_qbert  # noqa: F401

        def measure(number: int) -> Reading:
            before = _peak_mb()
            built = build(options)
            after = _peak_mb()
            del built
            return {"MB before": before, "MB after": after, "growth MB": after - before}

        return measure

    return side


def _peak_mb() -> float:
    return peak_bytes() / 2**20


def _qbert4rec(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    return _same_size("QBERT4Rec", options)


def _fixed(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    return _same_size("BERT4Rec", options)


BENCHMARKS = {
    "speed": Benchmark(
        sides={
            "recbole": _speed(_plain_recbole),
            "fixed": _speed(_fixed),
            "QBERT4Rec": _speed(_qbert4rec),
        },
        pairs=[("QBERT4Rec", "recbole"), ("QBERT4Rec", "fixed"), ("fixed", "recbole")],
        ratios=of_quantities(
            "rows trained a second",
            "rows trained a CPU second",
            "users ranked a second",
            "users ranked a CPU second",
        ),
        add_options=_speed_options,
        inputs=write_made_up_ids,
    ),
    "peer": Benchmark(
        sides={
            "recbole": _peer(trim_padding=False, batch_by="row"),
            "lean": _peer(batch_by="row"),
            "by user": _peer(batch_by="user"),
        },
        pairs=[("lean", "recbole"), ("by user", "recbole")],
        ratios=of_quantities("rows trained a second", "rows trained a CPU second"),
        add_options=_peer_options,
        inputs=write_made_up_ids,
    ),
    "best": Benchmark(
        sides={
            "fixed": _trained("BERT4Rec", _of_size, "ndcg@10"),
            "QBERT4Rec": _trained("QBERT4Rec", _of_size, "ndcg@10"),
        },
        pairs=[("QBERT4Rec", "fixed")],
        ratios=time_to_best,
        add_options=_best_options,
        fresh=True,
        warm_up=0,
    ),
    "race": Benchmark(
        sides={
            "SASRec padded": _trained("SASRec", as_tuned, "unseen_ndcg@10", trim_padding=False),
            "SASRec": _trained("SASRec", as_tuned, "unseen_ndcg@10"),
            "QBERT4Rec": _trained("QBERT4Rec", _qbert4rec_as_asked, "unseen_ndcg@10"),
        },
        pairs=[("QBERT4Rec", "SASRec padded"), ("QBERT4Rec", "SASRec")],
        ratios=time_to_best,
        add_options=_race_options,
        fresh=True,
        warm_up=0,
        settings=True,
    ),
    "memory": Benchmark(
        sides={"recbole": _memory(_plain_recbole, False), "QBERT4Rec": _memory(_qbert4rec, True)},
        pairs=[("QBERT4Rec", "recbole")],
        ratios=of_quantities("growth MB"),
        add_options=_size_options,
        inputs=write_made_up_ids,
        fresh=True,
        warm_up=0,
    ),
    "dropout": Benchmark(
        sides={"torch": _dropout(False), "QBERT4Rec": _dropout(True)},
        pairs=[("QBERT4Rec", "torch")],
        ratios=of_quantities("ms", "CPU ms"),
        add_options=_dropout_options,
    ),
}
