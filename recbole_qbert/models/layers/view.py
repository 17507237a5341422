"""Copy of a model with other attributes and shared parameters."""

from __future__ import annotations

import copy
from typing import Any


def view_of(model: Any, **changed: Any) -> Any:
    """Return a shallow copy of an `nn.Module` with other attributes and shared parameters.

    Attributes set on the copy do not reach the model. So other threads, hooks,
    DistributedDataParallel and compiled code are not affected.
    """
    view = copy.copy(model)
    view.__dict__.update(changed)  # `setattr` would put modules into the shared `_modules` dict
    return view
