"""Encode shards over Ray Data. No other module of the encoders imports ray."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Generator, Mapping, Sequence

import pyarrow
import ray
import ray.data
import torch
from ray.exceptions import RayTaskError

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.signals import own_sigterm
from recbole_qbert.compat.ray import is_old, lend_packaging, restore_pandas_formatter
from recbole_qbert.encoders.shards import Encoder, Shard, encode_shard

# Workers import this module before they process a block, so the patches apply to them too.
lend_packaging()
restore_pandas_formatter()
# Of Ray Data's context; Ray 2.6.3 reads the first alone.
SETTINGS = {
    "enable_progress_bars": False,  # they count blocks; the driver's counts items
    "print_on_execution_start": False,
    "raise_original_map_exception": True,  # an InputError, in place of Ray's own exception
}


class ShardWorker:
    """Ray Data actor that holds one encoder and turns pickled shards into part files."""

    def __init__(self, encoder_factory: Callable[[], Encoder], n_threads: int):
        self._encoder_factory = encoder_factory
        self._encoder: Encoder | None = None
        self._n_threads = n_threads

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        """Encode a block of `number` and `data`, from pickled shards to part files."""
        if self._encoder is None:
            # Ray gives a worker one thread. Another number of threads changes the rounding of sums.
            torch.set_num_threads(self._n_threads)
            self._encoder = self._encoder_factory()
        shards = [pickle.loads(data) for data in block["data"].to_pylist()]
        # Arrow keeps bytes unchanged; NumPy would cut trailing zeros.
        parts = [encode_shard(self._encoder, shard) for shard in shards]
        return pyarrow.table(
            {"number": block["number"], "data": pyarrow.array(parts, pyarrow.large_binary())}
        )


def encode_over_ray(
    encoder_factory: Callable[[], Encoder], shards: Sequence[Shard], on_gpu: bool
) -> Generator[tuple[int, bytes], None, None]:
    """Yield the number and the part file of each shard when a worker has finished it.

    Each worker creates its own encoder and has a GPU of its own if `on_gpu`, else as many CPUs as
    this process has PyTorch threads. Ray restarts workers that die.

    Raises:
        InputError: the encoder raises it, or needs a GPU and the cluster has none.
    """
    started = not ray.is_initialized()
    if started:
        with own_sigterm():
            ray.init(include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    options, limits = context.execution_options, context.execution_options.resource_limits
    before = {name: getattr(context, name, None) for name in SETTINGS}
    try:
        cluster, n_threads = ray.cluster_resources(), torch.get_num_threads()
        resources, n_workers = _worker_resources(cluster, on_gpu, n_threads)
        vars(context).update(SETTINGS)
        # Ray Data reserves one CPU for tasks. There are no tasks, so workers may have all CPUs.
        options.resource_limits = ray.data.ExecutionResources(cpu=cluster.get("CPU", 0) + 1)
        pool = ray.data.ActorPoolStrategy(
            min_size=1, max_size=min(n_workers, len(shards)), max_tasks_in_flight_per_actor=2
        )
        rows = [{"number": shard.number, "data": pickle.dumps(shard)} for shard in shards]
        # One row per block. (from_arrow would pass the blocks to workers without this module.)
        n_blocks = {"parallelism" if is_old() else "override_num_blocks": len(rows)}
        encoded = ray.data.from_items(rows, **n_blocks).map_batches(
            ShardWorker,
            fn_constructor_args=(encoder_factory, n_threads),
            batch_size=None,  # one block, which is one shard
            batch_format="pyarrow",
            compute=pool,
            **resources,
        )
        for block in encoded.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from zip(block["number"].to_pylist(), block["data"].to_pylist(), strict=True)
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise InputError(str(error.cause)) from None
        raise
    finally:
        vars(context).update(before)
        options.resource_limits = limits
        if started:
            ray.shutdown()


def _worker_resources(
    cluster: Mapping[str, float], on_gpu: bool, n_threads: int
) -> tuple[dict[str, float], int]:
    """Return the resources of one worker, and the number of workers that fit on the cluster."""
    n_gpus = int(cluster.get("GPU", 0))
    if on_gpu and not n_gpus:
        raise InputError("the encoder uses a GPU and the Ray cluster has none; give device=cpu")
    if on_gpu:
        return {"num_gpus": 1}, n_gpus
    n_cpus = max(1, int(cluster.get("CPU", 1)))
    each = min(n_threads, n_cpus)
    return {"num_cpus": each}, n_cpus // each
