"""Requests a second, latency and memory of `recbole-qbert serve` under parallel clients.

A QBERT4Rec is trained for one epoch on random interactions with at most `--items` items. A round
starts the service in a process of its own. `--clients` clients send requests for `--seconds`, each
one its next request after the answer to the last. A history has 1 to 50 items. `batched` is the
service with its defaults, `alone` scores each request by itself. Any answer but 200 with `--k`
items is an error. Memory is the resident size of the service's process after a second, at half time
and at the end. The clients run in one Python process, which takes a share of the CPU.

    python -m benchmarks service --clients=32 --seconds=60 --rounds=1 --warm_up=0 --sides=batched
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from benchmarks.harness import Benchmark, Measure, Reading, of_quantities

LONGEST = 50  # items of a history
N_BODIES = 1000  # different requests
DATASET = "Service"


class Service(NamedTuple):
    """A running service."""

    process: subprocess.Popen[str]
    port: int

    def memory_mib(self) -> float:
        """Return the resident size of the process."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)


@contextlib.contextmanager
def running(bundle: Path, *flags: str) -> Iterator[Service]:
    """Run the service of a bundle on a free port during the block."""
    command = [sys.executable, "-m", "recbole_qbert", "serve", str(bundle), "--port=0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the service has not started; what it said stands above")
            yield Service(process, int(line.rpartition(":")[2]))
        finally:
            process.terminate()


class Client(threading.Thread):
    """Sends requests one after another until `end`; keeps their seconds and counts errors."""

    def __init__(self, port: int, bodies: list[bytes], k: int, end: float):
        super().__init__()
        self.port, self.bodies, self.k, self.end = port, bodies, k, end
        self.seconds: list[float] = []
        self.n_errors = 0

    def run(self) -> None:
        """Send the requests over one connection, or a new one after an error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        number = 0
        while (start := time.perf_counter()) < self.end:
            body = self.bodies[number % len(self.bodies)]
            number += 1
            try:
                headers = {"Content-Type": "application/json"}
                connection.request("POST", "/recommend", body, headers)
                answer = connection.getresponse()
                content = json.loads(answer.read())
                found = answer.status == 200 and len(content["recommendations"]) == self.k
            except (OSError, ValueError, http.client.HTTPException):
                connection.close()
                found = False
            self.seconds.append(time.perf_counter() - start)
            self.n_errors += not found
        connection.close()


def load(service: Service, bodies: list[bytes], options: argparse.Namespace) -> Reading:
    """Send requests from all clients at once."""
    start = time.perf_counter()
    parts = np.array_split(np.arange(len(bodies)), options.clients)
    clients = [
        Client(service.port, [bodies[n] for n in part], options.k, start + options.seconds)
        for part in parts
    ]
    for client in clients:
        client.start()
    memory = {}
    for name, after in (("start", min(1.0, options.seconds / 4)), ("middle", options.seconds / 2)):
        time.sleep(max(0.0, start + after - time.perf_counter()))
        memory[f"MiB at the {name}"] = service.memory_mib()
    for client in clients:
        client.join()
    spent = time.perf_counter() - start
    seconds = np.concatenate([client.seconds for client in clients])
    middle, slow = 1000 * np.quantile(seconds, [0.5, 0.99])
    return {
        "requests a second": len(seconds) / spent,
        "p50 ms": float(middle),
        "p99 ms": float(slow),
        "requests": len(seconds),
        "errors": sum(client.n_errors for client in clients),
        **memory,
        "MiB at the end": service.memory_mib(),
    }


def _side(*flags: str) -> Callable[[argparse.Namespace], Measure]:
    """Create a side: the service with some flags."""

    def side(options: argparse.Namespace) -> Measure:
        bundle = options.folder / "bundle"
        tokens = json.loads((bundle / "items.json").read_text("utf-8"))
        rng = np.random.default_rng(2026)
        bodies = []
        for length in rng.integers(1, LONGEST + 1, N_BODIES):
            items = [tokens[n] for n in rng.integers(0, len(tokens), length)]
            bodies.append(json.dumps({"items": items, "k": options.k}).encode())

        def measure(number: int) -> Reading:
            with running(bundle, f"--threads={options.threads}", *flags) as service:
                return load(service, bodies, options)

        return measure

    return side


def _train(options: argparse.Namespace) -> None:
    """Train the model and copy its bundle into the folder of the benchmark."""
    from benchmarks.corpus import write_domain
    from recbole_qbert.experiments.run import run_models

    rng = np.random.default_rng(2026)
    numbers = rng.permutation(1 << 20)[: options.items]
    sizes = (options.users, 10 * options.users)
    write_domain(options.folder, DATASET, sizes, numbers << 12, rng)
    where = {"data_path": str(options.folder), "checkpoint_dir": str(options.folder / "saved")}
    given = {"epochs": 1, "show_progress": False}
    given["MAX_ITEM_LIST_LENGTH"] = LONGEST
    (result,) = run_models(["QBERT4Rec"], DATASET, settings=where | given)
    Path(result.bundle).rename(options.folder / "bundle")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round")
    parser.add_argument("--items", type=int, default=10_000, help="at most, in the catalog")
    parser.add_argument("--users", type=int, default=1000, help="of the training")
    parser.add_argument("--k", type=int, default=10)


BENCHMARKS = {
    "service": Benchmark(
        sides={"batched": _side(), "alone": _side("--max_batch_size=1", "--max_wait_ms=0")},
        pairs=[("batched", "alone")],
        ratios=of_quantities("requests a second", "p50 ms", "p99 ms"),
        add_options=_add_options,
        inputs=_train,
    )
}
