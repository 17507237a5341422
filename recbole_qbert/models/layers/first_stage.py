"""Weights of a first stage of the same model."""

from __future__ import annotations

from collections.abc import Container, Mapping

from torch import Tensor, nn

from recbole_qbert.common.errors import InputError


def with_weights(
    model: nn.Module, given: Mapping[str, Tensor], kept: Container[str], remedy: str
) -> dict[str, Tensor]:
    """Return the model's state with the given weights in place of its own.

    Args:
        model: the model, which is not changed.
        given: state of the first stage, by name.
        kept: names of the entries that stay as they are.
        remedy: end of the message.

    Raises:
        InputError: a weight is missing in `given`, or has another size there.
    """
    own: dict[str, Tensor] = model.state_dict()
    for name, values in own.items():
        if name in kept:
            continue
        found = given.get(name)
        if found is None or found.shape != values.shape:
            was = "missing" if found is None else list(found.shape)
            raise InputError(
                f"pre_model_path: {name} is {was} there and {list(values.shape)} here; {remedy}"
            )
        own[name] = found
    return own
