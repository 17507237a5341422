"""Conversion of interaction times to seconds, and detection of implausible times.

Shapes: n rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

SECONDS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}  # units per second
DATE = "date"  # ISO 8601, UTC if without a time zone
_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_FIRST_YEAR = 1990
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)
_ISO = re.compile(r"\d{4}-\d{1,2}(-\d{1,2}.*)?")
_DAY_FIRST = re.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}.*")


class OddTimes(NamedTuple):
    """Statistics of times before 1990 or after the end of the next year.

    Attributes:
        outside: number of such times.
        first, last: first and last of all times, in seconds since 1970.
        years: first and last plausible year.
        unit: the unit in which most of these times would be plausible, or "".
        fitting: number of times that would be plausible in that unit.
    """

    outside: int
    first: float
    last: float
    years: tuple[int, int]
    unit: str
    fitting: int


def arrow_seconds(column: pa.Array) -> pa.Array:
    """Convert timestamps, with or without a time zone, or dates to seconds since 1970.

    Null stays null.
    """
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s" if pa.types.is_date32(column.type) else "ms"))
    return divided(column.cast(pa.int64()), SECONDS[column.type.unit])


def divided(column: pa.Array, by: int) -> pa.Array:
    """Divide integers, rounded to the nearest float64.

    Converting to float64 first would lose digits, because float64 cannot represent all nanoseconds.
    """
    values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
    whole = values // by + ((values < 0) & (values % by != 0))  # rounded toward zero
    return pa.array(whole + np.fmod(values, by) / by, mask=np.asarray(column.is_null()))


def iso_seconds(texts: pa.Array) -> pa.Array:
    """Convert ISO 8601 dates to seconds since 1970; invalid texts become null."""
    bare = pc.utf8_trim_whitespace(texts).to_pandas()
    dates = pd.to_datetime(bare, format="ISO8601", utc=True, errors="coerce")
    return arrow_seconds(pa.array(dates.dt.tz_localize(None)))


def time_fault(unit: str) -> Callable[[str], str]:
    """Return a function that explains why a text is not a time of the unit."""
    return _date_fault if unit == DATE else _number_fault


def _number_fault(text: str) -> str:
    if _ISO.fullmatch(text.strip()):
        return f"time is no finite number; these look like dates: --time_unit={DATE}"
    return "time is no finite number"


def _date_fault(text: str) -> str:
    text = text.strip()
    if _NUMBER.fullmatch(text):
        unit, fitting = _likely_unit(np.array([float(text)]))
        if fitting:
            return f"no ISO 8601 date; these look like {_WORDS[unit]}: --time_unit={unit}"
    if _DAY_FIRST.fullmatch(text):
        return "no ISO 8601 date; write the year first, such as 2023-03-31"
    return "no ISO 8601 date"


def odd_times(seconds: np.ndarray, unit: str) -> OddTimes | None:
    """Detect implausible times; return None if there are none.

    Args:
        seconds: times, float64 [n].
        unit: the unit that they were read in; a more likely one is searched unless it is `date`.
    """
    years = _years()
    low, high = _bounds(years)
    outside = (seconds < low) | (seconds > high)
    if not outside.any():
        return None
    likely, fitting = "", 0
    if unit != DATE:
        likely, fitting = _likely_unit(seconds[outside] * SECONDS[unit])
    first, last = float(seconds.min()), float(seconds.max())
    return OddTimes(int(outside.sum()), first, last, years, likely, fitting)


def said_of_times(odd: OddTimes, n: int, unit: str, flag: str) -> str:
    """Format a one-line warning.

    Args:
        odd: result of `odd_times`.
        n: number of all times.
        unit: the unit that they were read in.
        flag: the option that sets the unit, or "" if the format determines it.
    """
    text = (
        f"{odd.outside:,} of {n:,} times lie outside {odd.years[0]} to {odd.years[1]} (all go from "
        f"{_day(odd.first)} to {_day(odd.last)})"
    )
    if not odd.fitting:
        return f"{text}; correct those that are wrong"
    text += f"; {odd.fitting:,} of them would lie inside as {_WORDS[odd.unit]}"
    if odd.fitting < n / 2 or not flag:
        return f"{text}, not {_WORDS[unit]}: give all times one unit"
    return f"{text}: {flag}={odd.unit}"


def _likely_unit(numbers: np.ndarray) -> tuple[str, int]:
    """Return the unit in which most numbers are plausible times, and how many are."""
    low, high = _bounds(_years())
    fitting = {
        unit: int(((numbers / n >= low) & (numbers / n <= high)).sum())
        for unit, n in SECONDS.items()
    }
    unit = max(fitting, key=lambda name: fitting[name])
    return unit, fitting[unit]


def _years() -> tuple[int, int]:
    return _FIRST_YEAR, datetime.now(timezone.utc).year + 1


def _bounds(years: tuple[int, int]) -> tuple[float, float]:
    ends = (datetime(years[0], 1, 1), datetime(years[1] + 1, 1, 1))
    low, high = (end.replace(tzinfo=timezone.utc).timestamp() for end in ends)
    return low, high


def _day(seconds: float) -> str:
    """Format the day, or the number of seconds if the year is too large."""
    if abs(seconds) > 2.5e14:  # years of seven digits
        return f"{seconds:.4g} s"
    return str(np.datetime64(int(np.floor(seconds)), "s")).partition("T")[0]
