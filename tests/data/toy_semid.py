"""A small semantic-ID table, the bytes of its file, and what a refusal says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.semid import HEADER, SemanticIDTable

SOURCE = {"seed": 7, "command": "tokenize", "made_from": {"codes.npy": "ab" * 32}}
GOOD = f"{HEADER}\nx1\ta_0 b_1\nx2\ta_0 b_2\nx3\ta_3 b_1\n"


def small_table() -> SemanticIDTable:
    """The items of GOOD; the second codebook is larger than its codes tell."""
    return SemanticIDTable(("x1", "x2", "x3"), np.array([[0, 1], [0, 2], [3, 1]]), (4, 5))


def refusal(call: Callable[[], Any]) -> str:
    """The message of the InputError that `call` raises: one printable line."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable()
    return message


def file_of(folder: Path, content: str | bytes) -> Path:
    """A semantic-ID file of this content, without a sidecar."""
    path = folder / "ds.semid"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
