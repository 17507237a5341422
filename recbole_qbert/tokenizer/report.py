"""Text report of a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from recbole_qbert.common.errors import preview
from recbole_qbert.common.output import counted
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
        if stage["depth_with"]:
            yield "  rank correlation of depth with: " + _numbers(stage["depth_with"])
        yield "  share of the 10 nearest neighbors kept: " + _numbers(stage["neighbors"])
    if "bbq" in report:
        yield "bbq: " + _numbers(report["bbq"])
    level = 0
    for stream in tokenizer.quantizers:
        stage = report[f"stage 2, {stream}"]
        same = counted(stage["collisions"], "item repeats", "items repeat")
        yield f"stage 2, {stream}: {same} another item's codes in the levels of this stream"
        for row in stage["levels"]:
            yield (
                f"  level {level_letters(level)}: {row['used']} of {row['codebook_size']} codes "
                f"used, perplexity {row['perplexity']:.1f}, "
                f"relative error {row['relative_error']:.4f}, "
                f"{row['shared']:.0%} of items share their code, "
                f"mean of {row['mean_group']:.1f} items per code"
            )
            level += 1
        if stage["without_vector"]:
            without = counted(stage["without_vector"], "item has", "items have")
            yield f"  {without} no vector in this stream and got the codes of the mean vector"
    if tokenizer.n_spare:
        last = tokenizer.codebook_sizes[-1]
        extra = counted(tokenizer.n_spare, "extra level")
        yield f"{extra} of {counted(last, 'code')} to separate items with equal codes"
    unique = report["unique"]
    if "moved" in unique:
        moves = ", ".join(
            f"{level_letters(place)} {n:,}" for place, n in enumerate(unique["moved_per_level"])
        )
        same = counted(unique["collisions"], "item repeats", "items repeat")
        moved = counted(unique["moved"], "item")
        yield f"whole IDs: {same} another item's codes in all levels"
        yield f"  {moved} moved to free codes (by level: {moves})"
    elif added := unique["extra_level"]:
        codes = counted(added["codebook_size"], "code")
        yield f"whole IDs: an extra level of {codes} separates items of equal codes"
    else:
        yield "whole IDs: no two items had equal codes, so no extra level was needed"
    if tokenizer.without_content:
        yield without_content_line(tokenizer.without_content)
    items = counted(len(tokenizer.keys), "item")
    levels = counted(len(tokenizer.codebook_sizes), "level")
    yield f"{items}, {levels}, all IDs unique"


def without_content_line(keys: Sequence[tuple[str, str]]) -> str:
    """Format the number and the names of the items without content."""
    names = preview([quote(item) for _, item in keys])
    items = counted(len(keys), "item has", "items have")
    return f"{items} no content vector: {names}"


def _numbers(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
