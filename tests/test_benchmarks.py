"""The harness of benchmarks/: sides in turns, ratios of known durations, what may be quoted.

A fake clock stands still but for what the sides add to it; nothing is timed.
"""

from __future__ import annotations

import importlib
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import ALL, MODULES, command_of, parse
from benchmarks.harness import (
    Benchmark,
    Clock,
    Measure,
    Reading,
    Spread,
    of_quantities,
    processes,
    report,
    take_turns,
    timed,
)
from benchmarks.new_items import kept_neighbors
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids

ROOT = Path(__file__).parents[1]


class FakeMachine:
    """A clock, and sides that need so many seconds for a piece of work.

    In round r everything takes `slowness[r]` times as long on the wall, as on a machine that is
    busy with other work; the CPU seconds stay.
    """

    def __init__(self, slowness: list[float]) -> None:
        self.now = self.worked = 0.0
        self.slowness = slowness
        self.order: list[str] = []

    def side(self, name: str, seconds: list[float]) -> Measure:
        """A side that works `seconds[r]` in round r."""
        clock = Clock(wall=lambda: self.now, cpu=lambda: self.worked)

        def measure(number: int) -> Reading:
            def work() -> None:
                self.order.append(name)
                self.worked += seconds[number]
                self.now += seconds[number] * self.slowness[number]

            wall, cpu = timed(work, clock)
            return {"seconds": wall, "CPU seconds": cpu}

        return measure


def test_sides_take_turns_and_the_warm_up_is_left_out():
    """A B A B ...; the warm-up round, a hundred times as slow, is in no reading."""
    machine = FakeMachine([100, 1, 1, 1, 1, 1])
    sides = {"A": machine.side("A", [2.0] * 6), "B": machine.side("B", [8.0] * 6)}
    readings = take_turns(sides, rounds=5)
    assert machine.order == ["A", "B"] * 6
    assert [reading["seconds"] for reading in readings["A"]] == [2.0] * 5
    assert [reading["seconds"] for reading in readings["B"]] == [8.0] * 5
    assert machine.now == 100 * 10 + 5 * 10
    assert [len(rows) for rows in take_turns(sides, rounds=3, warm_up=0).values()] == [3, 3]


def test_a_busy_machine_changes_the_seconds_and_not_the_ratio():
    """Medians of the sides differ from round to round, B / A stays 4 and may be quoted."""
    machine = FakeMachine([1, 1, 9, 2, 30, 5])
    sides = {"A": machine.side("A", [2.0] * 6), "B": machine.side("B", [8.0] * 6)}
    readings = take_turns(sides, rounds=5)
    assert [reading["seconds"] for reading in readings["A"]] == [2, 18, 4, 60, 10]
    lines, sound = report(readings, [("B", "A")], of_quantities("seconds", "CPU seconds"))
    assert sound
    assert "| A | 10 | 2 |" in lines and "| B | 40 | 8 |" in lines
    assert "| B / A | seconds | 4 | 4 to 4 | 4 to 4 | |" in lines
    assert "| B / A | CPU seconds | 4 | 4 to 4 | 4 to 4 | |" in lines


def test_known_ratios_give_the_known_median_and_spread():
    """Ratios 3.9 4.1 4 4.2 8 by hand: median 4.1, quartiles 4 and 4.2; one blip does no harm."""
    machine = FakeMachine([1.0] * 6)
    ours = machine.side("ours", [1.0, 3.9, 4.1, 4.0, 4.2, 8.0])
    sides = {"ours": ours, "peer": machine.side("peer", [1.0] * 6)}
    readings = take_turns(sides, rounds=5)
    lines, sound = report(readings, [("ours", "peer")], of_quantities("seconds"))
    assert lines[-1] == "| ours / peer | seconds | 4.1 | 4 to 4.2 | 3.9 to 8 | |"
    assert sound


@pytest.mark.parametrize(
    ("values", "objection"),
    [
        ([1.0, 1.0, 1.0, 1.2, 1.2], ""),  # quartiles 1 and 1.2: 20 % of 1
        ([1.0, 1.0, 1.0, 1.25, 1.25], "25 % of the median apart"),
        ([0.9, 1.0, 1.0, 1.0, 1.1, 1.1], ""),
        ([1.6, 5.0, 9.0, 13.0, 17.9], "89 % of the median apart"),
        ([2.0, 2.0, 2.0, 2.0], "4 of at least 5 rounds"),
        ([2.0], "1 of at least 5 rounds"),
        ([2.0, 2.0, float("nan"), 2.0, 2.0, 2.0], "no ratio in 1 of 6 rounds"),
        ([-1.0, 0.0, 0.0, 0.0, 1.0], ""),
        ([-9.0, -9.0, 0.0, 9.0, 9.0], "the median is 0"),
    ],
)
def test_what_may_not_be_quoted(values: list[float], objection: str):
    """Five rounds or more, quartiles at most 20 % of the median apart; otherwise the reason."""
    found = Spread(values).objection()
    assert (objection in found) and bool(found) == bool(objection)


def test_quartiles_agree_with_another_way():
    """By sorting and interpolating between neighbors."""
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.0]
    ordered = sorted(values)
    middle = [ordered[1] + 0.5 * (ordered[2] - ordered[1]), ordered[4] + 0.5 * 1.0]
    assert Spread(values).quartiles == pytest.approx(middle)
    assert Spread(values).median == statistics.median(values) == ordered[3]


def test_one_wide_ratio_marks_its_line_and_the_whole():
    """The line says why, lines beside it stay, and the exit status follows from False."""
    fast = [{"seconds": value, "MB": 5.0} for value in (1, 2, 4, 8, 16)]
    slow = [{"seconds": 1.0, "MB": 10.0}] * 5
    lines, sound = report({"A": fast, "B": slow}, [("A", "B")], of_quantities())
    assert not sound
    wide = next(line for line in lines if "| seconds |" in line and "A / B" in line)
    assert "do not quote: the quartiles are 150 % of the median apart, 20 % is the most" in wide
    assert "| A / B | MB | 0.5 | 0.5 to 0.5 | 0.5 to 0.5 | |" in lines


SIDE = """
import sys
from benchmarks.harness import serve
def build():
    print("noise of a library")
    if sys.argv[1] == "broken":
        raise RuntimeError("out of order")
    def measure(number):
        print("more noise")
        with open(sys.argv[2], "a") as handle:
            handle.write(f"{sys.argv[1]}{number} ")
        return {"round": number, "process": __import__("os").getpid()}
    return measure
serve(build)
"""


@pytest.mark.parametrize(("fresh", "n_processes"), [(False, 2), (True, 4)])
def test_processes_answer_in_turn(tmp_path: Path, fresh: bool, n_processes: int):
    """Two sides in processes: the order of the work, their readings, how many processes."""
    log = tmp_path / "log"
    commands = {name: [sys.executable, "-c", SIDE, name, str(log)] for name in "AB"}
    with processes(commands, fresh) as sides:
        readings = take_turns(sides, rounds=2)
    assert log.read_text() == "A0 B0 A1 B1 A2 B2 "
    assert [reading["round"] for reading in readings["A"]] == [1, 2]
    pids = {reading["process"] for rows in readings.values() for reading in rows}
    assert len(pids) == n_processes


def test_a_side_that_fails_ends_the_comparison_by_name(tmp_path: Path, capfd):
    """No table of what is left; what the side said stands above."""
    names = {"A": "A", "B": "broken"}
    commands = {
        name: [sys.executable, "-c", SIDE, what, str(tmp_path / "log")]
        for name, what in names.items()
    }
    with pytest.raises(SystemExit, match="side B has failed"), processes(commands, fresh=False):
        pass
    assert "RuntimeError: out of order" in capfd.readouterr().err


def test_every_comparison_uses_the_harness():
    """Each name has a `Benchmark` whose pairs are of its sides, and `all` can be parsed."""
    benchmarks = {}
    for what, module in MODULES.items():
        benchmark = importlib.import_module(f"benchmarks.{module}").BENCHMARKS[what]
        assert isinstance(benchmark, Benchmark)
        assert {side for pair in benchmark.pairs for side in pair} == set(benchmark.sides)
        benchmarks[what] = benchmark
    for line in ALL:
        what, arguments = command_of(line, ["--data_path=here", "--threads=1"])
        options = parse(what, "", benchmarks[what], arguments)
        assert options.rounds >= 5 and len(options.sides) >= 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sides=torch,tensorflow"], "no side 'tensorflow'"),
        (["--rounds=0"], "--rounds: give 1 or more"),
        (["--warm_up=-1"], "--warm_up: 0 or more"),
        (["--stepz=3"], "unknown: --stepz=3"),
    ],
)
def test_command_lines_that_cannot_be_are_refused(arguments: list[str], said: str, capsys):
    """One line, exit status 2, before anything is built."""
    module = importlib.import_module("benchmarks.sides")
    with pytest.raises(SystemExit) as refused:
        parse("dropout", "", module.BENCHMARKS["dropout"], arguments)
    assert refused.value.code == 2
    assert said in capsys.readouterr().err


def test_the_side_of_recbole_stays_without_this_package():
    """Neither the command nor the module of its sides imports it."""
    program = (
        "import sys, benchmarks.__main__, benchmarks.sides\n"
        "sys.exit('recbole_qbert' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it")
def test_the_peak_of_a_light_process_is_not_that_of_its_parent():
    """A process of some 30 MB, started by one that holds 300."""
    held = b"x" * (300 << 20)
    program = "from benchmarks.harness import peak_bytes; print(peak_bytes())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert 5 << 20 < int(done.stdout) < 100 << 20 < len(held)


def test_neighbors_of_the_items_of_a_small_catalog(tmp_path: Path):
    """Each of four items has the same three neighbors by any measure."""
    domain = DatasetPaths("x", tmp_path)
    items = ("a", "b", "c", "d")
    domain.file("item").write_text("\n".join(["item_id:token", *items, ""]))
    vectors = np.random.default_rng(0).normal(size=(4, 1, 6)).astype(np.float32)
    meta = {"modality": "text", "encoder": {"name": "toy"}}
    table = EmbeddingTable(items, vectors, np.ones((4, 1), np.bool_), meta)
    write_embeddings(domain.file("text.npz"), table)
    codes = np.array([[0, 1], [0, 2], [1, 0], [2, 0]])
    write_semantic_ids(domain.file("semid"), SemanticIDTable(items, codes, (3, 3)), {})
    found = kept_neighbors(domain, domain.file("semid"), ["text"], {"c"})
    assert found == {"10-NN text, hidden": 1.0, "10-NN text, others": 1.0}
