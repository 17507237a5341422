"""Counters of the service, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = tuple(float(2**power) for power in range(11))
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counters of one service."""

    def __init__(self, paths: frozenset[str], queue_length: Callable[[], int]):
        """Take the paths that are counted one by one, and what tells the length of the queue."""
        self._paths, self._registry = paths, CollectorRegistry()
        ProcessCollector(registry=self._registry)
        of_all: dict[str, Any] = {"namespace": "recbole_qbert", "registry": self._registry}
        self._requests = Counter("requests", "Requests answered.", ("path", "status"), **of_all)
        self._seconds = Histogram(
            "request_seconds",
            "Time from the head of a request to the end of its answer.",
            ("path",),
            buckets=_SECONDS,
            **of_all,
        )
        self._rows = Histogram("batch_rows", "Rows of a batch.", buckets=_ROWS, **of_all)
        queue = Gauge("queue_length", "Requests that wait for the model.", **of_all)
        queue.set_function(queue_length)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; unknown paths are counted together."""
        path = path if path in self._paths else "other"
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, n_rows: int) -> None:
        """Count a batch."""
        self._rows.observe(n_rows)

    def text(self) -> bytes:
        """Return all counters."""
        return generate_latest(self._registry)
