"""A model under another skin, for one call."""

from __future__ import annotations

import copy
from typing import Any


def view_of(model: Any, **changed: Any) -> Any:
    """The same model, parameters and modules included, with other attributes.

    What is set on the view, or on a view of it, the model does not know of: other threads, hooks,
    DistributedDataParallel and compiled code see it as it was. It costs a shallow copy.
    """
    view = copy.copy(model)
    view.__dict__.update(changed)  # `setattr` would put a module into the dict that both share
    return view
