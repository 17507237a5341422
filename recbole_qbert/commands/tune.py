"""`recbole-qbert tune`: searches hyper-parameters with Ray Tune."""

from __future__ import annotations

from types import SimpleNamespace

from recbole_qbert.commands.command import Command
from recbole_qbert.commands.keys import file_group
from recbole_qbert.common.output import new_console


def _tune(options: SimpleNamespace) -> int:
    from recbole_qbert.experiments.tune.settings import make_plan, read_request
    from recbole_qbert.experiments.tune.sweep import sweep

    plan = make_plan(read_request(options.file, options.settings))
    sweep(plan, new_console(), options.resume)
    return 0


TUNE = Command(
    "tune",
    "Search the hyper-parameters of a model on the validation part; test the best trial.",
    _tune,
    arguments=("FILE.yaml",),
    details="recbole-qbert tune sasrec --dataset=Games --trials=20",
    keys=lambda words: [
        file_group("Keys of the file; values of the demo", "tune", "demo.yaml", depth=0)
    ],
)
