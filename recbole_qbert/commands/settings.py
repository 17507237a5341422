"""Parsing of `--key=value` flags, for commands whose flags are keys of YAML files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.yaml_files import split_files


def parse_settings(arguments: Sequence[str]) -> dict[str, str]:
    """Parse `--key=value` and `--key value` (and RecBole's -m, -d) to a dict of strings.

    Raises:
        InputError: an argument is not a flag, lacks its value, or contradicts an earlier one.
    """
    short = {"-m": "--model", "-d": "--dataset"}
    settings: dict[str, str] = {}
    queue = list(arguments)
    while queue:
        flag, equals, value = queue.pop(0).partition("=")
        flag = short.get(flag, flag)
        if not flag.startswith("--") or len(flag) < 3:
            raise InputError(f"command line: '{flag}' is no --key=value")
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise InputError(f"command line: {flag} has no value; write {flag}=value")
            value = queue.pop(0)
        key = flag[2:]
        if settings.get(key, value) != value:
            raise InputError(f"command line: {flag} is given twice with different values")
        settings[key] = value
    return settings


def file_and_settings(command: str, arguments: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Parse `FILE.yaml --key=value ...` to the file and the settings.

    Raises:
        InputError: there is no file, or see `parse_settings`.
    """
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"{command}: name its file first: recbole-qbert {command} FILE.yaml")
    return arguments[0], parse_settings(arguments[1:])


def pop_switch(settings: dict[str, str], key: str) -> bool:
    """Remove a boolean setting and return its value; False if it is not given.

    Raises:
        InputError: the value is neither True nor False.
    """
    value = settings.pop(key, "False")
    if value.lower() not in ("true", "false"):
        raise InputError(f"--{key}={value}: write True or False")
    return value.lower() == "true"


def pop_models(settings: dict[str, str]) -> tuple[list[str], str, list[str]]:
    """Remove `model`, `dataset` and `config_files` from the settings and return their values.

    Models and data set may also be given in one of the files.

    Returns:
        Model names, data set, and the user's YAML files.

    Raises:
        InputError: no model or data set is given, a model is given twice, or a file cannot be read.
    """
    from recbole_qbert.common.yaml_files import load_yaml

    models = [name for name in settings.pop("model", "").split(",") if name]
    dataset = settings.pop("dataset", "")
    files = split_files(settings.pop("config_files", ""))
    for file in files:
        content = load_yaml(file)
        models = models or str(content.get("model", "")).replace(",", " ").split()
        dataset = dataset or str(content.get("dataset", ""))
    for key, value in (("model", models), ("dataset", dataset)):
        if not value:
            near = [each for each in settings if did_you_mean(each, [key])]
            hint = f"; is --{near[0]} meant for it?" if near else ""
            raise InputError(
                f"--{key}=... is needed, on the command line or in a config file{hint}"
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
    for file in files:
        given = given or load_yaml(file).get("nproc")
    n_processes = number_of_processes(given)
    return launch(n_processes, command) if n_processes > 1 and not launched() else None
