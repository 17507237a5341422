"""Paths of a data set on disk, addressed by name."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_qbert.common.errors import InputError, did_you_mean_path

PARTS = ("train", "valid", "test")  # of a ready-made split, `<name>.<part>.inter`


@dataclass(frozen=True)
class DatasetPaths:
    """One data set. Its folder holds `<name>.item`, `<name>.inter`, `<name>.<modality>.npz`.

    Raises:
        InputError: the name is not that of one folder, so that files would lie elsewhere.
    """

    name: str
    folder: Path

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or self.name in ("", ".."):
            raise InputError(
                f"{self.name!r}: not a name of a data set; give a name without slashes, and its "
                "parent folder as data_path"
            )

    def file(self, suffix: str) -> Path:
        """Return `<folder>/<name>.<suffix>`."""
        return self.folder / f"{self.name}.{suffix}"

    def embedding_tables(self) -> dict[str, Path]:
        """Return the existing embedding tables `<folder>/<name>.<modality>.npz`, by modality."""
        prefix = f"{self.name}."
        found = sorted(self.folder.glob(f"{glob.escape(prefix)}*.npz"))
        return {path.name[len(prefix) : -len(".npz")]: path for path in found}


def find_domain(name: str, data_path: str | Path) -> DatasetPaths:
    """Return the data set `name` below `data_path`.

    Raises:
        InputError: there is no such folder.
    """
    folder = Path(data_path) / name
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; data_path must name the folder that holds it"
            f"{did_you_mean_path(folder)}"
        )
    return DatasetPaths(name, folder)


def default_folder(data_path: Path, names: Sequence[str], output: str = "semid") -> Path:
    """Return the tokenizer's default folder.

    It is `<data_path>/<A>/tokenizer` for one data set and `<data_path>/<A+B>.tokenizer` for
    several. If `output` is `x.semid`, which writes `<A>.x.semid`, it is called `tokenizer-x`.
    """
    own = output.removesuffix("semid").removesuffix(".")
    name = f"tokenizer-{own}" if own else "tokenizer"
    if len(names) == 1:
        return data_path / names[0] / name
    return data_path / ("+".join(sorted(names)) + f".{name}")
