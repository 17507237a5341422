"""`recbole-qbert complexity`: parameters, multiply-accumulates and latency of models."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from recbole_qbert.commands.command import Command
from recbole_qbert.commands.keys import run_groups
from recbole_qbert.commands.run import models_and_dataset
from recbole_qbert.common.errors import one_of
from recbole_qbert.common.output import new_console


def _complexity(options: SimpleNamespace) -> int:
    settings = options.settings
    file, form = settings.pop("json", ""), settings.pop("format", "table")
    one_of("--format", form, ("table", "markdown", "latex"))
    if file:
        from recbole_qbert.common.files import check_output_file

        check_output_file("json", Path(file))
    models, dataset, files = models_and_dataset(settings)

    import torch

    from recbole_qbert.common.files import write_json
    from recbole_qbert.common.process import flush_denormals, machine, quiet_recbole, versions
    from recbole_qbert.config.build import build_config
    from recbole_qbert.experiments.benchmark.outputs import print_table
    from recbole_qbert.experiments.complexity import complexity_table, measure
    from recbole_qbert.experiments.splits import load_splits

    console = new_console()
    configs = [build_config(model, dataset, files, settings) for model in models]
    flush_denormals()
    quiet_recbole()
    where = {"machine": machine(), "threads": torch.get_num_threads(), "versions": versions()}
    found = []
    for config in configs:
        splits = load_splits(config)
        found.append(measure(config, splits.train._dataset, splits.test))
    print_table(complexity_table(found), console, form)
    console.print(
        f"{where['machine']}, threads: {where['threads']}, torch {torch.__version__}",
        highlight=False,
    )
    if file:
        write_json(file, where | {"models": [asdict(one) for one in found]})
    return 0


COMPLEXITY = Command(
    "complexity",
    "Measure parameters, multiply-accumulates and latency of models without training "
    "(Table 6 of the paper).",
    _complexity,
    details="recbole-qbert complexity --model=QBERT4Rec --dataset=ml-100k --data_path=dataset",
    keys=run_groups,
    open_ended=True,
)
