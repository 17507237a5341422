"""The queue of the service: jobs gather, wait within limits, and do not harm each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from recbole_qbert.service.batching import Batcher, QueueFull, TooLate


class Gate:
    """Work that answers `2 * job` when the gate is open, and notes its batches."""

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, jobs: Sequence[int]) -> list[Any]:
        self.batches.append(list(jobs))
        self.entered.set()
        assert self.open.wait(10)
        return [ValueError(f"odd {job}") if job % 2 else 2 * job for job in jobs]


def run(
    test: Callable[[Batcher, Gate], Coroutine[Any, Any, None]],
    work: Callable[[Sequence[int]], list[Any]] | None = None,
    **limits: Any,
) -> Gate:
    """Run a coroutine function with a batcher and its gate."""
    gate = Gate()
    usual = {"max_batch_size": 8, "max_wait_s": 0.0, "max_queue": 100, "timeout_s": 10.0}

    async def main() -> None:
        batcher = Batcher(work or gate, **usual | limits)
        async with batcher.running():
            await test(batcher, gate)

    asyncio.run(main())
    return gate


async def entered(gate: Gate) -> None:
    """Wait until the thread works."""
    while not gate.entered.is_set():
        await asyncio.sleep(0.001)


def test_jobs_gather_while_the_thread_works() -> None:
    """The first one alone, then batches of at most eight rows, in order; each gets its own."""

    async def test(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.create_task(batcher.answer(0))
        await entered(gate)
        others = [asyncio.create_task(batcher.answer(2 * n)) for n in range(1, 20)]
        await asyncio.sleep(0.01)
        assert len(batcher) == 19
        gate.open.set()
        assert await first == 0
        assert await asyncio.gather(*others) == [4 * n for n in range(1, 20)]
        assert len(batcher) == 0

    gate = run(test)
    assert [len(batch) for batch in gate.batches] == [1, 8, 8, 3]
    assert sum(gate.batches, []) == [2 * n for n in range(20)]


def test_a_batch_waits_for_jobs_that_come_soon() -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        gate.open.set()
        first = asyncio.create_task(batcher.answer(0))
        await asyncio.sleep(0.05)
        assert await batcher.answer(2) == 4
        assert await first == 0

    assert run(test, max_wait_s=0.5).batches == [[0, 2]]


def test_rows_count_and_a_large_job_is_alone() -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.create_task(batcher.answer(0))
        await entered(gate)
        sizes = [4, 4, 1, 30, 7, 1]
        others = [asyncio.create_task(batcher.answer(2 * n, n)) for n in sizes]
        await asyncio.sleep(0.01)
        gate.open.set()
        assert await asyncio.gather(first, *others) == [0, *(4 * n for n in sizes)]

    assert run(test).batches == [[0], [8, 8], [2], [60], [14, 2]]


def test_an_error_reaches_its_own_job_alone() -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        gate.open.set()
        found = await asyncio.gather(*map(batcher.answer, range(4)), return_exceptions=True)
        assert found[::2] == [0, 4]
        assert [str(each) for each in found[1::2]] == ["odd 1", "odd 3"]

    run(test, max_wait_s=0.05)


def test_work_that_fails_fails_its_batch_and_no_other() -> None:
    calls: list[int] = []

    def work(jobs: Sequence[int]) -> list[Any]:
        calls.append(len(jobs))
        if len(calls) == 1:
            raise RuntimeError("broken")
        return list(jobs)

    async def test(batcher: Batcher, gate: Gate) -> None:
        with pytest.raises(RuntimeError, match="broken"):
            await batcher.answer(1)
        assert await batcher.answer(2) == 2

    run(test, work)


def test_a_full_queue_refuses_and_recovers() -> None:
    async def test(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.create_task(batcher.answer(0))
        await entered(gate)
        others = [asyncio.create_task(batcher.answer(2)) for _ in range(3)]
        await asyncio.sleep(0.01)
        for _ in range(5):
            with pytest.raises(QueueFull):
                await batcher.answer(2)
        gate.open.set()
        assert await asyncio.gather(first, *others) == [0, 4, 4, 4]
        assert await batcher.answer(6) == 12

    run(test, max_queue=3)


@pytest.mark.parametrize("gone", ["late", "canceled"])
def test_a_job_that_nobody_waits_for_leaves_the_queue(gone: str) -> None:
    """It is never computed, and its place is free."""

    async def test(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.create_task(batcher.answer(0))
        await entered(gate)
        second = asyncio.create_task(batcher.answer(2))
        await asyncio.sleep(0.01)
        assert len(batcher) == 1
        if gone == "canceled":
            second.cancel()
        with pytest.raises(TooLate if gone == "late" else asyncio.CancelledError):
            await second
        assert len(batcher) == 0
        if gone == "late":
            with pytest.raises(TooLate):  # it is being computed; its result is dropped
                await first
        gate.open.set()
        assert await batcher.answer(4) == 8

    gate = run(test, timeout_s=0.2 if gone == "late" else 10.0, max_queue=1)
    assert gate.batches == [[0], [4]]


def test_nothing_is_computed_if_all_were_too_late() -> None:
    """The thread worked on another batch for too long: there is no batch without jobs."""

    async def test(batcher: Batcher, gate: Gate) -> None:
        first = asyncio.create_task(batcher.answer(0))
        await entered(gate)
        others = [asyncio.create_task(batcher.answer(2)) for _ in range(3)]
        for each in [first, *others]:
            with pytest.raises(TooLate):
                await each
        gate.open.set()
        await asyncio.sleep(0.1)
        assert await batcher.answer(4) == 8

    assert run(test, timeout_s=0.1).batches == [[0], [4]]


def test_a_job_that_breaks_the_work_fails_alone() -> None:
    """The others of its batch are answered; it gets its own error."""
    batches: list[list[int]] = []

    def work(jobs: Sequence[int]) -> list[Any]:
        batches.append(list(jobs))
        if 7 in jobs:
            raise RuntimeError("seven")
        return [2 * job for job in jobs]

    async def test(batcher: Batcher, gate: Gate) -> None:
        asked = [batcher.answer(job) for job in (1, 7, 3)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert (found[0], found[2]) == (2, 6) and isinstance(found[1], RuntimeError)

    run(test, work, max_wait_s=0.05)
    assert batches == [[1, 7, 3], [1], [7], [3]]
