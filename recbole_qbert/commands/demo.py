"""`recbole-qbert demo` and `doctor`: first steps with a new installation."""

from __future__ import annotations

from types import SimpleNamespace

from recbole_qbert.commands.command import Command
from recbole_qbert.common.output import new_console


def _demo(options: SimpleNamespace) -> int:
    from recbole_qbert.experiments.demo import run_demo

    run_demo(options.folder, new_console(), options.posters)
    return 0


DEMO = Command(
    "demo",
    "Run all steps on ml-100k, which RecBole ships: from embeddings to a comparison of models.",
    _demo,
)


def _doctor(options: SimpleNamespace) -> int:
    from recbole_qbert.commands.doctor import main

    return main()


DOCTOR = Command(
    "doctor", "Check this installation, and name a remedy for each failed check.", _doctor
)
