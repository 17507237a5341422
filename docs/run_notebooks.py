"""Run the notebooks in docs/notebooks/ in a temporary folder and store their outputs in them.

python docs/run_notebooks.py
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import nbclient
import nbformat

# Output without colors and moving bars, as wide as the tables need.
PLAIN = {"NO_COLOR": "1", "COLUMNS": "110", "TQDM_DISABLE": "1"}
# Bold text and cursor movements, and halves of characters where a block of output ends.
UNPRINTED = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r(?!\n)|\ufffd")

if __name__ == "__main__":
    os.environ |= PLAIN
    for path in sorted((Path(__file__).parent / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            nbclient.NotebookClient(notebook, timeout=900).execute(cwd=folder)
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of the run
            for output in cell.get("outputs", ()):
                if "text" in output:
                    output["text"] = UNPRINTED.sub("", output["text"])
        nbformat.write(notebook, path)
        print(f"{path}: written")
