"""Where a network runs and in which numbers."""

from __future__ import annotations

import torch

from recbole_qbert.common.errors import InputError, one_of

DTYPES = ("auto", "float32", "bfloat16", "float16")


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` is the GPU where there is one.

    Raises:
        InputError: an unknown name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r} is unknown; give auto, cpu, cuda or cuda:1") from None


def check_device(device: torch.device) -> None:
    """Before anything is loaded onto it.

    Raises:
        InputError: a GPU is asked for and there is none.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {str(device)!r}: no GPU is there; give device=cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The data type of a name in `DTYPES`; `auto` is half precision on a GPU.

    Raises:
        InputError: an unknown name.
    """
    one_of("dtype", name, DTYPES)
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
