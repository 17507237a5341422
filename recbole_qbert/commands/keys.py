"""Keys in commented YAML texts: the source of the flags, of `--help` and of docs/settings.md.

Lines of these texts have the form `key: default  # (type) meaning`. This module does not import
RecBole, which takes seconds.
"""

from __future__ import annotations

import importlib.util
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.yaml_files import shipped

_LINE = re.compile(
    r"(?P<indent> *)(?P<name>\w+):(?P<default>.*?)\s*"
    r"(?:#\s*(?:\((?P<kind>\w[\w |]*)\) )?(?P<meaning>.*))?"
)
_INDENT, _COLUMN = 2, 34


class Key(NamedTuple):
    """One key; `depth` is 0 for top-level keys and 1 for keys of mappings."""

    name: str
    kind: str
    default: str
    meaning: str
    depth: int


class KeyGroup(NamedTuple):
    """Keys under one title.

    Attributes:
        title: title of the group.
        text: YAML with a comment per line.
        depth: maximum depth of the listed keys.
        again: whether to list keys that an earlier group has listed already.
    """

    title: str
    text: str
    depth: int = 1
    again: bool = False


def keys_in(text: str, depth: int = 1) -> list[Key]:
    """Parse the keys of a commented YAML text, in order, up to a depth."""
    found = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match and len(match["indent"]) <= 2 * depth:
            kind, meaning = (match[name] or "" for name in ("kind", "meaning"))
            nested = int(bool(match["indent"]))
            found.append(Key(match["name"], kind, match["default"].strip(), meaning, nested))
    return found


def format_groups(groups: Sequence[KeyGroup], width: int) -> list[str]:
    """Format groups of keys for `--help`, in lines of at most `width` characters.

    Keys of earlier groups are left out of later ones.
    """
    lines: list[str] = []
    known: set[str] = set()
    for group in groups:
        listed = list(_lines(group, known, width))
        if listed:
            lines += ["", f"{group.title}:", *listed]
    return lines


def _lines(group: KeyGroup, known: set[str], width: int) -> Iterator[str]:
    hidden = False
    for key in keys_in(group.text, group.depth):
        flag = f"--{key.name}"
        if key.depth == 0:
            hidden = flag in known and not group.again
            known.add(flag)
        if hidden:
            continue
        indent = " " * _INDENT * (1 + 2 * key.depth)
        default = key.default or ("{...}" if key.kind == "dict" else "")
        head = f"{indent}{key.name}: {default}" if key.depth else f"{indent}{flag}={default}"
        meaning = f"({key.kind}) {key.meaning}" if key.kind else key.meaning
        if len(head) < _COLUMN - 1:
            head = head.ljust(_COLUMN)
        elif meaning:
            yield head
            head = " " * _COLUMN
        indented = {"initial_indent": head, "subsequent_indent": " " * _COLUMN}
        wrapped = textwrap.wrap(meaning, width, break_on_hyphens=False, **indented)  # type: ignore[arg-type]
        yield from wrapped or [head.rstrip()]


def file_group(title: str, *parts: str, depth: int = 1) -> KeyGroup:
    """Group of the keys of a shipped YAML file."""
    named = f"{title} ({'/'.join(('properties', *parts))})"
    return KeyGroup(named, read(shipped(*parts)), depth)


def run_groups(arguments: Sequence[str] = ()) -> list[KeyGroup]:
    """Groups of the keys of `run`: of the models in `--model=A,B`, then of every model.

    Raises:
        InputError: a model does not exist.
    """
    groups = []
    for model in named_models(arguments) or ["QBERT4Rec"]:
        files = {"properties": shipped("model"), "recbole/properties": _recbole("model")}
        own = {title: folder / f"{model}.yaml" for title, folder in files.items()}
        if not any(path.is_file() for path in own.values()):
            groups.append(_registered_group(model))
        groups += [
            KeyGroup(f"Keys of {model} ({title}/model/{model}.yaml)", read(path), again=True)
            for title, path in own.items()
            if path.is_file()
        ]
    groups.append(file_group("Keys of all models", "base.yaml"))
    groups += [
        KeyGroup(
            f"Keys of RecBole ({'/'.join(('recbole/properties', *parts))})",
            read(_recbole(*parts)),
        )
        for parts in (("overall.yaml",), ("dataset", "sample.yaml"))
    ]
    return groups


def named_models(arguments: Sequence[str]) -> list[str]:
    """Names of the models in `--model=A,B` or `-m A`."""
    found = re.findall(r"(?:--model|-m)[= ]([\w,]+)", " ".join(arguments))
    return [name for name in ",".join(found).split(",") if name]


def _registered_group(model: str) -> KeyGroup:
    """Group of the keys of a model that a plug-in or the user's program has registered.

    Raises:
        InputError: the model does not exist.
    """
    from recbole_qbert.registry import MODEL_TABLE, runnable_models

    if model not in MODEL_TABLE:
        hint = did_you_mean(model, runnable_models())
        raise InputError(f"model {model}: no such model{hint}")
    file = MODEL_TABLE[model].defaults
    title = f"Keys of {model}" + (f" ({file.name})" if file else "")
    return KeyGroup(title, read(file) if file else "", again=True)


def model_names() -> list[str]:
    """Names of the models of this package and of RecBole's sequential models.

    They are read from files, which is fast. RecBole's few models that this package cannot run are
    among them.
    """
    ours = [path.stem for path in shipped("model").glob("*.yaml")]
    listed = _recbole("..", "model", "sequential_recommender", "__init__.py")
    return sorted({*ours, *re.findall(r"import (\w+)", read(listed))})


def _recbole(*parts: str) -> Path:
    """Path of a file in RecBole's properties, found without importing RecBole."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        return Path(*parts)
    return Path(spec.submodule_search_locations[0], "properties", *parts)


def read(path: Path) -> str:
    """Text of a file; empty if there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""
