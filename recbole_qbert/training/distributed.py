"""One run over several processes, with the result it would have in one.

torchrun starts the same command in W processes; `launch` does so for `--nproc=W`. Each loads the
same data and goes through the same batches: in training it computes the loss of a W-th of the rows
and gradients are averaged, in evaluation it ranks every W-th batch and ranks are put together.
Process 0 alone writes and prints.

RecBole's own way is left off (`single_spec` stays True): it needs NCCL, cuts the batch size by W,
and averages metrics over processes.
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
import recbole.trainer.trainer
import torch
import torch.distributed as dist
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recbole_qbert.common.errors import InputError, whole_number
from recbole_qbert.common.process import n_cores
from recbole_qbert.common.process_group import is_main, sum_over_processes, world
from recbole_qbert.speedups.trimmed_forward import BERT4REC_MASKS

# Processes ---------------------------------------------------------------------------------------


def launched() -> bool:
    """Whether torchrun, or what sets the same variables, started this process beside others."""
    given = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return given and int(os.environ["WORLD_SIZE"]) > 1


def launch(n_processes: int, arguments: Sequence[str]) -> int:
    """Run `recbole-qbert <arguments>` in several processes of this machine.

    The same as `torchrun --standalone --nproc_per_node=N -m recbole_qbert <arguments>`, without
    torchrun's own report of a failure.

    Returns:
        the exit status: 0, that of a process that failed, or 128 and a signal's number.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # torchrun would give one thread to each; whoever starts it may know better.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, n_cores() // n_processes)))
    flags = ["--standalone", f"--nproc_per_node={n_processes}", "-m", "recbole_qbert"]
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        torchrun([*flags, *arguments])
    except ChildFailedError as error:
        # Those that torchrun itself ended afterwards count least: SIGTERM is number 15.
        failure = max(error.failures.values(), key=lambda each: each.exitcode)
        if failure.exitcode >= 0:
            return failure.exitcode
        ended = f"process {failure.local_rank} was ended by {failure.signal_name()}"
        print(f"recbole-qbert: {ended}; add --resume=True to go on", file=sys.stderr)
        return 128 - failure.exitcode
    except SignalException as error:
        if error.sigval == signal.SIGTERM:  # of Ctrl-C the processes know, and say so
            print("recbole-qbert: stopped; add --resume=True to go on", file=sys.stderr)
        return 128 + error.sigval
    finally:
        logging.disable(before)
    return 0


def number_of_processes(given: Any) -> int:
    """`nproc` as a number; 1 where nothing is given."""
    return whole_number("nproc", 1 if given in (None, "") else given)


@contextlib.contextmanager
def first_error_only() -> Iterator[None]:
    """Of processes that fail in the block, let the first one speak; all end with its exit status.

    A fault in what the user gave is found by all of them, and a process whose peer has gone fails
    too, later and less to the point.
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
    """Make the launched processes one group for the block and give each config its device.

    Raises:
        InputError: more processes than GPUs.
    """
    if not launched() or dist.is_initialized():
        yield
        return
    device = configs[0]["device"]
    if device.type == "cuda":
        n_local, n_gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if n_local > n_gpus:
            raise InputError(
                f"{n_local} processes share {n_gpus} GPUs; start fewer (nproc), name more (gpu_id) "
                f"or set use_gpu: False"
            )
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    for config in configs:
        config["device"] = device
    if not is_main():
        for config in configs:
            config["show_progress"] = False
        _fall_silent()
    yield
    # Not after an error: a peer that is still in a collective call could hold this process here.
    dist.destroy_process_group()


class _NoBoard:
    """In place of TensorBoard's writer."""

    def add_scalar(self, *_: Any) -> None: ...

    def add_hparams(self, *_: Any) -> None: ...


def _fall_silent() -> None:
    """No log, warning or TensorBoard file from this process; process 0 has the same to tell."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    recbole.trainer.trainer.get_tensorboard = lambda logger: _NoBoard()


# Random numbers ----------------------------------------------------------------------------------


def generator_states(device: torch.device) -> dict[str, Any]:
    """The states of all global generators that this process draws from."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def set_generator_states(states: dict[str, Any], device: torch.device) -> None:
    """Take over what `generator_states` gave, in whatever process and on whatever GPU."""
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"][0].cpu(), device)
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])


@contextlib.contextmanager
def own_randomness(device: torch.device, *entropy: int) -> Iterator[None]:
    """What the block draws depends on `entropy` alone; afterwards all generators are as before."""
    before = generator_states(device)
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        set_generator_states(before, device)


# Training ----------------------------------------------------------------------------------------


class PartialLoss(nn.Module):
    """One process's part of a model's loss; the mean over processes is the loss of the batch.

    Process r of W has the r-th of W equal stretches of the B rows, so that a user's prefixes stay
    together (`batch_by: user`). The mean over them is weighted by their share of the terms that the
    whole batch's mean has, times W. A model that draws something for
    the whole batch (masks) offers `draw_batch(interaction)`, called with generators that are equal
    in all processes, and `batch_loss(batch)`; what it returns has `part(rows)` and `n_terms`. Of
    other models `row_loss` is the loss.
    Whatever a part's loss draws (dropout) is the process's own.
    """

    def __init__(
        self, model: Any, row_loss: Callable[[Interaction], Any], seed: int, rank: int, size: int
    ):
        super().__init__()
        self.model, self.row_loss = model, row_loss
        self.seed, self.rank, self.size = seed, rank, size
        self.step = 0  # since training began, whatever was resumed
        device = next(model.parameters()).device
        # What a process without rows sends its gradient to, or the others would wait for it. As
        # long as all have rows, PyTorch does not complain that it looks for unused parameters.
        self.anchor = nn.Parameter(torch.zeros((), device=device))

    def forward(self, interaction: Interaction) -> Tensor:
        """A scalar; zero where B is less than W and no row is left for this process."""
        begin, end = (
            -(-len(interaction) * rank // self.size) for rank in (self.rank, self.rank + 1)
        )
        rows = slice(begin, end)
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
        return loss * (share * self.size)


def n_terms(interaction: Interaction) -> int:
    """How many terms RecBole's losses take the mean over: masked positions in BERT4Rec, or rows."""
    if BERT4REC_MASKS in interaction:
        return int((interaction[BERT4REC_MASKS] > 0).sum())
    return len(interaction)


class ParallelLoss:
    """In place of a model's `calculate_loss`, in several processes.

    Its value is the loss of the whole batch in each of them; `backward` leaves the same gradients
    in each, those of the whole batch.
    """

    def __init__(self, model: nn.Module, row_loss: Callable[[Interaction], Any], seed: int):
        self._part = PartialLoss(model, row_loss, seed, *world())
        known = inspect.signature(DistributedDataParallel).parameters
        # The name since PyTorch 2.13, and the one before.
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        settings: dict[str, Any] = {"find_unused_parameters": True, buffers: False}
        self._parallel = DistributedDataParallel(self._part, **settings)

    def begin_epoch(self, step: int) -> None:
        """`step` were done before. Generators are made equal, should a model have drawn numbers
        while it ranked."""
        self._part.step = step
        device = self._part.anchor.device
        states = [generator_states(device)]
        dist.broadcast_object_list(states)
        set_generator_states(states[0], device)

    def __call__(self, interaction: Interaction) -> Tensor:
        """A scalar."""
        loss = self._parallel(interaction)
        whole = sum_over_processes(loss.detach() / self._part.size)
        return whole + (loss - loss.detach())  # the value of one, the gradient of the other
