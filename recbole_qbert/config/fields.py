"""`Fields`: values checked by the types and ranges of a class, with one line for a wrong one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from recbole_qbert.common.errors import InputError, did_you_mean

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
WORDS = {"boolean": "True or False", "string": "text", "object": "a mapping", "null": "~"}
# What else to say of a wrong value.
HINTS = {
    "eval_args": "; leave it out",
    "eval_args.split": "; for another split make its parts with dataset_scripts/split.py",
    "eval_args.mode": "; the whole catalog is ranked",
    "eval_args.order": "; a sequence is in order of time",
}


class Fields:
    """The fields of a class of settings, to check values by."""

    def __init__(self, settings: type):
        self._adapter: TypeAdapter[Any] = TypeAdapter(settings)
        self._schema = self._adapter.json_schema()

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse the first value that is not of its key's type and range.

        Raises:
            InputError: names key, value and what may stand there.
        """
        try:
            self._adapter.validate_python(dict(settings))
        except ValidationError as error:
            raise InputError(self._said(error.errors()[0]["loc"], settings)) from None

    def allowed(self, key: str) -> dict[str, Any]:
        """The JSON schema of a key's values."""
        return self._resolved(self._schema["properties"][key])

    def keys(self) -> list[str]:
        """Names of all fields."""
        return list(self._schema["properties"])

    def keys_within(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The keys of the mapping that may stand there, and their schemas."""
        found: dict[str, Any] = {}
        for each in self.branches(schema):
            found |= each.get("properties", {})
        return {key: self._resolved(each) for key, each in found.items()}

    def branches(self, schema: dict[str, Any]) -> list[dict[str, Any]]:
        """A schema, or those of which one must hold."""
        return [self._resolved(each) for each in schema.get("anyOf", [schema])]

    def described(self, schema: dict[str, Any]) -> str:
        """What may stand there: `a number in (0, 1]`, `one of none, linear, cosine`."""
        parts = self.branches(schema)
        if len(parts) > 1:
            return " or ".join(self.described(each) for each in parts)
        schema = parts[0]
        choices = _choices(schema)
        if choices:
            return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
        kind = str(schema.get("type"))
        if kind == "integer":
            return f"a whole number from {schema['minimum']} to {schema['maximum']}"
        if kind == "number":
            return f"a number in {_interval(schema)}"
        if kind == "array":
            return f"a list, each {self.described(self._resolved(schema['items']))}"
        values = schema.get("additionalProperties")
        if kind == "object" and isinstance(values, dict):
            return f"a mapping, each {self.described(self._resolved(values))}"
        if schema.get("examples"):
            return f"text like {', '.join(schema['examples'])}"
        return WORDS[kind]

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        reference = schema.get("$ref")
        found: dict[str, Any] = schema
        if reference:
            found = self._schema["$defs"][reference.rpartition("/")[2]]
        return found

    def _said(self, place: tuple[int | str, ...], settings: Mapping[str, Any]) -> str:
        """What is wrong with the value at a place; branches of unions in it are no keys."""
        path = str(place[0])
        value, schema = settings[path], self.allowed(path)
        for part in (*place[1:], None):
            keys = self.keys_within(schema) if isinstance(value, Mapping) else {}
            for other in value if keys else ():
                if other not in keys:
                    hint = did_you_mean(str(other), keys) or f"; it has {', '.join(keys)}"
                    return f"{path}: unknown key '{other}'{hint}{HINTS.get(path, '')}"
            if part in keys:
                path, schema = f"{path}.{part}", keys[str(part)]
                if part not in value:
                    return f"{path}: is missing in {value!r}{HINTS.get(path, '')}"
                value = value[part]
        wanted = self.described(schema)
        choices = [word for each in self.branches(schema) for word in _choices(each)]
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        wrong = f"none of {wanted[7:]}" if wanted.startswith("one of ") else f"not {wanted}"
        return f"{path}: {value!r} is {wrong}{hint or HINTS.get(path, '')}"


def _choices(schema: dict[str, Any]) -> list[str]:
    """The words that a schema lists."""
    return [
        str(each) for each in schema.get("enum", [schema["const"]] if "const" in schema else [])
    ]


def _interval(schema: dict[str, Any]) -> str:
    """`(0, 1]` of the bounds of a number."""
    least, most = schema.get("minimum"), schema.get("maximum")
    left = f"({schema['exclusiveMinimum']:g}" if least is None else f"[{least:g}"
    right = f"{schema['exclusiveMaximum']:g})" if most is None else f"{most:.12g}]"
    return f"{left}, {right}"
