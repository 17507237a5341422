"""Keys in commented YAML texts: the source of the flags, of `--help` and of docs/settings.md.

Lines of these texts have the form `key: default  # (type) meaning`. This module does not import
RecBole, which takes seconds.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

    @property
    def choices(self) -> list[str]:
        """Words that the value can be: `a | b (remark) | c` in the kind or the meaning."""
        if self.kind == "bool" or self.default in ("True", "False"):
            return ["True", "False"]
        listed = self.kind if "|" in self.kind else re.sub(r" ?\([^()]*\)", "", self.meaning)
        found = re.search(r"[\w-]+( \| [\w-]+)+(?= *([|:;,]|$))", listed)
        return found[0].split(" | ") if found else []


class KeyGroup(NamedTuple):
    """Keys under one title.

    Attributes:
        title: title of the group.
        text: YAML with a comment per line.
        depth: maximum depth of the listed keys.
        again: whether to list keys that an earlier group has listed already.
        dotted: whether a flag can set a key of a mapping, as `--mapping.key=value`.
    """

    title: str
    text: str
    depth: int = 1
    again: bool = False
    dotted: bool = False

    def listed(self) -> Iterator[Key]:
        """Yield the keys, those of mappings of a dotted group with their full names."""
        section = ""
        for key in keys_in(self.text, self.depth):
            section = section if key.depth else key.name
            yield key._replace(name=f"{section}.{key.name}") if key.depth and self.dotted else key


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
    for key in group.listed():
        flag = f"--{key.name}"
        if key.depth == 0:
            hidden = flag in known and not group.again
            known.add(flag)
        if hidden:
            continue
        indent = " " * _INDENT * (1 + 2 * key.depth)
        default = key.default or ("{...}" if key.kind == "dict" else "")
        plain = key.depth and not group.dotted
        head = f"{indent}{key.name}: {default}" if plain else f"{indent}{flag}={default}"
        meaning = f"({key.kind}) {key.meaning}" if key.kind else key.meaning
        names = NAMES[key.name]() if key.name in NAMES else []
        if not set(names) <= set(key.choices):
            meaning += f"; {key.name.removesuffix('s')}s: {', '.join(names)}"
        if len(head) < _COLUMN - 1:
            head = head.ljust(_COLUMN)
        elif meaning:
            yield head
            head = " " * _COLUMN
        indented = {"initial_indent": head, "subsequent_indent": " " * _COLUMN}
        wrapped = textwrap.wrap(meaning, width, break_on_hyphens=False, **indented)  # type: ignore[arg-type]
        yield from wrapped or [head.rstrip()]


def file_group(title: str, *parts: str, depth: int = 1, dotted: bool = False) -> KeyGroup:
    """Group of the keys of a shipped YAML file."""
    named = f"{title} ({'/'.join(('properties', *parts))})"
    return KeyGroup(named, read(shipped(*parts)), depth, dotted=dotted)


def tokenize_groups(arguments: Sequence[str] = ()) -> list[KeyGroup]:
    """Groups of the keys of `tokenize`: of the shipped file, then of registered quantizers."""
    groups = [file_group("Keys of semantic IDs", "tokenize.yaml", dotted=True)]
    for name, method in _registered(*_QUANTIZERS).items():
        if method.settings.section:  # a section of the shipped file
            continue
        lines = [f"{name}:  # (dict) quantizer {name}"]
        for key, field in method.settings.model_fields.items():
            if key not in ("n_levels", "codebook_size"):  # not in the section
                default = "" if field.is_required() else field.get_default()
                lines.append(f"  {key}: {default}  # {field.description or ''}")
        groups.append(KeyGroup(f"Keys of the quantizer {name}", "\n".join(lines), dotted=True))
    return groups


def run_groups(arguments: Sequence[str] = ()) -> list[KeyGroup]:
    """Groups of the keys of `run`: of the models in `--model=A,B`, then of every model.

    Raises:
        InputError: a model does not exist.
    """
    groups = []
    for model in named("model", arguments) or ["QBERT4Rec"]:
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


def named(key: str, arguments: Sequence[str]) -> list[str]:
    """Names in `--key=A,B` or, for a model, `-m A`."""
    found = re.findall(rf"(?:--{key}|-{key[0]})[= ]([\w,]+)", " ".join(arguments))
    return [name for name in ",".join(found).split(",") if name]


def unknown_names(arguments: Sequence[str]) -> bool:
    """Return whether a line names a model or quantizer that may be registered only later."""
    return any(not set(named(key, arguments)) <= set(names()) for key, names in NAMES.items())


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
    """Names of the models of this package, RecBole's that it runs, and registered ones.

    The first two are read from files, because importing RecBole takes seconds.
    """
    ours = [path.stem for path in shipped("model").glob("*.yaml")]
    listed = _recbole("..", "model", "sequential_recommender", "__init__.py")
    recboles = {*re.findall(r"import (\w+)", read(listed))} - _NOT_RUN
    return sorted({*ours, _WITHOUT_FILE, *recboles, *_registered(*_MODELS)})


def quantizer_names() -> list[str]:
    """Names of the quantizers of this package, and registered ones."""
    keys = keys_in(read(shipped("tokenize.yaml")), depth=0)
    shipped_names = next(key.choices for key in keys if key.name == "quantizer")
    return list(dict.fromkeys([*shipped_names, *_registered(*_QUANTIZERS)]))


def _registered(module: str, table: str) -> dict[str, Any]:
    """Content of a registry; {} while its module, whose import takes seconds, is not imported."""
    found: dict[str, Any] = getattr(sys.modules.get(f"recbole_qbert.{module}"), table, {})
    return found


_MODELS = ("registry", "MODEL_TABLE")
_QUANTIZERS = ("tokenizer.quantizers.registry", "METHODS")
_WITHOUT_FILE = "BERT4RecFixed"  # it has the YAML file of BERT4Rec
_NOT_RUN = {"DIEN", "DIN", "FEARec", "GRU4RecKG", "KSR"}  # see `registry.recbole_models`
# Keys whose values are names to which plug-ins can add -> function that lists the names.
NAMES: dict[str, Callable[[], list[str]]] = {
    "model": model_names,
    "models": model_names,
    "quantizer": quantizer_names,
}


def _recbole(*parts: str) -> Path:
    """Path of a file in RecBole's properties, found without importing RecBole."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        return Path(*parts)
    return Path(spec.submodule_search_locations[0], "properties", *parts)


def read(path: Path) -> str:
    """Text of a file; empty if there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""
