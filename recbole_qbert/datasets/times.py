"""Conversion of interaction times to seconds, and detection of implausible times.

Shapes: n rows.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.output import counted

SECONDS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}  # units per second
DATE = "date"  # ISO 8601, UTC if without a time zone
_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_FIRST_YEAR = 1990
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)
_ISO = re.compile(r"\d{4}-\d{1,2}(-\d{1,2}.*)?")
_DAY_FIRST = re.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}.*")


def as_numbers(column: pa.Array) -> pa.Array:
    """Convert a column of text or numbers to float64; invalid values become null."""
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        return column.cast(pa.float64(), safe=False)
    numbers = pd.to_numeric(column.to_pandas(), errors="coerce")
    return pa.array(numbers.astype(np.float64), from_pandas=True)


def seconds(column: pa.Array, unit: str) -> pa.Array:
    """Convert times to seconds since 1970, float64; invalid values become null.

    Args:
        column: numbers or texts in `unit`, or Arrow's timestamps or dates, with or without a zone.
        unit: one of `SECONDS`, or `DATE`.
    """
    kind = column.type
    if unit == DATE and not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        bare = pc.utf8_trim_whitespace(column.cast(pa.string())).to_pandas()
        dates = pd.to_datetime(bare, format="ISO8601", utc=True, errors="coerce")
        column = pa.array(dates.dt.tz_localize(None))
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("s" if pa.types.is_date32(kind) else "ms"))
    if pa.types.is_timestamp(column.type):
        return divided(column.cast(pa.int64()), SECONDS[column.type.unit])
    if not pa.types.is_floating(kind):
        with contextlib.suppress(pa.ArrowInvalid):  # a value is not a 64-bit integer
            return divided(column.cast(pa.int64()), SECONDS[unit])
    return pc.divide(as_numbers(column), float(SECONDS[unit]))


def divided(column: pa.Array, by: int) -> pa.Array:
    """Divide integers, rounded to the nearest float64.

    Converting to float64 first would lose digits, because float64 cannot represent all nanoseconds.
    """
    values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
    whole = values // by + ((values < 0) & (values % by != 0))  # rounded toward zero
    return pa.array(whole + np.fmod(values, by) / by, mask=np.asarray(column.is_null()))


def time_fault(text: str, unit: str) -> str:
    """Explain why a text is not a time of the unit."""
    text = text.strip()
    if unit != DATE:
        hint = "; it looks like a date: --time_unit=date" if _ISO.fullmatch(text) else ""
        return f"time is not a finite number{hint}"
    fault = "time is not an ISO 8601 date"
    if _NUMBER.fullmatch(text):
        likely, fitting = _likely_unit(np.array([float(text)]))
        if fitting:
            return f"{fault}; it looks like {_WORDS[likely]}: --time_unit={likely}"
    if _DAY_FIRST.fullmatch(text):
        return f"{fault}; write the year first, such as 2023-03-31"
    return fault


def odd_times(times: np.ndarray, unit: str, flag: str) -> tuple[dict[str, Any], str] | None:
    """Detect times before 1990 or after the end of the next year; return None if there are none.

    Args:
        times: seconds since 1970, float64 [n].
        unit: the unit that they were read in; a more likely one is searched unless it is `date`.
        flag: the option that sets the unit, or "" if the format determines it.

    Returns:
        JSON values, and a warning of one line.
    """
    low, high, years = _plausible()
    outside = (times < low) | (times > high)
    if not outside.any():
        return None
    likely, fitting = "", 0
    if unit != DATE:
        likely, fitting = _likely_unit(times[outside] * SECONDS[unit])
    n_outside, first, last = int(outside.sum()), float(times.min()), float(times.max())
    facts = {"outside": n_outside, "first": first, "last": last, "years": years,
             "unit": likely, "fitting": fitting}  # fmt: skip
    text = (
        f"{n_outside:,} of {counted(len(times), 'time is', 'times are')} outside the years "
        f"{years[0]} to {years[1]} (range: {_day(first)} to {_day(last)})"
    )
    if not fitting:
        return facts, f"{text}; correct them"
    text += f"; {counted(fitting, 'of them is', 'of them are')} plausible in {_WORDS[likely]}"
    if fitting < len(times) / 2 or not flag:
        return facts, f"{text}, not {_WORDS[unit]}: convert all times to one unit"
    return facts, f"{text}: {flag}={likely}"


def as_dates(times: Sequence[float]) -> list[str] | None:
    """Format times as UTC, `1997-09-20 03:05:10`; None if they are not plausible in one unit."""
    unit, fitting = _likely_unit(np.array(times))
    if fitting < len(times):
        return None
    dates = [datetime.fromtimestamp(time / SECONDS[unit], timezone.utc) for time in times]
    return [f"{date:%Y-%m-%d %H:%M:%S}" for date in dates]


def _likely_unit(numbers: np.ndarray) -> tuple[str, int]:
    """Return the unit in which most numbers are plausible times, and how many are."""
    low, high, _ = _plausible()
    fitting = {
        unit: int(((numbers / n >= low) & (numbers / n <= high)).sum())
        for unit, n in SECONDS.items()
    }
    unit = max(fitting, key=lambda name: fitting[name])
    return unit, fitting[unit]


def _plausible() -> tuple[float, float, tuple[int, int]]:
    """Return the first and last plausible time, in seconds, and their years."""
    last = datetime.now(timezone.utc).year + 1
    low, high = (
        datetime(year, 1, 1, tzinfo=timezone.utc).timestamp() for year in (_FIRST_YEAR, last + 1)
    )
    return low, high, (_FIRST_YEAR, last)


def _day(time: float) -> str:
    """Format the day, or the number of seconds if the year is too large."""
    if abs(time) > 2.5e14:  # years of seven digits
        return f"{time:.4g} s"
    return str(np.datetime64(int(np.floor(time)), "s")).partition("T")[0]
