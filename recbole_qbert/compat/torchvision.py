"""Workaround for a torchvision built for another PyTorch than the installed one."""

from __future__ import annotations

import contextlib
import sys

import torch

_LIBRARIES: list[torch.library.Library] = []  # keeps the operators defined: they end with it


def import_torchvision() -> None:
    """Import torchvision, if it is installed, even if its operators cannot be loaded.

    A common pair is PyTorch for CPUs with the torchvision from PyPI, which is built for CUDA; pip
    sees no conflict. Its operators cannot be loaded then, and the import fails with
    `operator torchvision::nms does not exist`. transformers and OpenCLIP import torchvision but use
    no operator of it. So this function defines the operators' signatures without implementations
    and imports it again; later imports find it in `sys.modules`.
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
