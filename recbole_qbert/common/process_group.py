"""The processes of one run: this one's rank, and what all of them do together."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """This process's rank and the number of processes W; (0, 1) outside `joined`."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return world()[0] == 0


def barrier() -> None:
    """Wait until every process is here, so that what process 0 wrote can be read."""
    if world()[1] > 1:
        dist.barrier()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of all processes' tensors, in place."""
    if world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor
