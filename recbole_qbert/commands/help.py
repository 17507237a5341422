"""`--help` of the commands whose flags are keys of YAML files: read off the files' own comments.

A line of such a file is `key: default  # (type) meaning`. Nothing here imports RecBole.
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
    """One key; `depth` is 0 for those of the file itself and 1 for those of its mappings."""

    name: str
    kind: str
    default: str
    says: str
    depth: int


class KeyGroup(NamedTuple):
    """Keys under one title.

    Attributes:
        text: YAML with a comment a line.
        depth: of the keys that are listed, at most.
        prefix: of their names.
        again: list also keys that an earlier group has.
    """

    title: str
    text: str
    depth: int = 1
    prefix: str = "--"
    again: bool = False


def keys_in(text: str, depth: int = 1) -> list[Key]:
    """The keys of a commented YAML text, in order."""
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
    """All flags of a command.

    Args:
        command: its name.
        summary: what it does, and its usage.
        groups: of keys; what one group has, the later ones leave out.
        width: of a line; None: the terminal's.
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
    """The keys of a YAML file of ours."""
    named = f"{title} ({'/'.join(('properties', *parts))})"
    return KeyGroup(named, _read(shipped(*parts)), depth, prefix)


def run_groups(arguments: Sequence[str]) -> list[KeyGroup]:
    """The keys of `run`: those of the models that `--model=A,B` names, then of every model."""
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
    """A file of RecBole's properties; looking for RecBole does not import it."""
    spec = importlib.util.find_spec("recbole")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], "properties", *parts)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
