"""`recbole-qbert pretrain`: trains one model on several data sets, for later fine-tuning."""

from __future__ import annotations

from types import SimpleNamespace

from recbole_qbert.commands.command import Command, different_names
from recbole_qbert.commands.keys import file_group, run_groups
from recbole_qbert.commands.run import in_processes
from recbole_qbert.common.output import new_console
from recbole_qbert.common.yaml_files import split_names


def _pretrain(options: SimpleNamespace) -> int:
    datasets = different_names("datasets", options.datasets)
    files = split_names(options.config_files or "")
    flags = {"datasets": ",".join(datasets), "config_files": options.config_files}
    flags |= {"target": options.target, "output": options.output, "retrain": options.retrain}
    words = [f"--{key}={value}" for key, value in flags.items() if value]
    words += [f"--{key}={value}" for key, value in options.settings.items()]
    status = in_processes(["pretrain", *words], options.nproc, files)
    if status is not None:
        return status
    from recbole_qbert.pretraining.fit import pretrain

    pretrain(
        datasets,
        files,
        options.settings,
        options.target,
        new_console(),
        retrain=options.retrain,
        output=options.output,
    )
    return 0


PRETRAIN = Command(
    "pretrain",
    "Pretrain one QBERT4Rec on several data sets, for fine-tuning with `run --pre_model_path`.",
    _pretrain,
    details="recbole-qbert pretrain --datasets=Pet,Cell,Tools --target=Instruments",
    keys=lambda words: [file_group("Keys of pretraining", "pretrain.yaml"), *run_groups()],
)
