"""The notebooks of the documentation run from the first cell to the last."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
from command_lines import REPOSITORY, check_line
from processes import COMMAND
from test_docs import words_of

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["recommendations", "semantic_ids"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_commands_are_valid(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and cell.source.startswith("!"):
            check_line(words_of(cell.source[1:].replace("\\\n", " ")))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder. Shell commands that fail stop the notebook."""
    program = tmp_path / "bin" / "recbole-qbert"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{COMMAND}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code" and "!" in cell.source:
            cell.source += "\nassert _exit_code == 0, 'the command failed'"
    client = nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3")
    client.execute(cwd=str(tmp_path))
    assert any(cell.get("outputs") for cell in notebook.cells)
