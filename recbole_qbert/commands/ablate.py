"""`recbole-qbert ablate`: ablations, Tables 3 to 5 of the paper and the masking schemes."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_qbert.commands.help import KeyGroup, file_group, run_groups
from recbole_qbert.commands.run import wide_console
from recbole_qbert.commands.settings import parse_settings
from recbole_qbert.common.errors import InputError, whole_number
from recbole_qbert.common.yaml_files import split_files

HELP = (
    "what a part is worth: ablate modality|pretraining|fusion|masks --dataset=X --seeds=1,2,3 "
    "[--sources=A,B] [--config_files=a.yaml] [--max_concurrent=N] [--key=value ...], "
    "keys of `run`; --tokenize.key=value and --pretrain.key=value reach those commands"
)
STAGES = ("tokenize", "pretrain")
FLAGS = """
dataset:           # (str) needed
seeds: 2026        # (list) whole numbers with commas between; one run of each variant a seed
sources:           # (str) data sets to pretrain on, with commas between
max_concurrent: 1  # (int) runs at a time
config_files:      # (str) YAML files with commas between; later ones win, and flags win over all
"""


def groups(arguments: Sequence[str]) -> list[KeyGroup]:
    """Groups of the command's keys, for `--help`."""
    stages = [file_group(f"Of `{each}`", f"{each}.yaml", prefix=f"--{each}.") for each in STAGES]
    return [KeyGroup("Of the command", FLAGS), *run_groups(()), *stages]


def run_ablate(arguments: Sequence[str]) -> int:
    """Run `ablate masks --dataset=X --key=value ...`; returns the exit status.

    Raises:
        InputError: an argument cannot be used.
    """
    from recbole_qbert.experiments.ablation import ABLATIONS, AblationRequest, ablate

    name, flags = (arguments[0], arguments[1:]) if arguments else ("", ())
    if name not in ABLATIONS:
        raise InputError(f"ablate: {name!r} is none of {', '.join(ABLATIONS)}")
    given = parse_settings(flags)
    dataset = given.pop("dataset", "")
    if not dataset:
        raise InputError("--dataset=... is needed")
    seeds = split_files(given.pop("seeds", "2026"))
    if not seeds or not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds={','.join(seeds)}: give different whole numbers")
    max_concurrent = whole_number("max_concurrent", given.pop("max_concurrent", 1))
    stages = {
        stage: {
            key.partition(".")[2]: given.pop(key)
            for key in list(given)
            if key.startswith(f"{stage}.")
        }
        for stage in STAGES
    }
    request = AblationRequest(
        name=name,
        dataset=dataset,
        seeds=[int(seed) for seed in seeds],
        sources=split_files(given.pop("sources", "")),
        files=split_files(given.pop("config_files", "")),
        settings=dict(given),
        ids=stages["tokenize"],
        pretraining=stages["pretrain"],
        max_concurrent=max_concurrent,
    )
    ablate(request, wide_console())
    return 0
