"""Choice of the device and the data type of an encoder."""

from __future__ import annotations

import torch

from recbole_qbert.common.errors import InputError, one_of
from recbole_qbert.common.output import counted
from recbole_qbert.common.process import has_bfloat16

DTYPES = ("auto", "float32", "bfloat16", "float16")


def choose_device(name: str) -> torch.device:
    """Return the device of a name; `auto` selects the GPU if there is one.

    Raises:
        InputError: the name is unknown.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r} is unknown; give auto, cpu, cuda or cuda:1") from None


def check_device(device: torch.device) -> None:
    """Raise an InputError if the device is a GPU that is not there, before anything is loaded."""
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        raise InputError(f"device {str(device)!r}: this machine has no GPU; give device=cpu")
    if (device.index or 0) >= torch.cuda.device_count():
        there = counted(torch.cuda.device_count(), "GPU")
        raise InputError(f"device {str(device)!r}: this machine has {there}, from cuda:0 on")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the data type of a name in `DTYPES`; `auto` selects half precision on a GPU.

    Raises:
        InputError: the name is unknown.
    """
    one_of("dtype", name, DTYPES)
    if name == "auto" and device.type == "cuda":
        name = "bfloat16" if has_bfloat16(device) else "float16"
    dtype: torch.dtype = getattr(torch, "float32" if name == "auto" else name)
    return dtype
