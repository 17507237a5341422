"""The report's section of item vectors: a 2-D map, and the depths and losses of stage 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json
from recbole_qbert.common.nearest import unit_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.reports import webpage
from recbole_qbert.reports.charts import (
    COLUMNS,
    CURVES,
    MAP,
    REST,
    Chart,
    Series,
    group_colors,
    slug,
)
from recbole_qbert.reports.inspection.catalog import Catalog
from recbole_qbert.reports.inspection.neighbors import open_space
from recbole_qbert.reports.sections import Block, ReportSection
from recbole_qbert.tokenizer.artifact import MANIFEST
from recbole_qbert.training.checkpoint import load_checkpoint

PCA_METHOD, TSNE_METHOD = "pca", "tsne"
METHODS = (TSNE_METHOD, PCA_METHOD)
SEED = 2026
MOST_ITEMS = 3000  # on a map: t-SNE of more takes minutes, and the page becomes slow
MOST_GROUPS = 9  # groups with their own color
_REDUCED = 50  # input dimensions of t-SNE
_TITLE = 70
REPORTED = "stage 1"  # key of a tokenizer's report if its IDs were made with stage 1


class Stage1(NamedTuple):
    """Results of stage 1 for the n items of a data set.

    Attributes:
        items: raw item tokens, n.
        fused: fused vectors, float32 [n, D].
        depths: number of items that stop after each block, S numbers.
        history: loss terms of each epoch, name -> value.
        gate: 'dynamic' or 'fixed'.
    """

    items: list[str]
    fused: np.ndarray
    depths: list[int]
    history: list[dict[str, float]]
    gate: str


class Vectors(NamedTuple):
    """Vectors of items: rows in the catalog, int64 [n], and values, float32 [n, D]."""

    name: str
    rows: np.ndarray
    values: np.ndarray


def space_section(
    catalog: Catalog, domain: DatasetPaths, tokenizer: Path, method: str = TSNE_METHOD
) -> ReportSection | None:
    """Make the section: a map of the fused vectors, or of the embeddings if there is no stage 1.

    Args:
        catalog: catalog of the data set's semantic IDs. Its categories color the map; without
            categories, the first codes do.
        domain: paths of the data set and its embeddings.
        tokenizer: folder of the tokenizer.
        method: one of `METHODS`.

    Returns:
        The section; None if there are no vectors.

    Raises:
        InputError: a file cannot be used.
    """
    stage = read_stage1(tokenizer, domain.name)
    vectors = _vectors(catalog, domain, stage)
    blocks: list[Block] = []
    if vectors is not None and len(vectors.rows) > 2:
        blocks += [
            webpage.paragraphs([_map_text(method)]),
            (map_chart(catalog, vectors, method),),
        ]
    if stage is not None:
        charts = [chart for chart in (depth_chart(stage), loss_chart(stage)) if chart]
        if charts:
            blocks += ["<h2>Stage 1</h2>", tuple(charts)]
    if not blocks:
        return None
    source = f"{tokenizer.name}/stage1.safetensors" if stage else "embedding tables"
    again = f"recbole-qbert tokenize --dataset={domain.name}"
    if stage is None:
        source += " of the data set, as its IDs were made without stage 1"
    else:
        again += " --streams=fused"
    return ReportSection("space", "Item vectors", source, again, tuple(blocks))


def _map_text(method: str) -> str:
    how = "t-SNE" if method == TSNE_METHOD else "The first two principal components"
    return (
        f"{how} of the items' vectors: near means alike, as far as two dimensions can say; "
        "the axes have no meaning."
    )


def read_stage1(folder: Path, dataset: str) -> Stage1 | None:
    """Read the results of stage 1 for the items of a data set.

    Returns:
        The results; None if the tokenizer is not complete, was made without stage 1, or has no
        items of the data set.

    Raises:
        InputError: a file is not a checkpoint.
    """
    manifest, path = folder / MANIFEST, folder / "stage1.safetensors"
    # The file of stage 1 alone proves nothing: it may be left over from an earlier tokenizer.
    if not manifest.is_file() or REPORTED not in read_json(manifest).get("report", {}):
        return None
    content: Any = load_checkpoint(path)
    keys: Any = load_checkpoint(folder / "ids.safetensors")["keys"]
    # Items that were added later follow those of stage 1.
    own = [row for row, key in enumerate(keys[: len(content["fused"])]) if key[0] == dataset]
    if not own:
        return None
    return Stage1(
        items=[keys[row][1] for row in own],
        fused=np.asarray(content["fused"])[own],
        depths=[int(count) for count in content["report"]["depths"]],
        history=list(content["state"]["history"]),
        gate=str(content["state"]["settings"]["gate"]),
    )


def _vectors(catalog: Catalog, domain: DatasetPaths, stage: Stage1 | None) -> Vectors | None:
    """Fused vectors, or the concatenated embeddings of the items that are in all tables."""
    if stage is not None:
        known = {item: row for row, item in enumerate(catalog.items)}
        places = [place for place, item in enumerate(stage.items) if item in known]
        rows = np.array([known[stage.items[place]] for place in places], dtype=np.int64)
        return Vectors("fused vectors of stage 1", rows, stage.fused[places])
    paths = domain.embedding_tables()
    spaces = [open_space(name, path, catalog) for name, path in paths.items()]
    if not spaces:
        return None
    rows = spaces[0].rows
    for space in spaces[1:]:
        rows = np.intersect1d(rows, space.rows)
    blocks = [space.vectors[np.searchsorted(space.rows, rows)] for space in spaces]
    return Vectors(f"embeddings {' + '.join(paths)}", rows, np.concatenate(blocks, axis=1))


def project(vectors: np.ndarray, method: str) -> np.ndarray:
    """Project vectors [n, D] to two dimensions, float64 [n, 2]; deterministic.

    Raises:
        InputError: the vectors have values that are not finite.
    """
    if not np.isfinite(vectors).all():
        raise InputError("the item vectors hold values that are no numbers; tokenize again")
    unit = unit_rows(vectors.astype(np.float32))
    n, width = unit.shape
    if method == PCA_METHOD or n < 5:
        return _padded(PCA(min(2, n, width), random_state=SEED).fit_transform(unit))
    reduced = PCA(min(_REDUCED, n, width), random_state=SEED).fit_transform(unit)
    start = "pca" if reduced.shape[1] > 1 else "random"
    perplexity = min(30.0, (n - 1) / 3)
    tsne = TSNE(2, init=start, perplexity=perplexity, random_state=SEED)
    return np.asarray(tsne.fit_transform(reduced), dtype=np.float64)


def _padded(points: np.ndarray) -> np.ndarray:
    return np.pad(points.astype(np.float64), ((0, 0), (0, 2 - points.shape[1])))


def map_chart(catalog: Catalog, vectors: Vectors, method: str) -> Chart:
    """Make the map; large catalogs are sampled to `MOST_ITEMS` items."""
    places = np.arange(len(vectors.rows))
    if len(places) > MOST_ITEMS:
        drawn = np.random.default_rng(SEED).choice(len(places), MOST_ITEMS, replace=False)
        places = np.sort(drawn)
    points = project(vectors.values[places], method)
    rows = vectors.rows[places]
    labels, what = _labels(catalog, rows)
    common = [name for name, _ in Counter(labels).most_common(MOST_GROUPS) if name]
    groups: dict[str, list[int]] = {name: [] for name in ["other", *common]}
    for place, label in enumerate(labels):
        groups[label if label in groups else "other"].append(place)
    colors = dict(zip(common, group_colors(len(common)), strict=True))
    sample = f", {len(places):,} of {len(vectors.rows):,} items" * (len(places) < len(vectors.rows))
    return Chart(
        key=slug("map", method),
        title=f"{catalog.name}: {vectors.name}{sample}, colored by {what}",
        kind=MAP,
        series=tuple(
            Series(
                name=f"{name} ({len(members):,})",
                color=colors.get(name, REST),
                x=tuple(points[members, 0].round(3).tolist()),
                y=tuple(points[members, 1].round(3).tolist()),
                texts=tuple(_hover(catalog, int(rows[one]), labels[one]) for one in members),
                line=False,
            )
            for name, members in groups.items()
            if members
        ),
    )


def _labels(catalog: Catalog, rows: np.ndarray) -> tuple[list[str], str]:
    """Label of each row (its category, else its first code), and the name of the labels."""
    if catalog.categories is None:
        return [catalog.codes_text(int(row), 0, 1) for row in rows], "first code"
    return [catalog.categories[row] for row in rows], catalog.category_label


def _hover(catalog: Catalog, row: int, label: str) -> str:
    title = catalog.title(row)
    short = title if len(title) <= _TITLE else f"{title[: _TITLE - 3]}..."
    return f"{short}\n{label}"


def depth_chart(stage: Stage1) -> Chart:
    """Chart of the number of items that stop after each block."""
    total = max(1, sum(stage.depths))
    return Chart(
        key="stage1-depth",
        title=f"Items by the block after which they stop ({stage.gate} gate)",
        kind=COLUMNS,
        series=(
            Series(
                name="items",
                color=group_colors(1)[0],
                x=tuple(str(depth) for depth in range(1, len(stage.depths) + 1)),
                y=tuple(float(count) for count in stage.depths),
                texts=tuple(
                    f"after block {depth}: {count:,} items, {count / total:.1%}"
                    for depth, count in enumerate(stage.depths, start=1)
                ),
            ),
        ),
        x_title="depth",
        y_title="items",
    )


def loss_chart(stage: Stage1) -> Chart | None:
    """Chart of all loss terms over the epochs; None for fewer than two epochs."""
    if len(stage.history) < 2:
        return None
    names: Sequence[str] = [name for name in stage.history[0] if name != "total"]
    colors: Mapping[str, str] = dict(zip(names, group_colors(len(names)), strict=True))
    return Chart(
        key="stage1-loss",
        title="Terms of stage 1's loss, weighted",
        kind=CURVES,
        series=tuple(
            Series(
                name=name,
                color=colors[name],
                x=tuple(range(1, len(stage.history) + 1)),
                y=tuple(row[name] for row in stage.history),
                texts=tuple(
                    f"{name}, epoch {epoch}: {row[name]:.4f}"
                    for epoch, row in enumerate(stage.history, start=1)
                ),
                marker=False,
            )
            for name in names
        ),
        x_title="epochs",
        y_title="loss",
    )
