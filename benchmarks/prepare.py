"""Time and memory of preparing a synthetic Amazon category, compared with a simple pandas script.

The raw files have the format of 2018, with gzip: reviews of about 500 characters, and one metadata
record per item. Items follow a power law, and the activity of users varies, so that the 5-core
keeps a part of them. A round is a new process that runs all steps. The pandas script reads whole
files into data frames (`pandas.read_json(lines=True)`), cleans with `apply` and filters with
`groupby().filter()`. It needs many times the memory of the files: choose a size that fits, or
`--sides=amazon.py`. It cannot read broken lines, so the files have some (one in 100,000) only
without it.
"""

from __future__ import annotations

import argparse
import gzip
import html
import importlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import Benchmark, Measure, Reading, of_quantities, peak_bytes, timed

CORE, CHUNK, DAYS = 5, 100_000, 7_000
TEXT = (
    "great guitar string sound the a of well made light &amp; <br />sturdy color price bought my "
    "son loves it would buy again not as described battery works cable short case fits"
)


def _write_inputs(options: argparse.Namespace) -> None:
    """Write the raw files, with broken lines unless pandas, which cannot read them, is a side."""
    write_raw(options.folder, options.reviews, options.items, broken="pandas" not in options.sides)
    for path in sorted(options.folder.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1e6:,.0f} MB")
    print()


def write_raw(folder: Path, n_reviews: int, n_items: int, broken: bool) -> None:
    """Write `raw.json.gz` and `meta_raw.json.gz`."""
    rng = np.random.default_rng(2026)
    n_users = max(1, n_reviews // 4)
    chances = np.cumsum(1 / np.arange(1, n_items + 1) ** 0.8)
    with gzip.open(folder / "raw.json.gz", "wb", compresslevel=1) as handle:
        for start in range(0, n_reviews, CHUNK):
            n = min(CHUNK, n_reviews - start)
            items = np.searchsorted(chances, rng.random(n) * chances[-1])
            users = (rng.exponential(0.15, n) * n_users).astype(np.int64) % n_users
            lines = joined(
                '{"overall": ', texts(rng.integers(1, 6, n)), '.0, "verified": true, "reviewTime": '
                '"02 28, 2014", "reviewerID": "A', texts(users), '", "asin": "B', texts(items),
                '", "style": {"Color:": " Red"}, "reviewerName": "J. Doe", "reviewText": "',
                sentences(rng, n, 60), '", "summary": "Great", "unixReviewTime": ',
                texts(86_400 * rng.integers(10_000, 10_000 + DAYS, n)), "}",
            ).to_pylist()  # fmt: skip
            if broken:
                lines[n // 2] = lines[n // 2][:40]
            handle.write("\n".join([*lines, ""]).encode())
    with gzip.open(folder / "meta_raw.json.gz", "wb", compresslevel=1) as handle:
        for start in range(0, n_items, CHUNK):
            n = min(CHUNK, n_items - start)
            numbers = texts(np.arange(start, start + n))
            lines = joined(
                '{"category": ["Musical Instruments", "Guitars"], "description": ["',
                sentences(rng, n, 60), '"], "title": "', sentences(rng, n, 10), '", "brand": "',
                sentences(rng, n, 1), '", "price": "$12.99", "asin": "B', numbers,
                '", "imageURL": [], "imageURLHighRes": ["https://x/', numbers, '.jpg"]}',
            ).to_pylist()  # fmt: skip
            handle.write("\n".join([*lines, ""]).encode())


def joined(*parts: str | pa.Array) -> pa.Array:
    """Concatenate the parts of each row."""
    return pc.binary_join_element_wise(*parts, "")


def texts(numbers: np.ndarray) -> pa.Array:
    """Convert numbers to text."""
    return pa.array(numbers).cast(pa.string())


def sentences(rng: np.random.Generator, n: int, length: int) -> pa.Array:
    """Draw n texts of about `length` words, from a thousand substrings of a long text."""
    row = " ".join(rng.choice(TEXT.split(), 10_000).tolist())
    starts = rng.integers(0, len(row) - 10 * length, 1000)
    cuts = pa.array([row[start : start + 8 * length] for start in starts.tolist()])
    return cuts.take(pa.array(rng.integers(1000, size=n)))


def _once(work: Callable[[Path], Reading], module: str) -> Callable[[argparse.Namespace], Measure]:
    """Create a side that runs the work in one round; its imports count as memory, not as time."""

    def side(options: argparse.Namespace) -> Measure:
        importlib.import_module(module)

        def measure(number: int) -> Reading:
            found: dict[str, float] = {}
            seconds, cpu_seconds = timed(lambda: found.update(work(options.folder)))
            peak = peak_bytes() / 2**30
            return {"seconds": seconds, "CPU seconds": cpu_seconds, "peak GiB": peak, **found}

        return measure

    return side


def _amazon(folder: Path) -> Reading:
    """Run `prepare_amazon` with its defaults, and text required."""
    from recbole_qbert.data.domain import DatasetPaths
    from recbole_qbert.datasets.amazon import Options, prepare_amazon

    made = prepare_amazon(
        DatasetPaths("made", Path(tempfile.mkdtemp(dir=folder)) / "made"), 2018,
        [folder / "raw.json.gz"], [folder / "meta_raw.json.gz"], Options(require=("text",)),
    )  # fmt: skip
    return {**made.final._asdict(), "rejected": sum(made.reasons.values())}


def _pandas(folder: Path) -> Reading:
    """Run the same steps with data frames."""
    import pandas as pd

    def clean(value: object) -> str:
        text = " ".join(value) if isinstance(value, list) else str(value)
        return " ".join(re.sub("<[^>]+>", " ", html.unescape(text)).split())

    reviews = pd.read_json(folder / "raw.json.gz", lines=True)
    items = pd.read_json(folder / "meta_raw.json.gz", lines=True)
    for column in ("title", "description", "brand"):
        items[column] = items[column].apply(clean)
    items = items[(items["title"] != "") | (items["description"] != "")].drop_duplicates("asin")
    reviews = reviews[reviews["asin"].isin(items["asin"])]
    reviews = reviews.sort_values("unixReviewTime").drop_duplicates(["reviewerID", "asin"])
    while True:
        n = len(reviews)
        for column in ("reviewerID", "asin"):
            reviews = reviews.groupby(column).filter(lambda rows: len(rows) >= CORE)
        if len(reviews) == n:
            break
    columns = ["reviewerID", "asin", "overall", "unixReviewTime"]
    reviews[columns].to_csv(folder / "naive.inter", sep="\t", index=False)
    items = items[items["asin"].isin(reviews["asin"])]
    items[["asin", "title", "brand", "description"]].to_csv(
        folder / "naive.item", sep="\t", index=False
    )
    return {
        "users": reviews["reviewerID"].nunique(),
        "items": len(items),
        "interactions": len(reviews),
    }


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reviews", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=10_000)


BENCHMARKS = {
    "prepare": Benchmark(
        sides={
            "pandas": _once(_pandas, "pandas"),
            "amazon.py": _once(_amazon, "recbole_qbert.datasets.amazon"),
        },
        pairs=[("amazon.py", "pandas")],
        ratios=of_quantities("seconds", "CPU seconds", "peak GiB"),
        add_options=_add_options,
        inputs=_write_inputs,
        fresh=True,
    )
}
