"""`run_models`: trains and evaluates one or several models and stores their results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from recbole.config import Config
from recbole.utils import init_seed
from rich.console import Console

from recbole_qbert.common.files import exclusive
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.output import counted, new_console
from recbole_qbert.common.process import (
    flush_denormals,
    machine,
    peak_memory_mb,
    quiet_recbole,
    reset_peak_memory,
    versions,
)
from recbole_qbert.common.process_group import is_main, world
from recbole_qbert.config.build import (
    FINETUNE,
    build_config,
    check_common_keys,
    check_same_columns,
    shipped_files,
)
from recbole_qbert.data.dataset import semantic_id_path
from recbole_qbert.evaluation.comparable import tested_on
from recbole_qbert.evaluation.groups import cold_summary
from recbole_qbert.evaluation.printing import print_tables
from recbole_qbert.evaluation.ranking import LIST_LENGTH, RANKS_FILE, save_ranks, with_cold
from recbole_qbert.evaluation.results import RunResult, append_result
from recbole_qbert.experiments.checks import check_models, check_run
from recbole_qbert.experiments.first_stage import run_first_stage
from recbole_qbert.experiments.generation import (
    beam_statistics,
    generation_figures,
    generation_note,
)
from recbole_qbert.experiments.split_checks import changed_interactions
from recbole_qbert.experiments.splits import Splits, data_counts, load_splits
from recbole_qbert.models.layers.popularity_terms import training_counts
from recbole_qbert.pretraining.transfer import FROM_SCRATCH, load_pretrained, read_source
from recbole_qbert.registry import build_model, first_stage_state, model_entry
from recbole_qbert.serving.bundle import NotBundled, save_bundle
from recbole_qbert.training.checkpoint import config_to_json
from recbole_qbert.training.distributed import joined
from recbole_qbert.training.inputs import check_inputs, inputs_of
from recbole_qbert.training.learning_curve import best_evaluation, epoch_printer
from recbole_qbert.training.run_identity import (
    LOCK,
    check_resumed,
    finished_run,
    last_state_file,
    latest_result,
    run_folder,
)
from recbole_qbert.training.trainer import n_parameters


class PreparedRun(NamedTuple):
    """A model with its data and trainer, before or after training."""

    config: Config
    splits: Splits
    model: Any
    trainer: Any
    counts: dict[str, int]
    pretrained_on: list[str]  # data sets; empty: from scratch


def run_models(
    models: Sequence[str],
    dataset: str,
    files: Sequence[str | Path] = (),
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> list[RunResult]:
    """Train and evaluate models sequentially under one protocol and print one table.

    If a model starts from pretrained weights (`pre_model_path`), a run of the same model from
    scratch with the same budget follows it, unless that run is already finished.

    Args:
        models: names of models in the registry, or of RecBole's sequential models.
        dataset: name of the data set.
        files: the user's YAML files.
        settings: `key=value` settings; they override the files.
        console: console to print on.

    Returns:
        Results in the order of the runs.

    Raises:
        InputError: a setting or file cannot be used. The settings and data of all models are
            checked, and all models are built, before the first one is trained.
    """
    console = console or new_console()
    check_common_keys(models, settings or {})
    configs = [build_config(model, dataset, files, settings) for model in models]
    for config in configs:
        check_run(config)
    check_same_columns([(config["model"], config) for config in configs])
    plan: list[tuple[Config, RunResult | None]] = [(config, None) for config in configs]
    for place, config in reversed(list(enumerate(configs))):
        if model_entry(config["model"]).takes_pretrained and config["pre_model_path"]:
            alone = {**(settings or {}), **FROM_SCRATCH}
            scratch = build_config(config["model"], dataset, files, alone)
            plan.insert(place + 1, (scratch, finished_run(scratch)))
    check_models(configs)
    with joined([config for config, _ in plan]):
        console = console if is_main() else Console(quiet=True)
        names = [str(file) for file in files]
        results = []
        for config, done in plan:
            if done is None:
                console.print(f"{config['model']} on {dataset}", style="bold", soft_wrap=True)
            results.append(done or run_model(config, console, names))
        print_tables(results, console)
    return results


def run_model(config: Config, console: Console, files: Sequence[str] = ()) -> RunResult:
    """Train one model, select its best epoch on valid, test it once, and append the result.

    The caller prints the names of the model and the data set.

    Args:
        config: settings of the run; `checkpoint_dir` is the common folder and is replaced by the
            run's own one.
        console: console to print on.
        files: names of the user's YAML files.

    Raises:
        InputError: see `prepare`.
    """
    flush_denormals()
    quiet_recbole()
    reset_peak_memory()
    name, dataset = config["model"], config["dataset"]
    shipped = shipped_files(name, dataset, config["use_tuned"] is not False)
    used = [path.name for path in shipped] + list(files)
    base, folder = Path(config["checkpoint_dir"]), run_folder(config)
    config["checkpoint_dir"] = str(folder)
    console.print(f"  settings from {', '.join(used)}", markup=False, soft_wrap=True)
    with contextlib.ExitStack() as held:
        training = prepare(config, console, held)
        train(training, epoch_printer(training.trainer, console))
        return publish(training, base, used, console)


def prepare(
    config: Config, console: Console, held: contextlib.ExitStack | None = None
) -> PreparedRun:
    """Build the data, model and trainer of a run.

    Args:
        config: settings of the run, with the run's own folder as `checkpoint_dir`.
        console: console to print on.
        held: stack that the lock of the folder is added to before the first file is written; None:
            the caller holds the lock.

    Raises:
        InputError: settings or files cannot be used, or another process makes the same run.
    """
    name, folder = config["model"], config["checkpoint_dir"]
    lock = exclusive(Path(folder) / LOCK, wait_s=0) if is_main() else contextlib.nullcontext()
    entry = model_entry(name)
    inputs = inputs_of(config)
    if config["resume"]:
        check_resumed(last_state_file(Path(folder), name), inputs)
    splits = load_splits(config)
    counts = data_counts(*splits)
    line = ", ".join(f"{key} {value:,}" for key, value in counts.items())
    console.print(f"  {line}", soft_wrap=True)
    ids = semantic_id_path(config)
    if ids is not None and ids.name in inputs:
        remark = changed_interactions(config, ids)
        line = f"  semantic IDs {ids}, SHA-256 {inputs[ids.name][:8]}{remark}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for note in splits.dataset.notes:
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)

    two_stages = entry.first_stage and config["pretrain_epochs"]
    if two_stages:
        if held is not None:
            held.enter_context(lock)
        config["pre_model_path"] = run_first_stage(config, console)
        config["train_stage"] = FINETUNE
    init_seed(config["seed"], config["reproducibility"])
    model = build_model(config, splits.train._dataset)
    pretrained_on: list[str] = []
    if entry.takes_pretrained and config["pre_model_path"]:
        source = read_source(config["pre_model_path"])
        pretrained_on = source.domains
        for line in load_pretrained(model, config, splits.train._dataset, source):
            console.print(f"  {line}", highlight=False, soft_wrap=True)
    elif hasattr(model, "load_first_stage") and not two_stages:
        state = first_stage_state(config)
        pretrained_on = [] if state is None else [str(state["config"]["dataset"])]
    model = model.to(config["device"])
    size = counted(n_parameters(model), "parameter")
    console.print(f"  {size}, device {config['device']}, folder {folder}", soft_wrap=True)
    if held is not None and not two_stages:
        held.enter_context(lock)
    trainer = entry.trainer(config, model)
    check_inputs(name, inputs, trainer.inputs, "it changed while it was read; start the run again")
    return PreparedRun(config, splits, model, trainer, counts, pretrained_on)


def train(training: PreparedRun, report: Callable[[int, float], None]) -> None:
    """Start or resume training; `report(epoch, valid score)` is called after each evaluation."""
    training.trainer.fit(
        training.splits.train,
        training.splits.valid,
        verbose=False,
        show_progress=training.config["show_progress"],
        callback_fn=report,
    )


def publish(
    training: PreparedRun, base: Path, files: Sequence[str], console: Console | None = None
) -> RunResult:
    """Evaluate the best weights on valid and test; write the ranks, the bundle and a result line.

    This is the only evaluation on test.

    Args:
        training: run after training; its trainer has the learning curve.
        base: folder of `results.jsonl`.
        files: names of the YAML files that the settings are from.
        console: console to print on.
    """
    config, splits, model, trainer = training[:4]
    folder = Path(config["checkpoint_dir"])
    valid = trainer.evaluate(splits.valid)
    beam_statistics(model)  # starts anew: searches of validation are not reported
    started = perf_counter()
    trainer.list_length = LIST_LENGTH
    test = trainer.evaluate(splits.test, load_best_model=False)
    test_seconds = perf_counter() - started
    console = console or new_console()
    assert trainer.ranks is not None  # set by the evaluation above
    generation = generation_figures(model, splits.test, trainer.ranks, config)
    if note := generation_note(generation, trainer.valid_metric):
        console.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)
    bundle = str(folder / "bundle")
    if is_main():
        item_counts = training_counts(splits.train._dataset, splits.dataset.item_num)
        ranks = with_cold(trainer.ranks, splits.dataset.cold_mask())
        save_ranks(folder / RANKS_FILE, ranks, item_counts.numpy())
        for line in cold_summary(ranks):
            console.print(f"  {line}", highlight=False, soft_wrap=True)
        try:
            save_bundle(bundle, model, config, splits.train._dataset)
        except NotBundled as error:
            bundle = ""
            console.print(f"  {error}", highlight=False, markup=False, soft_wrap=True)
    metric = trainer.valid_metric
    result = RunResult(
        model=config["model"],
        dataset=config["dataset"],
        seed=config["seed"],
        valid=dict(valid),
        test=dict(test),
        valid_metric=metric,
        exclude_visible=bool(getattr(model, "exclude_visible", False)),
        loss=str(config["loss"] if "loss" in config else config["loss_type"]),
        best_epoch=best_evaluation(trainer.curve, metric)[1],
        epochs=len(trainer.train_loss_dict),
        max_epochs=config["epochs"],
        seconds=trainer.curve[-1]["seconds"],
        test_seconds=test_seconds,
        n_parameters=n_parameters(model),
        peak_memory_mb=peak_memory_mb(),
        counts=training.counts,
        data_sha256=trainer.inputs,
        config=config_to_json(config),
        config_files=list(files),
        versions=versions(),
        device=str(config["device"]),
        threads=torch.get_num_threads(),
        bundle=bundle,
        machine=machine(),
        folder=str(folder),
        ranks_sha256=sha256_file(folder / RANKS_FILE) if is_main() else "",
        pretrained_on=training.pretrained_on,
        n_processes=world()[1],
        steps=len(trainer.train_loss_dict) * len(splits.train),
        tested_on=tested_on(splits.test._dataset),
        generation=generation,
    )
    done = latest_result(base, folder) if config["resume"] else None
    same = ("data_sha256", "valid", "test", "ranks_sha256")
    if done is not None and all(getattr(done, key) == getattr(result, key) for key in same):
        return done  # a finished run was resumed: its line exists already
    if is_main():
        append_result(base / "results.jsonl", result)
    return result
