"""Export of a bundle's model to ONNX, with a check against PyTorch. It needs the extra `onnx`.

Shapes: B histories, L = MAX_ITEM_LIST_LENGTH, N items (padding included).
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_qbert._version import __version__
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import atomic_write
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.models.layers.item_representation import ItemRepresentation
from recbole_qbert.serving.bundle import describe_error
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.serving.scoring import scores_of
from recbole_qbert.speedups.s3rec_pretraining import view_of
from recbole_qbert.speedups.trimmed_forward import apply_speedups

OPSET = 17
LARGEST_DIFFERENCE = 1e-4
_AT_ONCE = 32  # histories of a checked batch


def export_onnx(recommender: Recommender, folder: Path, output: Path) -> float:
    """Write the model of a bundle as an ONNX file with one input and one output.

    The input `items` int64 [B, L] has the right-padded histories: numbers of items from 1, in the
    order of `items.json`, and 0 as padding. The output `scores` float32 [B, N - 1] has the scores
    of all items in that order. B is free.

    Args:
        recommender: the bundle, loaded on the CPU.
        folder: folder of the bundle.
        output: file to write.

    Returns:
        The largest difference of a score from PyTorch's.

    Raises:
        InputError: the model cannot be exported, or ONNX Runtime gives other scores. Nothing is
            written.
    """
    name = recommender.config["model"]
    try:
        content = _traced(recommender)
        difference = _largest_difference(recommender, content)
    except Exception as error:  # the exporter may raise anything
        reason = describe_error(error)
        raise InputError(f"model {name}: cannot be exported to ONNX ({reason})") from error
    if not difference <= LARGEST_DIFFERENCE:
        raise InputError(
            f"model {name}: cannot be exported to ONNX (scores differ from PyTorch's by up to "
            f"{difference:.1e})"
        )
    model = onnx.load_model_from_string(content)
    notes = {"model": name, "recbole_qbert": __version__}
    onnx.helper.set_model_props(model, notes | {"bundle": sha256_file(folder / "manifest.json")})
    with atomic_write(output, "wb") as handle:
        handle.write(model.SerializeToString())
    return difference


class ItemScores(nn.Module):
    """The scores of all items but the padding, from the numbers of the items alone."""

    def __init__(self, recommender: Recommender):
        super().__init__()
        model = recommender.model
        apply_speedups(model, recommender.config)
        if isinstance(getattr(model, "items", None), ItemRepresentation):
            fixed: dict[str, Any] = {"items": _FixedItems(model.item_matrix())}
            if getattr(model, "content", None) is not None:
                fixed["content"] = None  # the matrix has it
            model = view_of(model, **fixed)
        self.model = model

    def forward(self, items: Tensor) -> Tensor:
        """Return the scores [B, N - 1] for histories [B, L]."""
        lengths = (items > 0).sum(dim=1)
        model: Any = self.model
        fields = {model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: lengths}
        scores = model.full_sort_predict(Interaction(fields))
        return scores.view(items.size(0), -1)[:, 1:].float()


class _FixedItems(ItemRepresentation):
    """Item matrix that is computed once."""

    def __init__(self, matrix: Tensor):
        super().__init__()
        self.matrix = matrix

    def forward(self, rows: Tensor | None = None) -> Tensor:
        return self.matrix if rows is None else self.matrix[rows]


@torch.no_grad()
def _traced(recommender: Recommender) -> bytes:
    """Trace the model for two histories, the first of full length."""
    width = recommender.config["MAX_ITEM_LIST_LENGTH"]
    items = torch.ones(2, width, dtype=torch.long)
    items[1, 1:] = 0
    found: Any = io.BytesIO()
    with _exporting(width):
        torch.onnx.export(
            ItemScores(recommender).eval(),
            (items,),
            found,
            input_names=["items"],
            output_names=["scores"],
            dynamic_axes={"items": {0: "histories"}, "scores": {0: "histories"}},
            opset_version=OPSET,
            dynamo=False,
        )
    content: bytes = found.getvalue()
    return content


@contextlib.contextmanager
def _exporting(width: int) -> Iterator[None]:
    """Set PyTorch up for an export: no fused layers, no output, `cummax` of `width` numbers."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch.onnx.register_custom_op_symbolic("aten::cummax", _cummax_of(width), OPSET)
    try:
        with warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.onnx.unregister_custom_op_symbolic("aten::cummax", OPSET)
        torch.backends.mha.set_fastpath_enabled(fused)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drop standard output: the exporter prints the graph if it fails, parts of it from C++."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        with contextlib.suppress(OSError):  # of a process without standard output
            kept = os.dup(1)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 1)  # before `kept` is closed
            nowhere = stack.enter_context(open(os.devnull, "wb"))
            os.dup2(nowhere.fileno(), 1)
        yield


def _cummax_of(width: int) -> Any:
    """Return the ONNX form of `cummax` of whole numbers [B, width] along the last dimension."""

    def cummax(g: Any, values: Any, dim: Any) -> Any:
        before = g.op("Constant", value_t=torch.ones(width, width, dtype=torch.bool).tril())
        least = g.op("Constant", value_t=torch.tensor(torch.iinfo(torch.long).min))
        last = g.op("Constant", value_t=torch.tensor([1]))
        rows = g.op("Unsqueeze", values, last)  # [B, 1, width]
        found = g.op("Where", before, rows, least)  # [B, width, width]
        largest = g.op("ReduceMax", found, axes_i=[2], keepdims_i=0)
        return largest, largest  # nothing reads the second output, the places

    return cummax


def _largest_difference(recommender: Recommender, content: bytes) -> float:
    """Compare scores of random histories of all lengths, in batches of several sizes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised too
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    width = recommender.config["MAX_ITEM_LIST_LENGTH"]
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randperm(max(width, 2 * _AT_ONCE), generator=draw) % width + 1
    items = torch.randint(1, len(recommender.tokens) + 1, (len(lengths), width), generator=draw)
    items[torch.arange(width) >= lengths.unsqueeze(1)] = 0
    differences = []
    for first in range(0, len(lengths), _AT_ONCE):  # the last batch has another size
        rows, n = items[first : first + _AT_ONCE], lengths[first : first + _AT_ONCE]
        expected = scores_of(recommender.model, recommender.config, rows, n)[:, 1:].numpy()
        (found,) = session.run(None, {"items": rows.numpy()})
        with np.errstate(invalid="ignore"):  # two infinite scores
            differences.append(np.where(found == expected, 0, np.abs(found - expected)).max())
    return float(np.max(differences))
