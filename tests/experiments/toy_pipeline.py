"""Fast steps for pipelines: a script that copies its input and notes that it ran."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import yaml
from rich.console import Console

from recbole_qbert.experiments.pipeline.plan import Pipeline, read_pipeline

SCRIPT = """
    import argparse, os, pathlib, signal, sys, time
    parser = argparse.ArgumentParser()
    parser.add_argument("--name")
    parser.add_argument("--read")
    parser.add_argument("--write")
    parser.add_argument("--add", default="")
    parser.add_argument("--fixed", action="store_true")
    options = parser.parse_args()
    with open("ran.txt", "a") as log:
        log.write(options.name + "\\n")
    wanted = pathlib.Path(f"kill-{options.name}")
    if wanted.exists():
        wanted.unlink()
        os.kill(os.getppid(), signal.SIGKILL)
        sys.exit(9)
    if pathlib.Path(f"fail-{options.name}").exists():
        sys.exit(3)
    wait = pathlib.Path(f"wait-{options.name}")
    while wait.exists():
        time.sleep(0.02)
    text = "same" if options.fixed else pathlib.Path(options.read).read_text() + options.add
    part = pathlib.Path(options.write + ".part")
    part.write_text(text)
    if not pathlib.Path(f"lazy-{options.name}").exists():
        part.rename(options.write)
"""


def write_pipeline(folder: Path, **changes: object) -> Path:
    """Three steps, a -> b -> c, each reading what the one before wrote, and a file to start from.

    `changes` replace keys of the step that they name.
    """
    (folder / "step.py").write_text(dedent(SCRIPT))
    (folder / "raw.txt").write_text("raw")
    steps = []
    for name, read in (("a", "raw.txt"), ("b", "a.txt"), ("c", "b.txt")):
        step = {
            "name": name,
            "script": "step.py",
            "settings": {
                "name": name, "read": read, "write": f"{name}.txt", "add": f"${{{name}}}",
            },
            "inputs": [read],
            "outputs": [f"{name}.txt"],
        }  # fmt: skip
        given = changes.get(name, {})
        assert isinstance(given, dict)
        step["settings"] = {**step["settings"], **given.pop("settings", {})}  # type: ignore[dict-item]
        steps.append({**step, **given})
    content = {
        "variables": {"a": "+a", "b": "+b", "c": "+c"},
        "state": "state/here.json",
        "steps": steps,
    }
    path = folder / "three.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def planned(path: Path, **flags: str) -> Pipeline:
    return read_pipeline(path, flags)


def quiet() -> Console:
    return Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115


def ran(folder: Path) -> str:
    """The names of the steps that ran, in order."""
    path = folder / "ran.txt"
    return "".join(path.read_text().split()) if path.exists() else ""
