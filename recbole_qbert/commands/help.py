"""`--help` of the commands whose flags are keys of YAML files, made from the files' comments.

Lines of these files have the form `key: default  # (type) meaning`. This module does not import
RecBole, which takes seconds.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.yaml_files import shipped

_LINE = re.compile(
    r"(?P<indent> *)(?P<name>\w+):(?P<default>.*?)\s*"
    r"(?:#\s*(?:\((?P<kind>\w[\w ]*)\) )?(?P<says>.*))?"
)
_INDENT, _COLUMN = 2, 34


class Key(NamedTuple):
    """One key; `depth` is 0 for top-level keys and 1 for keys of mappings."""

    name: str
    kind: str
    default: str
    says: str
    depth: int


class KeyGroup(NamedTuple):
    """Keys under one title.

    Attributes:
        title: title of the group.
        text: YAML with a comment per line.
        depth: maximum depth of the listed keys.
        prefix: prefix of the keys' names.
        again: whether to list keys that an earlier group has listed already.
    """

    title: str
    text: str
    depth: int = 1
    prefix: str = "--"
    again: bool = False


def keys_in(text: str, depth: int = 1) -> list[Key]:
    """Parse the keys of a commented YAML text, in order, up to a depth."""
    found = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match and len(match["indent"]) <= 2 * depth:
            kind, says = (match[name] or "" for name in ("kind", "says"))
            nested = int(bool(match["indent"]))
            found.append(Key(match["name"], kind, match["default"].strip(), says, nested))
    return found


def help_text(
    command: str, summary: str, groups: Sequence[KeyGroup], width: int | None = None
) -> str:
    """Format the help of a command with all its flags.

    Args:
        command: name of the command.
        summary: purpose and usage of the command.
        groups: groups of keys. Keys of earlier groups are left out of later ones.
        width: line width; None: the terminal's, between 72 and 110.
    """
    width = width or max(72, min(110, shutil.get_terminal_size().columns))
    lines = textwrap.wrap(f"recbole-qbert {command}: {summary}", width)
    known: set[str] = set()
    for group in groups:
        listed = list(_lines(group, known, width))
        if listed:
            lines += ["", f"{group.title}:", *listed]
    return "\n".join(lines)


def _lines(group: KeyGroup, known: set[str], width: int) -> Iterator[str]:
    hidden = False
    for key in keys_in(group.text, group.depth):
        flag = f"{group.prefix}{key.name}"
        if key.depth == 0:
            hidden = flag in known and not group.again
            known.add(flag)
        if hidden:
            continue
        indent = " " * _INDENT * (1 + 2 * key.depth)
        default = key.default or ("{...}" if key.kind == "dict" else "")
        head = (
            f"{indent}{key.name}: {default}"
            if key.depth
            else f"{indent}{flag}{'=' if group.prefix else ': '}{default}"
        )
        says = f"({key.kind}) {key.says}" if key.kind else key.says
        if len(head) < _COLUMN - 1:
            head = head.ljust(_COLUMN)
        elif says:
            yield head
            head = " " * _COLUMN
        yield from textwrap.wrap(
            says,
            width,
            initial_indent=head,
            subsequent_indent=" " * _COLUMN,
            break_on_hyphens=False,
            drop_whitespace=True,
        ) or [head.rstrip()]


def file_group(title: str, *parts: str, depth: int = 1, prefix: str = "--") -> KeyGroup:
    """Group of the keys of a shipped YAML file."""
    named = f"{title} ({'/'.join(('properties', *parts))})"
    return KeyGroup(named, _read(shipped(*parts)), depth, prefix)


def run_groups(arguments: Sequence[str]) -> list[KeyGroup]:
    """Groups of the keys of `run`: of the models in `--model=A,B`, then of every model.

    Raises:
        InputError: a model does not exist.
    """
    given = " ".join(arguments)
    models = re.findall(r"(?:--model|-m)[= ]([\w,]+)", given)
    groups = []
    for model in [name for name in ",".join(models or ["QBERT4Rec"]).split(",") if name]:
        files = {"properties": shipped("model"), "recbole/properties": _recbole("model")}
        own = {title: folder / f"{model}.yaml" for title, folder in files.items()}
        if not any(path.is_file() for path in own.values()):
            from recbole_qbert.registry import runnable_models

            hint = did_you_mean(model, runnable_models())
            raise InputError(f"model {model}: no such model{hint}")
        groups += [
            KeyGroup(f"Of {model} ({title}/model/{model}.yaml)", _read(path), again=True)
            for title, path in own.items()
            if path.is_file()
        ]
    groups.append(file_group("Of every model", "base.yaml"))
    groups += [
        KeyGroup(
            f"Of RecBole ({'/'.join(('recbole/properties', *parts))})", _read(_recbole(*parts))
        )
        for parts in (("overall.yaml",), ("dataset", "sample.yaml"))
    ]
    return groups


def _recbole(*parts: str) -> Path:
    """Path of a file in RecBole's properties, found without importing RecBole."""
    spec = importlib.util.find_spec("recbole")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], "properties", *parts)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
