"""A bounded queue whose requests one thread answers in batches."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

# Answers a batch of jobs: one result or exception for each, in their order.
Work = Callable[[Sequence[Any]], Sequence[Any]]


class QueueFull(Exception):
    """No more requests can wait now."""


class TooLate(Exception):
    """A request was not answered in time."""


@dataclass(eq=False)
class Waiting:
    """A job in the queue."""

    job: Any
    n_rows: int  # of the batch that it is part of
    answer: asyncio.Future[Any]


class Batcher:
    """Gathers jobs that arrive at about the same time, and answers them in one thread.

    While the thread computes a batch, the jobs of the next one gather.
    """

    def __init__(
        self,
        work: Work,
        *,
        max_batch_size: int,
        max_wait_s: float,
        max_queue: int,
        timeout_s: float,
        start: Callable[[], Any] = lambda: None,
    ):
        """Set the limits.

        Args:
            work: answers a batch, in the thread.
            max_batch_size: rows of a batch; a job with more rows is a batch of its own.
            max_wait_s: how long a batch waits for further jobs.
            max_queue: jobs that may wait.
            timeout_s: how long a job waits for its answer.
            start: called in the thread before the first batch.
        """
        self._work, self._start = work, start
        self._max_batch_size, self._max_wait_s = max_batch_size, max_wait_s
        self._max_queue, self._timeout_s = max_queue, timeout_s
        self._waiting: deque[Waiting] = deque()
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        """Number of jobs that wait."""
        return len(self._waiting)

    async def answer(self, job: Any, n_rows: int = 1) -> Any:
        """Return the result of a job, or raise its exception.

        Raises:
            QueueFull: too many jobs wait.
            TooLate: there was no answer in time; the job is taken out of the queue.
        """
        if len(self._waiting) >= self._max_queue:
            raise QueueFull
        waiting = Waiting(job, n_rows, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        try:
            return await asyncio.wait_for(waiting.answer, self._timeout_s)
        except asyncio.TimeoutError:
            raise TooLate from None
        finally:
            with contextlib.suppress(ValueError):  # it has left the queue
                self._waiting.remove(waiting)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer jobs during the block."""
        with ThreadPoolExecutor(1, "batches", self._start) as thread:
            task = asyncio.create_task(self._run(thread))
            try:
                yield
            finally:
                task.cancel()

    async def _run(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if self._n_rows() < self._max_batch_size:
                await asyncio.sleep(self._max_wait_s)
            batch = self._next_batch()
            if not self._waiting:
                self._arrived.clear()
            if not batch:  # all were too late
                continue
            jobs = [each.job for each in batch]
            try:
                found = await loop.run_in_executor(thread, self._results, jobs)
            except Exception as error:  # of `start`
                found = [error] * len(jobs)
            for each, result in zip(batch, found, strict=True):
                if each.answer.done():  # too late
                    continue
                if isinstance(result, Exception):
                    each.answer.set_exception(result)
                else:
                    each.answer.set_result(result)

    def _results(self, jobs: Sequence[Any]) -> Sequence[Any]:
        """Answer a batch; if that fails, each job alone, so that one fault fails one job."""
        try:
            return self._work(jobs)
        except Exception as error:
            if len(jobs) == 1:
                return [error]
            return [result for job in jobs for result in self._results([job])]

    def _n_rows(self) -> int:
        return sum(each.n_rows for each in self._waiting)

    def _next_batch(self) -> list[Waiting]:
        """Take the oldest jobs out of the queue."""
        batch: list[Waiting] = []
        left = self._max_batch_size
        while self._waiting and (not batch or self._waiting[0].n_rows <= left):
            batch.append(self._waiting.popleft())
            left -= batch[-1].n_rows
        return batch
