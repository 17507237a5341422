"""Files of a data set that another preparation or split would replace or outdate."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import read_json, sidecar_path
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.domain import PARTS, DatasetPaths

CONFIG = """# Settings to read the split of {name}: --config_files=<this file>
benchmark_filename: [train, valid, test]  # (list) <dataset>.<part>.inter
alias_of_item_id: [item_id_list]  # (list) histories and targets share one numbering
load_col:                         # (dict) columns that are read
  inter: [user_id, item_id_list, item_id]
"""
_WRITTEN = ("inter", "item", "user", "rejected")


def check_target(domain: DatasetPaths, overwrite: bool) -> None:
    """Check that a new data set replaces or outdates nothing without `overwrite`.

    Raises:
        InputError: such a file exists; or, even with `overwrite`, the file that has the name of the
            sidecar is none.
    """
    sidecar = sidecar_path(domain.file("inter"))
    if sidecar.is_file() and _listed(sidecar) is None:
        raise InputError(
            f"{sidecar}: has the name of the sidecar, but is another file; move it, or choose "
            "another name for the data set"
        )
    written = [path for path in map(domain.file, _WRITTEN) if path.exists()]
    _refuse([*written, *outdated(domain)], overwrite, "or choose another name")


def outdated(domain: DatasetPaths) -> list[Path]:
    """Return existing files that were made from the data set: vectors, semantic IDs, splits.

    Split files that `prepare split` did not make are left out.
    """
    others = sorted(domain.folder.glob(f"{glob.escape(domain.name)}.*.semid"))
    tables = [domain.file("semid"), *others, *domain.embedding_tables().values()]
    found = [path for table in tables for path in (table, sidecar_path(table)) if path.exists()]
    return [*found, *_made_split(domain)]


def remove_outdated(domain: DatasetPaths) -> list[str]:
    """Remove the files of `outdated`; return lines for the user, also on split files that stay."""
    removed = outdated(domain)
    for path in removed:
        path.unlink()
    lines = []
    if removed:
        lines.append(
            f"removed, because they were made from the data set before: {_names(removed)}; make "
            "again those that you need (embed, tokenize, prepare split)"
        )
    kept = [path for path in split_files(domain) if path.exists()]
    if kept:
        lines.append(
            f"Warning: {_names(kept)} may be of the data set before; they are kept, because "
            "prepare split did not make them so"
        )
    return lines


def split_files(domain: DatasetPaths) -> list[Path]:
    """Return the paths that `prepare split` writes."""
    return [domain.file(f"{part}.inter") for part in PARTS] + [
        domain.file("split.yaml"), domain.file("split.json"),
    ]  # fmt: skip


def check_split(domain: DatasetPaths, sources: Sequence[Path], overwrite: bool) -> None:
    """Check that a split replaces none of its sources, and without `overwrite` only a split.

    Raises:
        InputError: it would replace another file.
    """
    found = [path for path in split_files(domain) if path.exists()]
    for path in sources:
        if any(path.exists() and path.samefile(output) for output in found):
            raise InputError(
                f"--parts: {path} would be replaced by the split; rename it, for example to "
                f"my_{path.name}"
            )
    made = _made_split(domain)
    _refuse([path for path in found if path not in made], overwrite, "or move them")


def _made_split(domain: DatasetPaths) -> list[Path]:
    """Return the existing files of `split_files` that are as `prepare split` wrote them."""
    *parts, config, record = split_files(domain)
    digests = _listed(record)
    if digests is None:
        return []
    made = [
        part for part in parts if part.is_file() and digests.get(part.name) == sha256_file(part)
    ]
    if config.is_file() and config.read_bytes() == CONFIG.format(name=domain.name).encode():
        made.append(config)
    return [*made, record]


def _listed(sidecar: Path) -> dict[str, str] | None:
    """Return the hashes of the files that a sidecar lists; None if it is no sidecar."""
    try:
        files = read_json(sidecar).get("files") if sidecar.is_file() else None
    except InputError:  # no JSON object
        return None
    return files if isinstance(files, dict) else None


def _refuse(paths: Sequence[Path], overwrite: bool, otherwise: str) -> None:
    if paths and not overwrite:
        exist = "exists; --overwrite replaces or removes it"
        if len(paths) > 1:
            exist = "exist; --overwrite replaces or removes them"
        raise InputError(f"{paths[0].parent}: {_names(paths)} {exist}, {otherwise}")


def _names(paths: Iterable[Path]) -> str:
    return preview([path.name for path in paths], 20)
