"""`recbole-qbert run`: trains and evaluates models."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from recbole_qbert.commands.command import Command, meant_for
from recbole_qbert.commands.keys import run_groups
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import new_console
from recbole_qbert.common.yaml_files import split_names


def models_and_dataset(settings: dict[str, str]) -> tuple[list[str], str, list[str]]:
    """Remove `model`, `dataset` and `config_files` from the settings and return their values.

    Models and data set may also be given in one of the files.

    Returns:
        Model names, data set, and the user's YAML files.

    Raises:
        InputError: no model or data set is given, a model is given twice, or a file cannot be read.
    """
    from recbole_qbert.common.yaml_files import load_yaml

    models = split_names(settings.pop("model", ""))
    dataset = settings.pop("dataset", "")
    files = split_names(settings.pop("config_files", ""))
    for file in reversed(files):  # the last file that names one counts, as for all settings
        content = load_yaml(file)
        named = content.get("model") or ""
        if isinstance(named, list):
            listed = ", ".join(map(str, named))
            raise InputError(f"{file}: model: not a list; write the names as `model: {listed}`")
        models = models or split_names(str(named))
        dataset = dataset or str(content.get("dataset") or "")
    for key, value in (("model", models), ("dataset", dataset)):
        if not value:
            raise InputError(
                f"--{key}=... is required, on the command line or in a config file"
                f"{meant_for(key, settings)}"
            )
    for name in models:
        if models.count(name) > 1:
            raise InputError(f"model: {name} is named {models.count(name)} times; name it once")
    return models, dataset, files


def in_processes(command: Sequence[str], nproc: str | None, files: Sequence[str]) -> int | None:
    """Start the command in `nproc` processes if more than one is requested.

    Args:
        command: command line without `nproc`.
        nproc: number of processes on the command line; None: the files may give it.
        files: the user's YAML files.

    Returns:
        Exit status of the processes; None if this process has to do the work itself.
    """
    from recbole_qbert.common.yaml_files import load_yaml
    from recbole_qbert.training.distributed import launch, launched, number_of_processes

    given: Any = nproc
    for file in reversed(files):
        given = given or load_yaml(file).get("nproc")
    n_processes = number_of_processes(given)
    return launch(n_processes, command) if n_processes > 1 and not launched() else None


def _run(options: SimpleNamespace) -> int:
    settings = options.settings
    nproc = settings.pop("nproc", None)
    flags = [f"--{key}={value}" for key, value in settings.items()]
    models, dataset, files = models_and_dataset(settings)
    status = in_processes(["run", *flags], nproc, files)
    if status is not None:
        return status
    from recbole_qbert.experiments.run import run_models

    run_models(models, dataset, files, settings, new_console())
    return 0


RUN = Command(
    "run",
    "Train and evaluate one or more models on one data set; print their metrics side by side.",
    _run,
    details="""
        recbole-qbert run --model=QBERT4Rec,SASRec --dataset=ml-100k --data_path=dataset
        recbole-qbert run --model=GRU4Rec --help     # lists the keys of GRU4Rec
        """,
    keys=run_groups,
    open_ended=True,
)
