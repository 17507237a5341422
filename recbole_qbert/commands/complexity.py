"""`recbole-qbert complexity`: parameters, multiply-accumulates and latency of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from recbole_qbert.commands.help import KeyGroup, run_groups
from recbole_qbert.commands.run import wide_console
from recbole_qbert.commands.settings import parse_settings, pop_models
from recbole_qbert.common.errors import InputError

HELP = (
    "parameters, MACs and latency without training (the paper's Table 6): --model=A[,B...] "
    "--dataset=X [--json=FILE] [--config_files=a.yaml,b.yaml] [--key=value ...]"
)
FLAGS = """
model:         # (str) needed; one or several with commas between, each with its keys in --help
dataset:       # (str) needed; batches of its test users are timed
json:          # (str) file for the figures
config_files:  # (str) YAML files with commas between; later ones win, and flags win over all
"""


def groups(arguments: Sequence[str]) -> list[KeyGroup]:
    """Groups of the command's keys, for `--help`."""
    return [KeyGroup("Of the command", FLAGS), *run_groups(arguments)]


def run_complexity(arguments: Sequence[str]) -> int:
    """Run `complexity --model=A,B --dataset=X --key=value ...`; returns the exit status.

    Raises:
        InputError: an argument cannot be used, or the JSON file cannot be written.
    """
    settings = parse_settings(arguments)
    file = settings.pop("json", "")
    if file and Path(file).is_dir():
        raise InputError(f"--json={file}: is a folder; name a file")
    models, dataset, files = pop_models(settings)

    import torch

    from recbole_qbert.common.files import write_json
    from recbole_qbert.common.process import flush_denormals, machine, quiet_recbole, versions
    from recbole_qbert.config.build import build_config
    from recbole_qbert.experiments.complexity import complexity_table, measure
    from recbole_qbert.experiments.splits import load_splits

    console = wide_console()
    configs = [build_config(model, dataset, files, settings) for model in models]
    flush_denormals()
    quiet_recbole()
    where = {"machine": machine(), "threads": torch.get_num_threads(), "versions": versions()}
    found = []
    for config in configs:
        splits = load_splits(config)
        found.append(measure(config, splits.train._dataset, splits.test))
    console.print(complexity_table(found))
    console.print(
        f"{where['machine']}, threads: {where['threads']}, torch {torch.__version__}",
        highlight=False,
    )
    if file:
        try:
            write_json(file, where | {"models": [asdict(one) for one in found]})
        except OSError as error:
            raise InputError(f"--json={file}: {error.strerror}") from None
    return 0
