"""Text report of a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from recbole_qbert.common.errors import preview
from recbole_qbert.data.codec import level_letters, quote
from recbole_qbert.tokenizer.artifact import Tokenizer


def report_lines(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the lines of the report: stage 1, `bbq`, levels of each stream, collisions, moves."""
    report = tokenizer.report
    if "stage 1" in report:
        stage = report["stage 1"]
        yield "stage 1: " + _numbers(stage["loss"])
        depths = ", ".join(f"{n:,} at {depth}" for depth, n in enumerate(stage["depths"], 1))
        yield f"  items by depth (number of blocks): {depths}"
        yield "  share of the 10 nearest neighbors kept: " + _numbers(stage["neighbors"])
    if "bbq" in report:
        yield "bbq: " + _numbers(report["bbq"])
    level = 0
    for stream in tokenizer.quantizers:
        stage = report[f"stage 2, {stream}"]
        yield f"stage 2, {stream}: {stage['collisions']:,} collisions in its own levels"
        for row in stage["levels"]:
            yield (
                f"  level {level_letters(level)}: {row['used']} of {row['codebook_size']} codes "
                f"used, perplexity {row['perplexity']:.1f}, "
                f"relative error {row['relative_error']:.4f}, "
                f"{row['shared']:.0%} of items share their code, "
                f"{row['mean_group']:.1f} items a code"
            )
            level += 1
    if tokenizer.n_spare:
        last = tokenizer.codebook_sizes[-1]
        yield f"{tokenizer.n_spare} extra levels of {last} codes separate items with equal codes"
    unique = report["unique"]
    if "moved" in unique:
        moves = ", ".join(
            f"{level_letters(place)} {n:,}" for place, n in enumerate(unique["moved_per_level"])
        )
        yield (
            f"unique: {unique['collisions']:,} collisions before, {unique['moved']:,} items moved "
            f"(level: {moves})"
        )
    else:
        yield f"unique: extra level of {unique['extra_level_size'] or 0} codes"
    if tokenizer.without_content:
        yield without_content_line(tokenizer.without_content)
    yield f"{len(tokenizer.keys):,} items, {len(tokenizer.codebook_sizes)} levels, all unique"


def without_content_line(keys: Sequence[tuple[str, str]]) -> str:
    """Format the number and the names of the items without content."""
    names = preview([quote(item) for _, item in keys])
    return f"{len(keys):,} items without any content have the codes of the mean vector: {names}"


def _numbers(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
