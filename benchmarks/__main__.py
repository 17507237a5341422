"""Run benchmarks of time, memory or quality, and check whether their ratios may be quoted.

    python -m benchmarks all --data_path=dataset        # figures are in results/speed.md
    python -m benchmarks speed --dataset=Instruments --data_path=dataset
    python -m benchmarks peer --peer=FDSA --dataset=Beauty --data_path=dataset
    python -m benchmarks memory --dataset=Games --data_path=dataset
    python -m benchmarks best --dataset=Instruments --data_path=dataset --budget=400
    python -m benchmarks race --dataset=Instruments --data_path=dataset --epochs=6
    python -m benchmarks models --dataset=Scientific --data_path=dataset
    python -m benchmarks dropout | negatives | quantize | prepare | corpus | new_items | topk
    python -m benchmarks generate --threads=2
    python -m benchmarks service --clients=32 --seconds=60 --rounds=1 --warm_up=0 --sides=batched
    python -m benchmarks speed --help                   # options of one of them

The sides of a comparison are measured in turns, for five rounds after a warm-up (`--rounds=`,
`--warm_up=`), each in its own process; `--sides=a,b` measures only these. A round gives one ratio
for each pair of sides. A ratio may be quoted if it has at least five rounds and its interquartile
range is at most 20 % of its median; any other is marked with the reason. Exit status: 0 if all
ratios may be quoted, 1 if not, 2 if the command is invalid.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shlex
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Benchmark, processes, report, serve, take_turns

# Imported by name, so that the process of RecBole's side does not import this package.
MODULES = {
    "speed": "sides",
    "peer": "sides",
    "memory": "sides",
    "best": "sides",
    "race": "sides",
    "dropout": "sides",
    "negatives": "negatives",
    "models": "models",
    "quantize": "quantize",
    "prepare": "prepare",
    "corpus": "corpus",
    "new_items": "new_items",
    "topk": "topk",
    "generate": "generate",
    "service": "service",
}
# Commands of `all`, in sizes that take about eleven minutes on two cores.
ALL = (
    "speed --dataset=Instruments --steps=2",
    "peer --peer=SASRec --dataset=Beauty --steps=1",
    "peer --peer=FDSA --dataset=Beauty --steps=1",
    "peer --peer=BERT4Rec --dataset=Beauty --steps=1 --sides=recbole,lean",
    "peer --peer=GRU4Rec --dataset=Beauty --steps=1",
    "peer --peer=S3Rec --dataset=Beauty --steps=4 --sides=recbole,lean",
    "memory --dataset=Games",
    "dropout",
    "prepare --reviews=100000 --items=10000",
)


def main() -> int:
    """Run the comparison that the command line names, or all; return the exit status."""
    arguments = sys.argv[1:] or ["speed"]
    what, *others = arguments
    if what in ("-h", "--help"):
        print(__doc__)
        return 0
    if what == "all":
        return max(run(*command_of(part, others)) for part in ALL)
    if what not in MODULES:
        print(f"{what}: not one of all, {', '.join(MODULES)}", file=sys.stderr)
        return 2
    return run(what, others)


def command_of(line: str, others: list[str]) -> tuple[str, list[str]]:
    """A command of `ALL` with the user's flags; those of data sets only where it reads one."""
    what, *arguments = shlex.split(line)
    if not any(each.startswith("--dataset") for each in arguments):
        others = [each for each in others if not each.startswith("--data_path")]
    return what, [*arguments, *others]


def run(what: str, arguments: list[str]) -> int:
    """Measure and print one comparison; return 0 if all its ratios may be quoted, else 1."""
    module = importlib.import_module(f"benchmarks.{MODULES[what]}")
    benchmark: Benchmark = module.BENCHMARKS[what]
    options = parse(what, module.__doc__ or "", benchmark, arguments)
    if options.side:
        serve(lambda: benchmark.sides[options.side](options))
        return 0
    print(
        f"## {shlex.join([what, *arguments])}\n\n"
        f"{options.rounds} rounds after {options.warm_up} of warm-up; {platform.machine()}, "
        f"{options.threads} threads, Python {platform.python_version()}\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        benchmark.inputs(options)
        python = [sys.executable, "-W", "ignore::FutureWarning"]  # of pandas, in RecBole
        command = [*python, "-m", "benchmarks", what, *arguments, f"--folder={folder}"]
        commands = {side: [*command, f"--side={side}"] for side in options.sides}
        with processes(commands, benchmark.fresh) as sides:
            readings = take_turns(sides, options.rounds, options.warm_up)
    pairs = [pair for pair in benchmark.pairs if set(pair) <= set(options.sides)]
    lines, sound = report(readings, pairs, benchmark.ratios)
    print("\n".join([*lines, ""]), flush=True)
    return 0 if sound else 1


def parse(what: str, text: str, benchmark: Benchmark, arguments: list[str]) -> argparse.Namespace:
    """Parse the options of one comparison."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {what}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm_up", type=int, default=benchmark.warm_up, help="rounds before them")
    parser.add_argument("--sides", help=f"some of {','.join(benchmark.sides)}; default: all")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of a side")
    parser.add_argument("--side", choices=benchmark.sides, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    benchmark.add_options(parser)
    options, others = parser.parse_known_args(arguments)
    options.sides = options.sides.split(",") if options.sides else list(benchmark.sides)
    unknown = [side for side in options.sides if side not in benchmark.sides]
    if unknown:
        parser.error(f"--sides: no side {unknown[0]!r}; there are {', '.join(benchmark.sides)}")
    if options.rounds < 1 or options.warm_up < 0:
        parser.error("--rounds: give 1 or more; --warm_up: 0 or more")
    if others and not benchmark.settings:
        parser.error(f"unknown: {' '.join(others)}")
    options.settings = {}
    if others:
        from recbole_qbert.commands.command import parse_settings

        options.settings = parse_settings(others)
    return options


if __name__ == "__main__":
    sys.exit(main())
