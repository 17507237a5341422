"""`recbole-qbert pretrain`: trains one model on several data sets, for later fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_qbert.commands.help import KeyGroup, file_group, run_groups
from recbole_qbert.commands.run import wide_console
from recbole_qbert.commands.settings import in_processes, parse_settings, pop_switch
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.yaml_files import split_files

HELP = (
    "train one QBERT4Rec over several data sets: --datasets=A,B [--target=X] [--nproc=N] "
    "[--config_files=a.yaml] [--key=value ...], keys of properties/pretrain.yaml and `run`"
)
FLAGS = """
datasets:      # (str) needed; with commas between, each with a .inter and a .semid file
target:        # (str) data set that the model is for: its sizes are taken
output:        # (str) folder of the pretrained model; empty: in that of this pretraining
retrain: False # (bool) as resume, but train again where a file that it read has changed
nproc: 1       # (int) processes that share the training
config_files:  # (str) YAML files with commas between; later ones win, and flags win over all
"""


def groups(arguments: Sequence[str]) -> list[KeyGroup]:
    """Groups of the command's keys, for `--help`."""
    own = file_group("Of pretraining", "pretrain.yaml")
    return [KeyGroup("Of the command", FLAGS), own, *run_groups(())]


def run_pretrain(arguments: Sequence[str]) -> int:
    """Run `pretrain --datasets=A,B --key=value ...`; returns the exit status.

    Raises:
        InputError: an argument cannot be used.
    """
    settings = parse_settings(arguments)
    nproc = settings.pop("nproc", None)
    flags = [f"--{key}={value}" for key, value in settings.items()]
    datasets = [name for name in settings.pop("datasets", "").split(",") if name]
    if not datasets:
        raise InputError("--datasets=A,B is needed: the data sets to pretrain on")
    if len(set(datasets)) < len(datasets):
        raise InputError(f"--datasets={','.join(datasets)}: name each data set once")
    target, output = settings.pop("target", None), settings.pop("output", "")
    retrain = pop_switch(settings, "retrain")
    files = split_files(settings.pop("config_files", ""))
    status = in_processes(["pretrain", *flags], nproc, files)
    if status is not None:
        return status
    from recbole_qbert.pretraining.fit import pretrain

    place = Path(output) if output else None
    pretrain(datasets, files, settings, target, wide_console(), retrain, place)
    return 0
