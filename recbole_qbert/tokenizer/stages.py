"""Base classes of the stages' settings, and the hash of everything that a stage depends on."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.output import counted
from recbole_qbert.common.yaml_files import load_yaml, shipped
from recbole_qbert.config.fields import STRICT, Fields
from recbole_qbert.config.settings import Layers
from recbole_qbert.data.codec import CODEBOOK_LIMIT

# Version of the algorithms, part of each stage's hash. Increase it when a stage computes another
# result from the same inputs. The package version is not hashed, so that a release does not
# retrain tokenizers.
ALGORITHM = 1

Size = Annotated[int, Field(ge=1, le=CODEBOOK_LIMIT)]


class StageSettings(BaseModel):
    """Base class of the settings of a stage.

    Attributes:
        section: section of `properties/tokenize.yaml` with the defaults of the fields; "" for a
            class whose fields have defaults of their own.
    """

    model_config = ConfigDict(**STRICT, frozen=True)
    section: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _add_shipped_defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return {**shipped_section(cls.section), **given}

    @classmethod
    def missing(cls, given: Mapping[str, Any]) -> list[str]:
        """Return the keys that have neither a default nor a given value."""
        known = {**shipped_section(cls.section), **given}
        fields = cls.model_fields.items()
        return [key for key, field in fields if field.is_required() and key not in known]


class QuantizerSettings(StageSettings):
    """Settings that all quantizers share.

    Attributes:
        n_levels: K.
        codebook_size: number of codes of each level, one number or K.
    """

    n_levels: Layers
    codebook_size: Size | list[Size]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """K sizes S_k."""
        size = self.codebook_size
        return tuple(size) if isinstance(size, list) else (size,) * self.n_levels


S = TypeVar("S", bound=StageSettings)


@functools.cache
def shipped_section(section: str) -> dict[str, Any]:
    """Return a section of `properties/tokenize.yaml`; {} if it has none of this name."""
    content: dict[str, Any] = load_yaml(shipped("tokenize.yaml")).get(section, {})
    return content


_fields = functools.cache(Fields)


def read_settings(kind: type[S], section: str, given: Mapping[str, Any]) -> S:
    """Build the settings of a stage; keys that are not given have their defaults.

    Args:
        kind: class of the settings.
        section: name of the section, for messages.
        given: settings.

    Raises:
        InputError: a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    known = kind.model_fields
    for key in given:
        if key not in known:
            raise InputError(f"{section}.{key}: unknown setting{did_you_mean(str(key), known)}")
    for key in kind.missing(given):
        raise InputError(f"{section}.{key}: missing; set {section}.{key}")
    try:
        _fields(kind).check(given)
    except InputError as error:
        raise InputError(f"{section}.{error}") from None
    return kind(**given)


def check_sizes(n_levels: Any, codebook_size: Any) -> None:
    """Check that a list of codebook sizes has one size per level.

    Raises:
        InputError: it has another number of sizes.
    """
    several = isinstance(codebook_size, list) and isinstance(n_levels, int)
    if several and len(codebook_size) != n_levels:
        raise InputError(
            f"codebook_size: {codebook_size} has {counted(len(codebook_size), 'size')} for "
            f"{counted(n_levels, 'level')}; give one number, or one number per level"
        )


def stage_hash(settings: Any, arrays: Sequence[np.ndarray]) -> str:
    """Hash everything that a stage depends on: JSON values and arrays."""
    digest = hashlib.sha256(json.dumps([ALGORITHM, settings], sort_keys=True).encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
