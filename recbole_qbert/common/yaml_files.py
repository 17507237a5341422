"""YAML reading: one mapping per file, no duplicate keys, no code, bounded size."""

from __future__ import annotations

import copy
import functools
import importlib.resources
import multiprocessing
import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from recbole_qbert.common.errors import InputError, did_you_mean, did_you_mean_path

MAX_DEPTH = 40  # nested collections
MAX_NODES = 100_000  # keys and values; those that an alias repeats count each time


class _Refused(yaml.YAMLError):
    """Refused YAML; the message has the line, counted from 1, and the reason."""

    def __init__(self, line: int, fault: str):
        super().__init__(f"line {line}: {fault}")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with limits that hold before aliases are expanded."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0
        self._sizes: dict[int, int] = {}  # nodes in each finished node, itself included, by id

    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.peek_event().start_mark.line + 1
        alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Refused(line, f"more than {MAX_DEPTH} nested levels")
        before = self._nodes
        node = super().compose_node(parent, index)
        if alias and id(node) not in self._sizes:
            raise _Refused(line, "an alias is inside the value that it repeats")
        self._nodes += self._sizes[id(node)] if alias else 1
        if self._nodes > MAX_NODES:
            raise _Refused(line, f"more than {MAX_NODES:,} values, aliases expanded")
        self._depth -= 1
        self._sizes.setdefault(id(node), self._nodes - before)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise _Refused(line, f"'{key.value}' is given twice, first in line {lines[name]}")
            lines[name] = line
        return node


# YAML 1.1 reads 1e-3 as text; RecBole reads it as a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def shipped(*parts: str) -> Path:
    """Return the path of a YAML file in `properties/`, whether or not it exists."""
    return Path(str(importlib.resources.files("recbole_qbert.properties").joinpath(*parts)))


def find_yaml(name: str | Path, folder: str = "") -> Path:
    """Return the path of the YAML file of a name: a file of the user, or else a shipped file.

    Names of the shipped `properties/benchmark/demo.yaml` are this path, `benchmark/demo.yaml`,
    both without the suffix, and with the folder `benchmark` also `demo.yaml` and `demo`. A line
    says once that a shipped file is read.

    Raises:
        InputError: there is no such file.
    """
    file = Path(name)
    if file.is_file():
        return file
    whole = file.parts[:1] == ("properties",)
    for parts in [file.parts[1:]] if whole else [(folder, *file.parts), file.parts]:
        found = shipped(*parts)
        found = found.with_name(found.name.removesuffix(".yaml") + ".yaml")
        if found.is_file():
            _say_shipped(str(name), found)
            return found
    if file.exists():  # a folder, which cannot be read
        return file
    # Suffixes are left out, because all names have the same.
    files = (
        each.relative_to(shipped()).with_suffix("") for each in shipped(folder).rglob("*.yaml")
    )
    names = [each.as_posix() for each in files]
    known = [*names, *(f"properties/{each}" for each in names)]
    if folder:
        known += [each.removeprefix(f"{folder}/") for each in names]
    word = str(name).removesuffix(".yaml")
    suffix = str(name).removeprefix(word)
    hint = did_you_mean_path(file) or did_you_mean(word, known, suffix)
    raise InputError(f"{name}: no such config file{hint}")


@functools.cache
def _say_shipped(name: str, file: Path) -> None:
    """Print that a shipped file is read, unless this is one of several processes of a command."""
    if multiprocessing.parent_process() is None and os.environ.get("RANK", "0") == "0":
        print(f"recbole-qbert: {name}: reading the shipped file {file}", file=sys.stderr)


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """Return the content of a file, which calls share: each config reads the same ten files."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506


def load_yaml(path: str | Path, folder: str = "") -> dict[str, Any]:
    """Read a YAML file that holds one mapping, which may be empty; 1e-3 is a number.

    `path` and `folder` are those of `find_yaml`.

    Raises:
        InputError: the file is missing, is not valid YAML, gives a key twice, is too large or too
            deep, or is not a mapping with text keys; names the line where there is one.
    """
    try:
        text = find_yaml(path, folder).read_text(encoding="utf-8")
        content = copy.deepcopy(_parsed(text))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except _Refused as error:
        raise InputError(f"{path}, {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: `key: value` lines were expected")
    for key in content:
        if not isinstance(key, str):
            raise InputError(f"{path}: the key {key!r} is not text; quote it")
    return content


def parse_value(value: Any) -> Any:
    """Parse the value of `--key=value` as YAML: numbers, lists, `~`, true; or else it is text.

    Raises:
        InputError: the value is too large or too deep, or gives a key twice.
    """
    if not isinstance(value, str):
        return value
    try:
        return yaml.load(value, Loader=_Loader)  # noqa: S506
    except _Refused as error:
        raise InputError(f"{value[:60]}: {error}") from None
    except (yaml.YAMLError, ValueError):
        return value


def split_names(names: str) -> list[str]:
    """Split names separated by commas or blanks: `a.yaml,b.yaml`."""
    return names.replace(",", " ").split()
