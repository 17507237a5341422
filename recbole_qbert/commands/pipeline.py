"""`recbole-qbert pipeline`: from raw files to tables, as one YAML declares."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_qbert.commands.run import wide_console
from recbole_qbert.commands.settings import file_and_settings
from recbole_qbert.errors import InputError

HELP = (
    "all steps from raw files to tables, each run only where something changed: "
    "FILE.yaml [--dry_run=True] [--variable=value ...]; see properties/pipeline/"
)


def run_pipeline(arguments: Sequence[str]) -> int:
    """`pipeline FILE.yaml --key=value ...`"""
    file, given = file_and_settings("pipeline", arguments)
    dry = given.pop("dry_run", "False").lower()
    if dry not in ("true", "false"):
        raise InputError(f"--dry_run={dry}: write True or False")

    from recbole_qbert.pipeline.plan import read_pipeline
    from recbole_qbert.pipeline.runner import dry_run, run

    pipeline = read_pipeline(file, given)
    (dry_run if dry == "true" else run)(pipeline, wide_console())
    return 0
