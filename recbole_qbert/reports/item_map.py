"""The report's section of item vectors: a 2-D map, and the depths and losses of stage 1."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json
from recbole_qbert.common.nearest import unit_rows
from recbole_qbert.common.output import counted
from recbole_qbert.data.domain import DatasetPaths
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
from recbole_qbert.reports.inspection.neighbors import Space, open_space
from recbole_qbert.reports.page import Block, ReportSection
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
    """Results of stage 1 for the n items of a data set."""

    items: list[str]  # raw item tokens, n
    fused: np.ndarray  # fused vectors, float32 [n, D]
    depths: list[int]  # items that stop after each block, S numbers
    history: list[dict[str, float]]  # loss terms of each epoch, name -> value
    gate: str  # 'dynamic' or 'fixed'


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
    space = _space(catalog, domain, stage)
    blocks = []
    if space is not None and len(space.rows) > 2:
        how = "t-SNE" if method == TSNE_METHOD else "The first two principal components"
        line = (
            f"{how} of the item vectors. Items that are close on the map tend to have similar "
            "vectors; the axes have no meaning."
        )
        chart = map_chart(catalog, space, method)
        blocks += [Block("paragraphs", [line]), Block("charts", [chart])]
    command = f"recbole-qbert tokenize --dataset={domain.name}"
    source = "embedding tables of the data set; its IDs were made without stage 1"
    if stage is not None:
        source = f"{tokenizer.name}/stage1.safetensors"
        command += " --streams=fused"
        charts = [chart for chart in (depth_chart(stage), loss_chart(stage)) if chart]
        blocks += [Block("heading", "Stage 1"), Block("charts", charts)]
    if not blocks:
        return None
    return ReportSection("space", "Item vectors", tuple(blocks), source, command)


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


def _space(catalog: Catalog, domain: DatasetPaths, stage: Stage1 | None) -> Space | None:
    """Fused vectors, or the concatenated embeddings of the items that are in all tables."""
    if stage is not None:
        known = {item: row for row, item in enumerate(catalog.items)}
        places = [place for place, item in enumerate(stage.items) if item in known]
        rows = np.array([known[stage.items[place]] for place in places], dtype=np.int64)
        return Space("fused vectors of stage 1", rows, stage.fused[places])
    paths = domain.embedding_tables()
    spaces = [open_space(name, path, catalog) for name, path in paths.items()]
    if not spaces:
        return None
    rows = spaces[0].rows
    for space in spaces[1:]:
        rows = np.intersect1d(rows, space.rows)
    blocks = [space.vectors[np.searchsorted(space.rows, rows)] for space in spaces]
    return Space(f"embeddings {' + '.join(paths)}", rows, np.concatenate(blocks, axis=1))


def project(vectors: np.ndarray, method: str) -> np.ndarray:
    """Project vectors [n, D] to two dimensions, float64 [n, 2]; deterministic.

    Raises:
        InputError: the vectors have values that are not finite.
    """
    if not np.isfinite(vectors).all():
        raise InputError("the item vectors have values that are not finite; tokenize again")
    unit = unit_rows(vectors.astype(np.float32))
    n, width = unit.shape
    if method == PCA_METHOD or n < 5:
        points = PCA(min(2, n, width), random_state=SEED).fit_transform(unit)
        return np.pad(points.astype(np.float64), ((0, 0), (0, 2 - points.shape[1])))
    reduced = PCA(min(_REDUCED, n, width), random_state=SEED).fit_transform(unit)
    start = "pca" if reduced.shape[1] > 1 else "random"
    tsne = TSNE(2, init=start, perplexity=min(30.0, (n - 1) / 3), random_state=SEED)
    return np.asarray(tsne.fit_transform(reduced), dtype=np.float64)


def map_chart(catalog: Catalog, space: Space, method: str) -> Chart:
    """Make the map; large catalogs are sampled to `MOST_ITEMS` items."""
    n = len(space.rows)
    places, sample = np.arange(n), ""
    if n > MOST_ITEMS:
        places = np.sort(np.random.default_rng(SEED).choice(n, MOST_ITEMS, replace=False))
        sample = f", {MOST_ITEMS:,} of {n:,} items"
    points = project(space.vectors[places], method).round(3)
    rows = space.rows[places].tolist()
    if catalog.categories is None:
        labels, what = [catalog.codes_text(row, 0, 1) for row in rows], "first code"
    else:
        labels, what = [catalog.categories[row] for row in rows], catalog.category_label
    common = [name for name, _ in Counter(labels).most_common(MOST_GROUPS) if name]
    groups: dict[str, list[int]] = {name: [] for name in ["other", *common]}
    for place, label in enumerate(labels):
        groups[label if label in groups else "other"].append(place)
    colors = dict(zip(common, group_colors(len(common)), strict=True))
    return Chart(
        key=slug("map", method),
        title=f"{catalog.name}: {space.name}{sample}, colored by {what}",
        kind=MAP,
        series=tuple(
            Series(
                name=f"{name} ({len(members):,})",
                color=colors.get(name, REST),
                x=tuple(points[members, 0].tolist()),
                y=tuple(points[members, 1].tolist()),
                texts=tuple(f"{_title(catalog, rows[one])}\n{labels[one]}" for one in members),
                line=False,
            )
            for name, members in groups.items()
            if members
        ),
    )


def _title(catalog: Catalog, row: int) -> str:
    title = catalog.title(row)
    return title if len(title) <= _TITLE else f"{title[: _TITLE - 3]}..."


def depth_chart(stage: Stage1) -> Chart:
    """Chart of the number of items that stop after each block."""
    total = max(1, sum(stage.depths))
    texts = tuple(
        f"after block {depth}: {counted(count, 'item')}, {count / total:.1%}"
        for depth, count in enumerate(stage.depths, start=1)
    )
    names = tuple(str(depth) for depth in range(1, len(stage.depths) + 1))
    counts = tuple(map(float, stage.depths))
    return Chart(
        key="stage1-depth",
        title=f"Items by the block after which they stop ({stage.gate} gate)",
        kind=COLUMNS,
        series=(Series("items", group_colors(1)[0], names, counts, texts=texts),),
        x_title="depth",
        y_title="items",
    )


def loss_chart(stage: Stage1) -> Chart | None:
    """Chart of all loss terms over the epochs; None for fewer than two epochs."""
    if len(stage.history) < 2:
        return None
    names = [name for name in stage.history[0] if name != "total"]
    epochs = tuple(range(1, len(stage.history) + 1))
    series = []
    for name, color in zip(names, group_colors(len(names)), strict=True):
        values = tuple(row[name] for row in stage.history)
        texts = tuple(
            f"{name}, epoch {epoch}: {value:.4f}"
            for epoch, value in zip(epochs, values, strict=True)
        )
        series.append(Series(name, color, epochs, values, texts=texts, marker=False))
    return Chart(
        key="stage1-loss",
        title="Weighted loss terms of stage 1",
        kind=CURVES,
        series=tuple(series),
        x_title="epochs",
        y_title="loss",
    )
