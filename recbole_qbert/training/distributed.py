"""Distributed runs: one run in several processes, with the result of a single process.

torchrun starts the same command in W processes; `launch` does so for `--nproc=W`. Each process
loads the same data and iterates over the same batches. In training it computes the loss of 1/W of
the rows, and gradients are averaged. In evaluation it ranks every W-th batch, and ranks are
collected. Only process 0 writes and prints.

RecBole's own distributed mode is not used (`single_spec` stays True): it needs NCCL, divides the
batch size by W, and averages metrics over processes.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recbole_qbert.common.errors import InputError, whole_number
from recbole_qbert.common.output import counted
from recbole_qbert.common.process import n_cores
from recbole_qbert.common.process_group import is_main, sum_over_processes, world
from recbole_qbert.speedups.trimmed_forward import BERT4REC_MASKS


def launched() -> bool:
    """Return whether torchrun, or a launcher with the same variables, started several processes."""
    given = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return given and int(os.environ["WORLD_SIZE"]) > 1


def launch(n_processes: int, arguments: Sequence[str]) -> int:
    """Run `recbole-qbert <arguments>` in several processes of this machine.

    This equals `torchrun --standalone --nproc_per_node=N -m recbole_qbert <arguments>`, without
    torchrun's own report of a failure. Returns the exit status: 0, that of a failed process, or 128
    plus a signal's number.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # torchrun's default is one thread per process; a value set by the user is kept.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, n_cores() // n_processes)))
    flags = ["--standalone", f"--nproc_per_node={n_processes}", "-m", "recbole_qbert"]
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    message, status = "", 0
    try:
        torchrun([*flags, *arguments])
    except ChildFailedError as error:
        # Processes that torchrun itself ended have exit code -15 (SIGTERM); `max` prefers a
        # process that failed by itself.
        failure = max(error.failures.values(), key=lambda each: each.exitcode)
        status = failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
        if failure.exitcode < 0:
            message = f"{failure.signal_name()} ended process {failure.local_rank}"
    except SignalException as error:
        status = 128 + error.sigval
        if error.sigval == signal.SIGTERM:  # on Ctrl-C the processes themselves print this
            message = "stopped"
    finally:
        logging.disable(before)
    if message:
        print(f"recbole-qbert: {message}; add --resume=True to continue", file=sys.stderr)
    return status


def number_of_processes(given: Any) -> int:
    """Return `nproc` as a number, 1 if it is not given; an `InputError` if it is not a number."""
    return whole_number("nproc", 1 if given in (None, "") else given)


@contextlib.contextmanager
def first_error_only() -> Iterator[None]:
    """Let only the first failing process of a distributed run report its error.

    All other failing processes exit silently with its status. All processes find a fault in the
    user's input, and a process whose peer has died fails later with a less relevant error.
    """
    if not launched():
        yield
        return
    store, rank, _ = next(dist.rendezvous("env://"))
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        status = {InputError: 2, KeyboardInterrupt: 130}.get(type(error), 1)
        first, status = map(int, store.compare_set("failed", "", f"{rank} {status}").split())
        if first != rank:
            raise SystemExit(status) from None
        raise


@contextlib.contextmanager
def joined(configs: Sequence[Config]) -> Iterator[None]:
    """Initialize the process group, if this is a distributed run, and set each config's device.

    Raises:
        InputError: there are more processes than GPUs.
    """
    if not launched() or dist.is_initialized():
        yield
        return
    device = configs[0]["device"]
    if device.type == "cuda":
        n_local, n_gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if n_local > n_gpus:
            raise InputError(
                f"{n_local} processes share {counted(n_gpus, 'GPU')}; start fewer (nproc), name "
                "more (gpu_id) or set use_gpu: False"
            )
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    for config in configs:
        config["device"] = device
        config["show_progress"] = config["show_progress"] and is_main()
    if not is_main():  # process 0 reports the same
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
    yield
    # Not in a `finally`: after an error, a peer in a collective call could block this process.
    dist.destroy_process_group()


def generator_states(device: torch.device) -> dict[str, Any]:
    """Return the states of all global random generators that this process uses."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def set_generator_states(states: dict[str, Any], device: torch.device) -> None:
    """Restore states of `generator_states`, in any process and on any GPU."""
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"][0].cpu(), device)
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])


@contextlib.contextmanager
def own_randomness(device: torch.device, *entropy: int) -> Iterator[None]:
    """Seed all generators from `entropy` during the block, and restore them afterwards."""
    before = generator_states(device)
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        set_generator_states(before, device)


class PartialLoss(nn.Module):
    """Loss of one process's share of a batch; the mean over processes is the batch's loss.

    Process r of W takes the r-th of W equal contiguous parts of the B rows, so that a user's
    prefixes stay together (`batch_by: user`). Its loss is W * n_r / n * loss_r, where loss_r is the
    mean over the part's n_r terms, and n is the number of terms of the whole batch. If the model's
    loss is a sum over terms (`sums`), it is W * loss_r.

    A model with random draws for the whole batch, such as masks, has two methods:
    `draw_batch(interaction)`, called with equal generators in all processes, returns an object with
    `part(rows)` and `n_terms`, and `batch_loss(batch)` is the loss of a part. For other models,
    `row_loss` is the loss. Random numbers within a part's loss, such as dropout, differ between
    processes.
    """

    def __init__(
        self,
        model: Any,
        row_loss: Callable[[Interaction], Any],
        seed: int,
        rank: int,
        size: int,
        sums: bool = False,
    ):
        super().__init__()
        self.model, self.row_loss, self.sums = model, row_loss, sums
        self.seed, self.rank, self.size = seed, rank, size
        self.step = 0  # since training began, steps before a resume included
        device = next(model.parameters()).device
        # A process without rows needs a parameter with a gradient, or the others would wait. In
        # other steps it is unused, which avoids a warning of `find_unused_parameters`.
        self.anchor = nn.Parameter(torch.zeros((), device=device))

    def forward(self, interaction: Interaction) -> Tensor:
        """Return a scalar; zero if B < W and this process has no rows."""
        ranks = (self.rank, self.rank + 1)
        rows = slice(*(-(-len(interaction) * rank // self.size) for rank in ranks))
        if hasattr(self.model, "draw_batch"):
            whole = self.model.draw_batch(interaction)
            part, loss_of = whole.part(rows), self.model.batch_loss
            share = part.n_terms / whole.n_terms
        else:
            part, loss_of = interaction[rows], self.row_loss
            share = n_terms(part) / max(1, n_terms(interaction))
        self.step += 1
        if share == 0:
            return 0.0 * self.anchor
        with own_randomness(self.anchor.device, self.seed, self.step, self.rank):
            losses = loss_of(part)
        loss: Tensor = torch.stack(losses).sum() if isinstance(losses, tuple) else losses
        return loss * (self.size if self.sums else share * self.size)


def n_terms(interaction: Interaction) -> int:
    """Return the number of terms that RecBole's loss averages: masked positions, or rows."""
    if BERT4REC_MASKS in interaction:
        return int((interaction[BERT4REC_MASKS] > 0).sum())
    return len(interaction)


class ParallelLoss:
    """Replacement for a model's `calculate_loss` in distributed training.

    In every process its value is the loss, and `backward` leaves the gradients, of the whole batch.
    """

    def __init__(
        self, model: nn.Module, row_loss: Callable[[Interaction], Any], seed: int, sums: bool
    ):
        self._part = PartialLoss(model, row_loss, seed, *world(), sums)
        # Buffers made from the data, such as whitened vectors, can differ between machines.
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)
        known = inspect.signature(DistributedDataParallel).parameters
        # PyTorch 2.13 renamed the argument.
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        settings: dict[str, Any] = {"find_unused_parameters": True, buffers: False}
        self._parallel = DistributedDataParallel(self._part, **settings)

    def begin_epoch(self, step: int) -> None:
        """Set the number of steps done before, and synchronize the generators of all processes.

        Generators may differ because a model may draw random numbers while it ranks.
        """
        self._part.step = step
        device = self._part.anchor.device
        states = [generator_states(device)]
        dist.broadcast_object_list(states)
        set_generator_states(states[0], device)

    def __call__(self, interaction: Interaction) -> Tensor:
        """Return the loss of the batch, a scalar."""
        loss = self._parallel(interaction)
        whole = sum_over_processes(loss.detach() / self._part.size)
        return whole + (loss - loss.detach())  # value of `whole`, gradient of `loss`
