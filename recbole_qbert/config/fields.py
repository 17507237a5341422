"""`Fields`: validation of settings by types and ranges, with one-line errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from recbole_qbert.common.errors import InputError, did_you_mean

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_WORDS = {"boolean": "True or False", "string": "text", "object": "a mapping", "null": "~"}
# Remedies that follow the error messages of some keys.
_HINTS = {
    "eval_args": "; leave it out",
    "eval_args.split": "; for another split make its parts with `recbole-qbert prepare split`",
    "eval_args.mode": "; only full ranking is supported",
    "eval_args.order": "; sequences are always ordered by time",
    "output": "; it ends the name of the file <data_path>/<dataset>/<dataset>.<output>",
}
# Descriptions of allowed values that are clearer than those of the types.
_EXPECTED = {"item_vectors": "names of tables, such as text,image, or a mapping {name: file.npz}"}


class Fields:
    """Types and ranges of the keys of a settings class (a `TypedDict`)."""

    def __init__(self, settings: type):
        self._adapter: TypeAdapter[Any] = TypeAdapter(settings)
        self._schema = self._adapter.json_schema()

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise an `InputError` with the first wrong key, its value and the allowed values."""
        try:
            self._adapter.validate_python(dict(settings))
        except ValidationError as error:
            raise InputError(self._message(error.errors()[0]["loc"], settings)) from None

    def allowed(self, key: str) -> dict[str, Any]:
        """Return the JSON schema of a key's values."""
        return self._resolved(self._schema["properties"][key])

    def keys(self) -> list[str]:
        """Return the names of all fields."""
        return list(self._schema["properties"])

    def words(self, key: str) -> list[str]:
        """Return the words that a key's value can be; [] if there are none, or no such key."""
        return self._words(self.allowed(key)) if key in self._schema["properties"] else []

    def _words(self, schema: dict[str, Any]) -> list[str]:
        return [word for each in self.branches(schema) for word in _choices(each)]

    def keys_within(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the keys of the mappings that a schema allows, with their schemas."""
        found: dict[str, Any] = {}
        for each in self.branches(schema):
            found |= each.get("properties", {})
        return {key: self._resolved(each) for key, each in found.items()}

    def branches(self, schema: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the alternatives of a union, or the schema itself."""
        return [self._resolved(each) for each in schema.get("anyOf", [schema])]

    def _described(self, schema: dict[str, Any]) -> str:
        """Describe the allowed values: `a number in (0, 1]`, `one of none, linear, cosine`."""
        schema = self._resolved(schema)
        if "anyOf" in schema:
            return " or ".join(map(self._described, schema["anyOf"]))
        if choices := _choices(schema):
            return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
        kind, values = str(schema.get("type")), schema.get("additionalProperties")
        if kind == "integer" and {"minimum", "maximum"} <= schema.keys():
            return f"a whole number from {schema['minimum']} to {schema['maximum']}"
        if kind == "integer":
            return f"a whole number in {_interval(schema)}"
        if kind == "number":
            return f"a number in {_interval(schema)}"
        if kind == "array":
            return f"a list, each {self._described(schema['items'])}"
        if kind == "object" and isinstance(values, dict):
            return f"a mapping {{name: value}}, each value {self._described(values)}"
        if schema.get("examples"):
            return f"text like {', '.join(schema['examples'])}"
        return _WORDS[kind]

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        name = schema.get("$ref", "").rpartition("/")[2]
        found: dict[str, Any] = self._schema["$defs"][name] if name else schema
        return found

    def _message(self, place: tuple[int | str, ...], settings: Mapping[str, Any]) -> str:
        """Describe the wrong value at `place`, pydantic's location of the error.

        Parts of the location that name branches of a union are skipped, as they are not keys.
        """
        path = str(place[0])
        value, schema = settings[path], self.allowed(path)
        for part in (*place[1:], None):
            keys = self.keys_within(schema) if isinstance(value, Mapping) else {}
            for other in value if keys else ():
                if other not in keys:
                    hint = did_you_mean(str(other), keys) or f"; it has {', '.join(keys)}"
                    return f"{path}: unknown key '{other}'{hint}{_HINTS.get(path, '')}"
            if part in keys:
                path, schema = f"{path}.{part}", keys[str(part)]
                if part not in value:
                    return f"{path}: is missing in {value!r}{_HINTS.get(path, '')}"
                value = value[part]
        expected = _EXPECTED.get(path) or self._described(schema)
        hint = did_you_mean(value, self._words(schema)) if isinstance(value, str) else ""
        wrong = f"none of {expected[7:]}" if expected.startswith("one of ") else f"not {expected}"
        return f"{path}: {value!r} is {wrong}{hint or _HINTS.get(path, '')}"


def _choices(schema: dict[str, Any]) -> list[str]:
    """Return the words that a schema lists."""
    constant = [schema["const"]] if "const" in schema else []
    return [str(each) for each in schema.get("enum", constant)]


def _interval(schema: dict[str, Any]) -> str:
    """Format the bounds of a number as `(0, 1]`."""
    least, most = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum", -math.inf)
    below = schema.get("exclusiveMaximum", math.inf)
    left = f"({above:g}" if least is None else f"[{least:g}"
    right = f"{below:g})" if most is None else f"{most:.12g}]"
    return f"{left}, {right}"
