"""What torchvision needs beside a PyTorch that it was not built for."""

from __future__ import annotations

import contextlib
import sys

import torch

_LIBRARIES: list[torch.library.Library] = []  # an operator ends with its Library object


def import_torchvision() -> None:
    """Import torchvision, if it is there, so that those who need it find it imported.

    PyTorch for CPUs beside the torchvision that PyPI serves, which is built for CUDA, is a common
    pair, because pip sees no conflict. Its operators cannot be loaded then, and the import stops
    with `operator torchvision::nms does not exist` while it describes them. transformers and
    OpenCLIP import torchvision but use no operator of it; so the operators get a signature without
    an implementation, and the import is done again.
    """
    with contextlib.suppress(ModuleNotFoundError):
        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            if "torchvision::nms does not exist" not in str(error):
                raise
            for name in [each for each in sys.modules if each.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _LIBRARIES.append(library)
            import torchvision  # noqa: F401
