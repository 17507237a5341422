"""Inference cost of models: parameters, multiply-accumulates and latency (the paper's Table 6).

Shapes: B batch size, L items per history (`MAX_ITEM_LIST_LENGTH`), N items of the catalog including
the padding row, D hidden size, T tokens per item. All measurements are of one `full_sort_predict`,
which makes the item vectors and ranks the catalog for one user with a history of L items. Models
are not trained, because the cost does not depend on the values of the weights.

A multiply-accumulate (MAC) is one multiplication and one addition, 2 FLOPs. In every row of the
paper, the column "FLOPs" is 50 x the parameters (185.36 / 3.71, 225.68 / 4.51, 282.14 / 5.64),
where 50 is the paper's longest history. So the paper counts MACs, one per parameter and position,
as if the catalog were scored at all 50 positions, and omits the products of attention. The table
therefore shows three counts:

* `macs_by_formula`: L x parameters, as in the paper, for any model;
* `macs_closed_form`: products in QBERT4Rec's layers if only the masked item is scored;
* `macs_counted`: half of the count of `torch.utils.flop_counter`, which covers matrix products and
  convolutions, but no element-wise operations, look-ups or sums of code vectors.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from recbole_qbert.common.errors import InputError
from recbole_qbert.experiments.benchmark.tables import BenchmarkTable, TableCell
from recbole_qbert.models.layers.item_representation import ItemRepresentation
from recbole_qbert.models.layers.kept_items import KeepsItems
from recbole_qbert.registry import build_model
from recbole_qbert.speedups.trimmed_forward import apply_speedups

TOP_K = 10
BATCH_USERS = 256
REPEATS = 50  # timed calls with one user, after WARM_UP untimed
BATCH_REPEATS = 10  # timed calls with BATCH_USERS users, after one untimed
WARM_UP = 5

PARAMETERS, MACS = "parameters", "M MACs, L x parameters"  # row labels
PAPER_LATENCY = "RTX 4090 (the paper's), ms"
# Q-BERT4Rec: Quantized Semantic-ID Representation Learning for Multimodal Recommendation, Table 6:
# million FLOPs, million parameters, milliseconds per sample on an RTX 4090.
PAPER_TABLE_6 = {
    "Instruments": (185.36, 3.71, 2.66),
    "Arts": (225.68, 4.51, 2.67),
    "Games": (282.14, 5.64, 2.69),
}


@dataclass(frozen=True)
class Latency:
    """Milliseconds of `full_sort_predict` and top-10 selection, in float32, batch on the device."""

    device: str
    median_ms: float  # one user
    p95_ms: float  # one user, 95th percentile
    batch_ms: float  # per user, in a batch of BATCH_USERS


@dataclass(frozen=True)
class Complexity:
    """Measurements of one model on one data set."""

    model: str
    dataset: str
    n_items: int  # without the padding row
    max_length: int  # L
    parameters: int
    item_parameters: int
    macs_by_formula: int
    macs_closed_form: int | None  # None for models other than QBERT4Rec
    macs_counted: int
    latencies: list[Latency]


def measure(config: Config, train_dataset: Any, test_loader: Any) -> Complexity:
    """Build the config's model with new weights, and measure its size, MACs and latency.

    MACs are counted on the CPU, where no fused kernel hides products from the counter. Latency is
    measured on the CPU and, if it is another one, on the config's device.

    Raises:
        InputError: the model scores only given items and cannot rank the catalog.
    """
    cpu = torch.device("cpu")
    devices = list(dict.fromkeys((cpu, config["device"])))
    one, many = (full_histories(test_loader, config, n_rows) for n_rows in (1, BATCH_USERS))
    latencies = []
    for device in devices:
        config["device"] = device  # several of RecBole's models create tensors on it
        model = build_model(config, train_dataset).to(device).eval()
        apply_speedups(model, config)
        if device == cpu:
            parameters, item_parameters = count_parameters(model)
            by_formula = getattr(model, "closed_form_macs", None)
            closed_form = by_formula() if by_formula else None
            try:
                counted = counted_macs(model, one)
            except NotImplementedError:
                raise InputError(
                    f"model {config['model']}: it scores given items only, not the catalog"
                ) from None
        latencies.append(time_ranking(model, one.to(device), many.to(device), device))
    max_length = config["MAX_ITEM_LIST_LENGTH"]
    return Complexity(
        model=config["model"],
        dataset=config["dataset"],
        n_items=train_dataset.item_num - 1,
        max_length=max_length,
        parameters=parameters,
        item_parameters=item_parameters,
        macs_by_formula=max_length * parameters,
        macs_closed_form=closed_form,
        macs_counted=counted,
        latencies=latencies,
    )


def full_histories(loader: Any, config: Config, n_rows: int) -> Interaction:
    """Take the first rows of a test loader and extend their histories to length L.

    A shorter history is repeated from its end backwards until it fills L places, so that its last
    item remains the last (a b c, L = 7: c a b c a b c). All list fields of the row are extended in
    the same way. If the loader has fewer than `n_rows` rows, they are used repeatedly.
    """
    batch = loader.collate_fn(torch.arange(n_rows) % len(loader._dataset))[0]
    max_length = config["MAX_ITEM_LIST_LENGTH"]
    length_field = config["ITEM_LIST_LENGTH_FIELD"]
    lengths = batch[length_field].unsqueeze(1)  # [B, 1]
    source = (torch.arange(max_length) - max_length) % lengths  # [B, L]
    full = {field: batch[field] for field in batch}
    rows = torch.arange(n_rows).unsqueeze(1)
    for field, values in full.items():
        if field.endswith(config["LIST_SUFFIX"]) and values.shape[1:2] == (max_length,):
            full[field] = values[rows, source]
    full[length_field] = torch.full_like(batch[length_field], max_length)
    return Interaction(full)


def count_parameters(model: Any) -> tuple[int, int]:
    """Count all parameters, and those of the item table.

    The item table is an `ItemRepresentation`, codes or rows; in a model without one, every
    embedding table with a row for each item (N, or N + 1 with a row for a mask).
    """
    tables: list[nn.Module] = [
        module
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        and module.num_embeddings in (model.n_items, model.n_items + 1)
    ]
    own = [module for module in model.modules() if isinstance(module, ItemRepresentation)]
    of_items = {id(parameter) for table in own or tables for parameter in table.parameters()}
    sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
    return sum(sizes.values()), sum(sizes[key] for key in of_items)


def counted_macs(model: Any, batch: Interaction) -> int:
    """Count the MACs of `full_sort_predict` on a CPU with PyTorch's counter."""
    with _every_product_visible(), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.full_sort_predict(batch)
    return counter.get_total_flops() // 2


@contextmanager
def _every_product_visible() -> Iterator[None]:
    """Disable fused blocks and attention, in which the counter sees no products on a CPU."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def time_ranking(model: Any, one: Interaction, many: Interaction, device: torch.device) -> Latency:
    """Measure the latency on a device that holds the model and both batches."""
    single = _milliseconds(model, one, device, WARM_UP, REPEATS)
    batched = _milliseconds(model, many, device, 1, BATCH_REPEATS)
    on_gpu = device.type == "cuda"
    return Latency(
        device=torch.cuda.get_device_name(device) if on_gpu else device.type.upper(),
        median_ms=statistics.median(single),
        p95_ms=float(np.percentile(single, 95)),
        batch_ms=statistics.median(batched) / len(many),
    )


def _milliseconds(
    model: Any, batch: Interaction, device: torch.device, warm_up: int, repeats: int
) -> list[float]:
    """Time each repeat; GPUs are synchronized, since their calls are asynchronous."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    times = []
    with torch.no_grad():
        for _ in range(warm_up + repeats):
            if isinstance(model, KeepsItems):
                model.forget_items()  # each repeat makes the item vectors, as it is counted
            wait(device)
            started = perf_counter()
            best_items(model, batch)
            wait(device)
            times.append(1000 * (perf_counter() - started))
    return times[warm_up:]


def best_items(model: Any, batch: Interaction) -> Tensor:
    """Top `TOP_K` items of each row, [B, min(10, N)]."""
    scores = model.full_sort_predict(batch).view(len(batch), -1)
    return scores.topk(min(TOP_K, scores.size(1))).indices


def complexity_table(found: Sequence[Complexity]) -> BenchmarkTable:
    """Table with a column per model; the paper's values, if any, are next to QBERT4Rec's."""
    columns: list[tuple[str, dict[str, str]]] = []
    for one in found:
        columns.append((one.model, _cells(one)))
        if one.model == "QBERT4Rec" and one.dataset in PAPER_TABLE_6:
            flops, size, latency = PAPER_TABLE_6[one.dataset]
            cells = {PARAMETERS: f"{size} M", MACS: f"{flops}", PAPER_LATENCY: f"{latency}"}
            columns.append(("Table 6", cells))
    sections: list[tuple[str, list[list[TableCell]]]] = [("", [])]
    for label in dict.fromkeys([*columns[0][1], PAPER_LATENCY]):
        texts = [cells.get(label, "") for _, cells in columns]
        if label in (PARAMETERS, MACS, PAPER_LATENCY) or label.endswith("median"):
            sections.append(("", []))
        if any(texts):
            sections[-1][1].append([*map(TableCell, (label, *texts))])
    return BenchmarkTable(
        f"{found[0].dataset}: the whole catalog ranked for one user",
        ("", *(name for name, _ in columns)),
        [section for section in sections if section[1]],
        [
            "1 MAC = 2 FLOPs; the paper counts L x parameters; ms: scores of all items, best "
            f"{TOP_K}"
        ],
    )


def _cells(one: Complexity) -> dict[str, str]:
    """Column of a model, row label -> text."""
    sizes = {
        "items": one.n_items,
        "history length L": one.max_length,
        PARAMETERS: one.parameters,
        "  of the item table": one.item_parameters,
        "  of the rest": one.parameters - one.item_parameters,
    }
    macs = {
        MACS: one.macs_by_formula,
        "  closed form": one.macs_closed_form,
        "  counted": one.macs_counted,
    }
    cells = {label: f"{size:,}" for label, size in sizes.items()}
    cells |= {name: "" if n is None else f"{n / 1e6:,.2f}" for name, n in macs.items()}
    for each in one.latencies:
        cells[f"{each.device}, ms, median"] = f"{each.median_ms:.2f}"
        cells[f"{each.device}, ms, 95th percentile"] = f"{each.p95_ms:.2f}"
        cells[f"{each.device}, ms a user, {BATCH_USERS} at once"] = f"{each.batch_ms:.2f}"
    return cells
