"""A data set on disk, by name: what several data sets worked on together are called."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_qbert.common.errors import InputError


@dataclass(frozen=True)
class DatasetPaths:
    """One data set: its folder holds `<name>.item`, `<name>.inter`, `<name>.<modality>.npz`."""

    name: str
    folder: Path

    def file(self, suffix: str) -> Path:
        """`<folder>/<name>.<suffix>`."""
        return self.folder / f"{self.name}.{suffix}"

    def embedding_tables(self) -> dict[str, Path]:
        """`<folder>/<name>.<modality>.npz`, by modality."""
        prefix = f"{self.name}."
        found = sorted(self.folder.glob(f"{glob.escape(prefix)}*.npz"))
        return {path.name[len(prefix) : -len(".npz")]: path for path in found}


def find_domain(name: str, data_path: str | Path) -> DatasetPaths:
    """The data set `name` below `data_path`.

    Raises:
        InputError: there is no such folder.
    """
    folder = Path(data_path) / name
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; data_path must name the folder that holds it")
    return DatasetPaths(name, folder)


def default_folder(data_path: Path, names: Sequence[str], output: str = "semid") -> Path:
    """`<data_path>/<A>/tokenizer`, or `<data_path>/<A+B>.tokenizer` for several domains.

    One that writes `<A>.x.semid` has a folder of its own, `tokenizer-x`.
    """
    own = output.removesuffix("semid").removesuffix(".")
    name = f"tokenizer-{own}" if own else "tokenizer"
    if len(names) == 1:
        return data_path / names[0] / name
    return data_path / ("+".join(sorted(names)) + f".{name}")
