"""Measurement of comparisons: sides in turns, several rounds, and the dispersion of the ratios.

The sides of a comparison take turns (A B A B ...), so that other load on the machine affects all of
them. Warm-up rounds are discarded. Each round gives one ratio for each pair of sides. The report
has the median of the ratios, their quartiles, minimum and maximum. A ratio may be quoted if it has
at least `FEWEST_ROUNDS` rounds, and its interquartile range is at most `WIDEST_SPREAD` of its
median. Any other ratio is marked with the reason, and the command exits with 1.

Seconds are wall-clock time. CPU seconds are the CPU time of all threads of a side's process, which
other programs on the machine hardly affect.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

FEWEST_ROUNDS = 5
WIDEST_SPREAD = 0.2

# Quantity -> number. Other values, such as a learning curve, are only for `Ratios`, not printed.
Reading = Mapping[str, Any]
# Maps the number of a round (0 or less for a warm-up) to the reading of one side.
Measure = Callable[[int], Reading]
# Maps the readings of our side and of a peer in one round to named ratios.
Ratios = Callable[[Reading, Reading], Mapping[str, float]]


class Clock(NamedTuple):
    """Functions that return wall-clock and CPU seconds."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


def timed(work: Callable[[], object], clock: Clock = Clock()) -> tuple[float, float]:  # noqa: B008
    """Run the work; return its seconds and CPU seconds."""
    wall, cpu = clock.wall(), clock.cpu()
    work()
    return clock.wall() - wall, clock.cpu() - cpu


def peak_bytes() -> int:
    """Return the peak resident size of this process in bytes.

    On Linux this reads VmHWM, because `ru_maxrss` starts from the size of the parent process, so
    that a small side would show its parent's memory.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def of_quantities(*names: str) -> Ratios:
    """Create `Ratios` (ours / peer's) of the named quantities, or of all numbers that both have."""

    def ratios(ours: Reading, peer: Reading) -> dict[str, float]:
        chosen = names or [name for name in numbers(ours) if name in peer]
        return {name: ours[name] / peer[name] if peer[name] else math.nan for name in chosen}

    return ratios


@dataclass(frozen=True)
class Benchmark:
    """Comparison of sides.

    Attributes:
        sides: for each side, a function that builds it in its own process and returns its
            `Measure`.
        pairs: pairs (ours, peer) of side names to compare.
        ratios: computes the ratios of a pair.
        add_options: adds the options of this comparison to the parser.
        inputs: writes the inputs of the sides into `options.folder`, before any measurement.
        fresh: whether each round needs a new process (for its peak memory, for example); otherwise
            a side is built once, and its process runs until the last round.
        warm_up: default number of discarded rounds.
        settings: whether `--key=value` settings of the models are accepted, as `options.settings`.
    """

    sides: Mapping[str, Callable[[argparse.Namespace], Measure]]
    pairs: Sequence[tuple[str, str]]
    ratios: Ratios
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    inputs: Callable[[argparse.Namespace], None] = lambda options: None
    fresh: bool = False
    warm_up: int = 1
    settings: bool = False


def take_turns(
    sides: Mapping[str, Measure], rounds: int, warm_up: int = 1
) -> dict[str, list[Reading]]:
    """Measure each side once per round, in their order; return the readings after the warm-up."""
    readings: dict[str, list[Reading]] = {side: [] for side in sides}
    for number in range(1 - warm_up, rounds + 1):
        for side, measure in sides.items():
            reading = measure(number)
            if number > 0:
                readings[side].append(reading)
    return readings


@dataclass(frozen=True)
class Spread:
    """Values of one ratio, one per round (at least one)."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """Median of the values."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, within the minimum and the maximum."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third

    def objection(self) -> str:
        """Return the reason why the median must not be quoted; "" if it may be."""
        lost = sum(not math.isfinite(value) for value in self.values)
        if lost:
            return f"do not quote: no ratio in {lost} of {len(self.values)} rounds"
        if len(self.values) < FEWEST_ROUNDS:
            return f"do not quote: {len(self.values)} of at least {FEWEST_ROUNDS} rounds"
        first, third = self.quartiles
        if third - first > WIDEST_SPREAD * abs(self.median):
            return (
                f"do not quote: the quartiles are {100 * (third - first) / abs(self.median):.0f} % "
                f"of the median apart, {100 * WIDEST_SPREAD:.0f} % is the most"
                if self.median
                else "do not quote: the median is 0"
            )
        return ""


def report(
    readings: Mapping[str, Sequence[Reading]], pairs: Sequence[tuple[str, str]], ratios: Ratios
) -> tuple[list[str], bool]:
    """Format two Markdown tables: medians of the sides, and ratios of the pairs.

    Returns:
        The lines, and whether all ratios may be quoted.
    """
    names = list(dict.fromkeys(name for rows in readings.values() for name in numbers(rows[0])))
    lines = table_head("side, median over rounds", *names)
    for side, rows in readings.items():
        found = [
            in_short(statistics.median(row[name] for row in rows)) if name in rows[0] else ""
            for name in names
        ]
        lines.append(table_row(side, *found))
    lines += ["", *table_head("ratio", "of", "median", "quartiles", "least to most", "")]
    sound = True
    for ours, peer in pairs:
        rounds = [ratios(*both) for both in zip(readings[ours], readings[peer], strict=True)]
        for name in rounds[0]:
            spread = Spread([each[name] for each in rounds])
            objection = spread.objection()
            sound = sound and not objection
            lines.append(table_row(f"{ours} / {peer}", name, *_figures(spread), objection))
    return lines, sound


def _figures(spread: Spread) -> tuple[str, str, str]:
    """Format median, quartiles and range."""
    first, third = spread.quartiles
    ends = f"{in_short(min(spread.values))} to {in_short(max(spread.values))}"
    return in_short(spread.median), f"{in_short(first)} to {in_short(third)}", ends


def in_short(value: float) -> str:
    """Format a number with three digits, or from a thousand on as an integer."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def numbers(reading: Reading) -> dict[str, float]:
    """Return the numeric quantities of a reading."""
    return {name: value for name, value in reading.items() if isinstance(value, int | float)}


def table_head(*cells: str) -> list[str]:
    """Format the first two lines of a Markdown table."""
    return [table_row(*cells), "|" + "---|" * len(cells)]


def table_row(*cells: str) -> str:
    """Format a line of a Markdown table."""
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


class Side:
    """Side in its own process, which answers the number of a round with a line of JSON.

    Args:
        name: name of the side, for messages.
        command: command of the process, which calls `serve`.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    def __call__(self, number: int) -> Reading:
        """Measure one round."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `answer` reports that the process has ended
            self._process.stdin.write(f"{number}\n")
            self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Reading:
        """Read the next answer; the first one is {} and means that the side is built.

        Raises:
            SystemExit: the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()  # until its error message is printed
            raise SystemExit(f"side {self.name} has failed; what it said stands above")
        reading: dict[str, Any] = json.loads(line)
        return reading

    def close(self) -> None:
        """End the process."""
        with self._process as process:
            process.terminate()


def serve(build: Callable[[], Measure]) -> None:
    """Run the process of a side: build it, then measure one round for each number on stdin.

    Other output is redirected to stderr, so that stdout has only the answers.
    """
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        measure = build()
        print("{}", file=answers)
        for line in sys.stdin:
            print(json.dumps(measure(int(line))), file=answers)


@contextlib.contextmanager
def processes(commands: Mapping[str, Sequence[str]], fresh: bool) -> Iterator[dict[str, Measure]]:
    """Build the sides in their processes; with `fresh`, start a new process for each round."""

    def once(name: str) -> Measure:
        def measure(number: int) -> Reading:
            with contextlib.closing(Side(name, commands[name])) as side:
                side.answer()
                return side(number)

        return measure

    if fresh:
        yield {name: once(name) for name in commands}
        return
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(contextlib.closing(Side(name, command)))
            for name, command in commands.items()
        }
        for side in sides.values():  # wait until all are built before any is measured
            side.answer()
        yield dict(sides)
