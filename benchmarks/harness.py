"""How every comparison here is measured: in turns, in several rounds, with the spread of the ratio.

The sides of a comparison take turns (A B A B ...), so that whatever else the machine does falls on
all of them. A warm-up round is thrown away. Each round gives one ratio of a pair of sides; what is
printed is the median of the ratios, their quartiles, the least and the most. A ratio may be quoted
if it comes from at least `FEWEST_ROUNDS` rounds and its quartiles lie no further apart than
`WIDEST_SPREAD` of its median. Any other is marked with the reason, and the command exits with 1.

Seconds are those of the clock; CPU seconds are those that all threads of a side's process worked,
which another program on the machine changes little.
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

# Quantity -> number. What is no number (a learning curve) is for `ratios` alone, not printed.
Reading = Mapping[str, Any]
# A round's number, 0 for the warm-up, to what one side measured in it.
Measure = Callable[[int], Reading]
# What our side and a peer measured in one round, to named ratios.
Ratios = Callable[[Reading, Reading], Mapping[str, float]]


class Clock(NamedTuple):
    """Two functions without arguments that return seconds."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


def timed(work: Callable[[], object], clock: Clock = Clock()) -> tuple[float, float]:  # noqa: B008
    """Do the work; seconds and CPU seconds that it took."""
    wall, cpu = clock.wall(), clock.cpu()
    work()
    return clock.wall() - wall, clock.cpu() - cpu


def peak_bytes() -> int:
    """The largest resident size of this process.

    Not `ru_maxrss` where Linux says it better: that starts from the size of the process which
    started this one, so that a light side would show its parent's memory.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def of_quantities(*names: str) -> Ratios:
    """The ratios ours / peer's of these quantities; without names of all numbers that both have."""

    def ratios(ours: Reading, peer: Reading) -> dict[str, float]:
        chosen = names or [name for name in numbers(ours) if name in peer]
        return {name: ours[name] / peer[name] if peer[name] else math.nan for name in chosen}

    return ratios


@dataclass(frozen=True)
class Benchmark:
    """A comparison of sides.

    Attributes:
        sides: name -> what builds the side, in the side's own process, and returns its `Measure`.
        pairs: (ours, peer) by name, of which ratios are made.
        ratios: what is compared of a pair.
        add_options: adds the options of this comparison to the parser.
        inputs: before anything is measured, writes what the sides read into `options.folder`.
        fresh: a side needs a new process for each round (its peak memory, say); otherwise it is
            built once and its process lives until the last round.
        warm_up: rounds that are thrown away, unless `--warm_up` says otherwise.
        settings: whether `--key=value` settings of the models are taken, as `options.settings`.
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
    """Measure each side once a round, in the order of the sides; warm-up rounds are left out."""
    readings: dict[str, list[Reading]] = {side: [] for side in sides}
    for number in range(1 - warm_up, rounds + 1):
        for side, measure in sides.items():
            reading = measure(number)
            if number > 0:
                readings[side].append(reading)
    return readings


@dataclass(frozen=True)
class Spread:
    """The values of one ratio, a round each (at least one)."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """Middle value."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, between the least and the most value."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third

    def objection(self) -> str:
        """Why the median must not be quoted; empty where it may be."""
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
    """Two Markdown tables, medians of the sides and ratios of the pairs; may all be quoted?"""
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
    """Median, quartiles and ends as text."""
    first, third = spread.quartiles
    ends = f"{in_short(min(spread.values))} to {in_short(max(spread.values))}"
    return in_short(spread.median), f"{in_short(first)} to {in_short(third)}", ends


def in_short(value: float) -> str:
    """Three digits, of numbers above a thousand all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def numbers(reading: Reading) -> dict[str, float]:
    """What is a number of it."""
    return {name: value for name, value in reading.items() if isinstance(value, int | float)}


def table_head(*cells: str) -> list[str]:
    """The first two lines of a Markdown table."""
    return [table_row(*cells), "|" + "---|" * len(cells)]


def table_row(*cells: str) -> str:
    """A line of a Markdown table."""
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


class Side:
    """A side in a process of its own, which answers a round's number with a line of JSON.

    Args:
        name: of the side, for messages.
        command: starts the process, which calls `serve`.
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
        """One round."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, as `answer` says
            self._process.stdin.write(f"{number}\n")
            self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Reading:
        """Its next line; the first one, empty, says that it is built."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()  # until it has said why
            raise SystemExit(f"side {self.name} has failed; what it said stands above")
        reading: dict[str, Any] = json.loads(line)
        return reading

    def close(self) -> None:
        """End the process."""
        with self._process as process:
            process.terminate()


def serve(build: Callable[[], Measure]) -> None:
    """Be the process of a side: build it, then measure a round for each number on stdin.

    Whatever else is printed goes to stderr, so that stdout holds answers alone.
    """
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        measure = build()
        print("{}", file=answers)
        for line in sys.stdin:
            print(json.dumps(measure(int(line))), file=answers)


@contextlib.contextmanager
def processes(commands: Mapping[str, Sequence[str]], fresh: bool) -> Iterator[dict[str, Measure]]:
    """Sides in processes, built; `fresh` ones are started anew for each round."""

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
        for side in sides.values():  # none is measured while another is being built
            side.answer()
        yield dict(sides)
