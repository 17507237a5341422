"""Process group of a distributed run: rank, barrier and sum."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """Return this process's rank and the number of processes W; (0, 1) in a single-process run."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_main() -> bool:
    """Return whether this process (rank 0) writes files and prints."""
    return world()[0] == 0


def barrier() -> None:
    """Wait until every process gets here, so that files written by process 0 can be read."""
    if world()[1] > 1:
        dist.barrier()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes in place, and return it."""
    if world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor
