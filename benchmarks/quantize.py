"""Quantization of a million vectors into code tuples: the RQ-VAE with reallocation, and faiss.

The vectors are synthetic: a tree of centers (64 x 64 x 64, each level with half the standard
deviation of the one above) and noise around the lowest centers, so that each level of a residual
quantizer has structure to encode. A round is a new process that runs all steps, about eight minutes
for a million items (`--rounds=1`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter, process_time

import numpy as np

from benchmarks.harness import Benchmark, Measure, Reading, of_quantities, peak_bytes

N_LEVELS, CODEBOOK_SIZE, BRANCHES = 4, 256, 64
_BLOCK = 1 << 16


def vectors(options: argparse.Namespace) -> np.ndarray:
    """Generate the vectors, float32 [items, dimension]."""
    rng = np.random.default_rng(2026)
    shape = (BRANCHES, options.dimension)
    centers = [
        rng.standard_normal((BRANCHES**level, *shape), dtype=np.float32) / 2**level
        for level in range(3)
    ]
    made = np.empty((options.items, options.dimension), dtype=np.float32)
    for start in range(0, len(made), _BLOCK):
        block = made[start : start + _BLOCK]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32) / 8
        path = np.zeros(len(block), dtype=np.int64)
        for level in centers:
            step = rng.integers(BRANCHES, size=len(block))
            block += level[path, step]
            path = path * BRANCHES + step
    return made


def _rqvae(options: argparse.Namespace) -> Reading:
    """Run stage 2 with its default settings, then reallocation."""
    import torch

    from recbole_qbert.tokenizer.collisions import reallocate
    from recbole_qbert.tokenizer.quantizers.registry import fit_quantizer

    torch.set_num_threads(options.threads)
    given = vectors(options)
    start, cpu_start = perf_counter(), process_time()
    settings = {"n_levels": N_LEVELS, "codebook_size": CODEBOOK_SIZE}
    quantizer = fit_quantizer(given, "rqvae", settings, seed=2026)
    fitted = perf_counter()
    codes = quantizer.encode(given)
    encoded = perf_counter()
    result = reallocate(
        codes,
        lambda rows: quantizer.distances(given[rows]),
        quantizer.codebook_sizes,
        [str(row) for row in range(len(given))],
    )
    done, cpu_seconds = perf_counter(), process_time() - cpu_start
    peak = peak_bytes() / 2**30
    report = quantizer.report(given)
    return {
        "seconds to fit": fitted - start,
        "seconds to encode": encoded - fitted,
        "seconds to reallocate": done - encoded,
        "seconds in all": done - start,
        "CPU seconds in all": cpu_seconds,
        "peak GiB": peak,
        "relative error": report["levels"][-1]["relative_error"],
        "least usage": min(level["usage"] for level in report["levels"]),
        "collisions before": report["collisions"],
        "collisions after": len(given) - len(np.unique(result.codes, axis=0)),
        "items moved": int((result.codes != codes).any(axis=1).sum()),
    }


def _faiss(options: argparse.Namespace) -> Reading:
    """Run faiss's residual quantizer: the same levels and codes, greedy as in eq. 6; not unique."""
    import faiss

    faiss.omp_set_num_threads(options.threads)
    given = vectors(options)
    start, cpu_start = perf_counter(), process_time()
    quantizer = faiss.ResidualQuantizer(options.dimension, N_LEVELS, CODEBOOK_SIZE.bit_length() - 1)
    quantizer.max_beam_size = 1
    quantizer.train(given)
    fitted = perf_counter()
    codes = quantizer.compute_codes(given)  # one byte per level
    done, cpu_seconds = perf_counter(), process_time() - cpu_start
    peak = peak_bytes() / 2**30
    error = total = 0.0
    mean = given.mean(axis=0)
    for first in range(0, len(given), _BLOCK):
        block = given[first : first + _BLOCK]
        error += float(np.square(block - quantizer.decode(codes[first : first + _BLOCK])).sum())
        total += float(np.square(block - mean).sum())
    return {
        "seconds to fit": fitted - start,
        "seconds to encode": done - fitted,
        "seconds in all": done - start,
        "CPU seconds in all": cpu_seconds,
        "peak GiB": peak,
        "relative error": error / total,
        "least usage": min(len(np.unique(column)) for column in codes.T) / CODEBOOK_SIZE,
        "collisions before": len(given) - len(np.unique(codes, axis=0)),
    }


def _once(work: Callable[[argparse.Namespace], Reading]) -> Callable[..., Measure]:
    """Create a side that runs all of the work in one round."""
    return lambda options: lambda number: work(options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=256)


BENCHMARKS = {
    "quantize": Benchmark(
        sides={"faiss": _once(_faiss), "QBERT4Rec": _once(_rqvae)},
        pairs=[("QBERT4Rec", "faiss")],
        ratios=of_quantities("seconds in all", "CPU seconds in all", "peak GiB"),
        add_options=_add_options,
        fresh=True,
    )
}
