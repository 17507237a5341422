"""Pretraining of one QBERT4Rec on the training sequences of several data sets.

The best epoch has the highest mean over domains of the validation metric. Each domain is evaluated
on a sample of its users, ranked over its own items. The test items are never read.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.utils import init_seed
from rich.console import Console

from recbole_qbert.common.errors import InputError, error_context
from recbole_qbert.common.files import check_replaceable, check_writable, exclusive
from recbole_qbert.common.output import counted, new_console
from recbole_qbert.common.process import flush_denormals, quiet_recbole
from recbole_qbert.common.process_group import barrier, is_main, sum_over_processes, world
from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import PRETRAIN, build_config, file_settings, shipped_files
from recbole_qbert.data.budget import AUTO
from recbole_qbert.data.domain import DatasetPaths, find_domain
from recbole_qbert.data.loading import SPLIT_KEYS
from recbole_qbert.evaluation.ranking import Ranks, check_ranked, summarize, target_ranks
from recbole_qbert.evaluation.results import metric_title
from recbole_qbert.models.layers.content import vector_names
from recbole_qbert.models.qbert4rec import QBERT4Rec
from recbole_qbert.pretraining.corpus import Corpus, FieldNames
from recbole_qbert.pretraining.loader import TrainingBatches, ValidRows, valid_users
from recbole_qbert.pretraining.transfer import (
    ARCHITECTURE,
    OF_CONTENT,
    PRETRAINED_FILES,
    read_source,
    save_pretrained,
)
from recbole_qbert.training.checkpoint import load_checkpoint
from recbole_qbert.training.distributed import joined
from recbole_qbert.training.inputs import changed_files, inputs_of
from recbole_qbert.training.learning_curve import epoch_printer
from recbole_qbert.training.run_identity import LOCK, check_resumed, last_state_file, run_hash
from recbole_qbert.training.trainer import ResumableTrainer, n_parameters

MODEL = "QBERT4Rec"
PRETRAINED = "pretrained"  # folder for pre_model_path, in the folder of the pretraining
# Settings of the data that pretraining does not follow, so that it would train on other targets.
LEAKING = {*SPLIT_KEYS, "cold_items"}
# Others that have no effect; a file may have them for the training that follows.
UNREAD = {
    "augmentation",
    "batch_by",
    "cold_interactions",
    "cold_seed",
    "cold_targets",
    "logit_adjustment",
    "new_item_bonus",
    "popularity_discount",
    "pre_model_path",
    "semantic_id_file",
    "softmax_items",
}
AUTO_HERE = frozenset(("exclude_visible", "pre_model_codes"))  # may be `auto`


class PretrainTrainer(ResumableTrainer):
    """`ResumableTrainer` that validates on several domains."""

    @torch.no_grad()
    def evaluate(
        self,
        eval_data: ValidRows,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Compute the mean over domains of each metric, over all and over unseen items.

        The attribute `by_domain` keeps the metrics of each domain.
        """
        if load_best_model:
            barrier()  # wait until the main process has written it
            self._load_weights(model_file or self.saved_model_file)
        self.by_domain = {
            part.name: summarize(
                self._ranks(eval_data, domain), self.config["metrics"], self.config["topk"]
            )
            for domain, part in enumerate(eval_data.corpus.parts)
        }
        metrics = list(self.by_domain.values())
        return OrderedDict(
            (name, sum(each[name] for each in metrics) / len(metrics)) for name in metrics[0]
        )

    def _ranks(self, rows: ValidRows, domain: int) -> Ranks:
        """Rank one domain's validation targets among its items; each process ranks its share."""
        self.model.eval()
        users = rows.users[domain]
        ranks = torch.zeros(2, len(users), dtype=torch.long, device=self.device)
        for first, batch, (row, item) in rows.batches(domain, *world()):
            scores = self.model.full_sort_predict(batch.to(self.device))
            seen = (row.to(self.device), item.to(self.device))
            targets = batch[rows.names.target].to(self.device)
            own = target_ranks(scores, targets, seen)
            ranks[:, first : first + len(targets)] = torch.stack(own)
        raw, unseen = sum_over_processes(ranks).cpu().numpy()
        check_ranked(raw)
        return Ranks(users, raw, unseen)


def pretrain(
    datasets: Sequence[str],
    files: Sequence[str | Path] = (),
    settings: Mapping[str, Any] | None = None,
    target: str | None = None,
    console: Console | None = None,
    reuse: bool = False,
    retrain: bool = False,
    output: Path | None = None,
) -> Path:
    """Pretrain a model on several data sets; see `properties/pretrain.yaml`.

    Args:
        datasets: names of folders below `data_path`, each with `.inter` and `.semid`.
        files: the user's YAML files.
        settings: `key=value` settings, which override the files.
        target: data set that the model is for; its tuned settings determine the model's sizes.
        console: console for the output.
        reuse: reuse or continue an earlier pretraining with the same settings; an InputError says
            if a file that it read has changed.
        retrain: the same, but train again if a file has changed.
        output: folder for the pretrained model; by default, `pretrained` in the folder of the
            pretraining.

    Returns:
        The folder of the pretrained model, for `pre_model_path`.

    Raises:
        InputError: a setting or a file is invalid.
    """
    console = console or new_console()
    config = pretrain_config(datasets, files, settings, target)
    folder = Path(config["checkpoint_dir"])
    with error_context("checkpoint_dir"):
        check_writable(folder)
    if output:
        with error_context("output"):
            check_replaceable(output, PRETRAINED_FILES)
    place = output or folder / PRETRAINED
    flush_denormals()
    quiet_recbole()
    domains = [find_domain(each, Path(config["data_path"]).parent) for each in datasets]
    with joined([config]):
        console = console if is_main() else Console(quiet=True)
        inputs = inputs_of(config, domains)
        if reuse or retrain:
            changed = _changed(folder, inputs)
            if changed and not retrain:
                raise InputError(
                    f"{folder}: {', '.join(changed)} changed since this pretraining; add "
                    "--retrain=True, or give another checkpoint_dir"
                )
            if changed:
                console.print(f"Pretraining again: {', '.join(changed)} changed", markup=False)
            config["resume"] = not changed
        if config["resume"]:
            check_resumed(last_state_file(folder, MODEL), inputs)
        # A model at `output` may have other settings, so it is always written again.
        reusable = config["resume"] and output is None and place.is_dir()
        if reusable and read_source(place).inputs == inputs:
            line = f"{place}: already pretrained"
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        else:
            _pretrain(config, domains, inputs, place, console)
    return place


def _changed(folder: Path, inputs: Mapping[str, str]) -> list[str]:
    """Return the files that changed since the pretraining in the folder began."""
    state = last_state_file(folder, MODEL)
    return changed_files(load_checkpoint(state)["inputs"], inputs) if state.is_file() else []


def pretrain_config(
    datasets: Sequence[str],
    files: Sequence[str | Path] = (),
    settings: Mapping[str, Any] | None = None,
    target: str | None = None,
) -> Config:
    """Build the config of `pretrain`; its `checkpoint_dir` is the folder of this pretraining.

    See `pretrain` for the arguments.
    """
    name = "+".join(datasets)
    sizes = tuned_sizes(target) if target else {}
    config = build_config(MODEL, name, files, settings, stage=PRETRAIN, sizes=sizes)
    given = {**file_settings(MODEL, files, PRETRAIN), **(settings or {})}
    plain = build_config(MODEL, name, stage=PRETRAIN, sizes=sizes)
    without_effect = UNREAD if config["use_content"] else UNREAD | {"item_vectors"}
    for key in sorted(given):
        unread = key in LEAKING or (key in without_effect and key in (settings or {}))
        if unread and config[key] != plain[key]:
            raise InputError(
                f"{key}: pretraining does not read it; leave it out here, and set it for the "
                "training that follows"
            )
        if key not in AUTO_HERE and config[key] == AUTO:
            raise InputError(f"{key}: auto cannot be used in pretraining; give a value")
    _check_content(config)
    folder = Path(config["checkpoint_dir"]) / "pretrain" / name
    config["checkpoint_dir"] = str(folder / f"{MODEL}-seed{config['seed']}-{run_hash(config)}")
    return config


def _check_content(config: Config) -> None:
    """Raise an `InputError` if the item vectors of `use_content` do not fit several data sets."""
    if not config["use_content"]:
        return
    if not isinstance(config["item_vectors"], list):
        raise InputError(
            "item_vectors: pretraining reads a table of each data set; give names of tables, "
            "such as text for <dataset>.text.npz"
        )


def _pretrain(
    config: Config,
    domains: Sequence[DatasetPaths],
    inputs: Mapping[str, str],
    place: Path,
    console: Console,
) -> None:
    """Pretrain in one of the processes."""
    folder = Path(config["checkpoint_dir"])
    if not is_main():
        barrier()  # wait until process 0 has written the sequences
    corpus = Corpus(domains, vector_names(config) if config["use_content"] else ())
    if is_main():
        barrier()
    console.print(f"{MODEL}, pretraining on {config['dataset']}", style="bold")
    for line in corpus.describe():
        console.print(f"  {line}", highlight=False)

    init_seed(config["seed"], config["reproducibility"])
    model = QBERT4Rec(config, corpus).to(config["device"])
    names = FieldNames(model.ITEM_SEQ, model.ITEM_SEQ_LEN, model.POS_ITEM_ID)
    length, seed = config["MAX_ITEM_LIST_LENGTH"], config["seed"]
    batches = TrainingBatches(
        corpus,
        names,
        batch_size=config["train_batch_size"],
        length=length,
        balance=config["domain_balance"],
        steps=config["steps_per_epoch"],
        seed=seed,
    )
    users = valid_users(corpus, config["valid_users"], seed)
    valid = ValidRows(corpus, users, config["eval_batch_size"], length, names)
    with exclusive(folder / LOCK, wait_s=0) if is_main() else contextlib.nullcontext():
        trainer = PretrainTrainer(config, model, inputs)
        console.print(
            f"  {counted(n_parameters(model), 'parameter')}, {counted(len(batches), 'step')} an "
            f"epoch, device {config['device']}, folder {folder}"
        )
        report, show = epoch_printer(trainer, console), config["show_progress"]
        trainer.fit(batches, valid, verbose=False, show_progress=show, callback_fn=report)
        trainer.evaluate(valid)
        metric = trainer.valid_metric
        found = ", ".join(f"{part} {each[metric]:.4f}" for part, each in trainer.by_domain.items())
        console.print(f"  best epoch, valid {metric_title(metric)}: {found}")
        if is_main():
            save_pretrained(place, model, config, corpus, inputs)
        console.print(f"  written: {place}", soft_wrap=True, highlight=False)


def tuned_sizes(dataset: str) -> dict[str, Any]:
    """Return the shipped settings of a data set that its pretrained model must share."""
    tuned: dict[str, Any] = {}
    for path in shipped_files(MODEL, dataset, use_tuned=True):
        tuned |= load_yaml(path)
    return {key: tuned[key] for key in (*ARCHITECTURE, *OF_CONTENT) if key in tuned}
