"""What a pipeline does: steps read from one YAML, its variables filled in.

    variables: {data_path: dataset, domains: [Pet, Toys]}   # --data_path=... wins
    state: saved/pipeline/mine.json
    steps:
      - name: text
        each: ${domains}                    # one step a domain, text-Pet and text-Toys
        command: embed text                 # of recbole-qbert; or script: dataset_scripts/x.py
        settings: {dataset: "${each}", fields: [title, brand]}

`${x}` is a variable, `${each}` and `${value}` the word (and, of a mapping, its value) of a step
made once a word, `${output.NAME}` the first output of an earlier step, `${properties}` the folder
of the shipped settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.yaml_files import load_yaml, parse_value
from recbole_qbert.config.build import shipped
from recbole_qbert.experiments.pipeline.known import Files, commands, files_of, find_script

KEYS = ("variables", "state", "steps")
STEP_KEYS = (
    # fmt: off
    "name",
    "command",
    "script",
    "arguments",
    "settings",
    "inputs",
    "outputs",
    "each",
    "when",
    # fmt: on
)
PROPERTIES, EACH, VALUE, OUTPUT = "properties", "each", "value", "output."
# Settings of open-ended commands that are names with commas between, not YAML lists.
_NAMES = frozenset(["model", "dataset", "datasets", "config_files", "seeds", "sources"])
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")


@dataclass(frozen=True)
class Step:
    """One command with its settings.

    Attributes:
        name: of the step, once in a pipeline.
        command: words of a command of recbole-qbert, or the path of a script.
        is_script: which of the two.
        line: all that follows the program, as it is called.
        files: what it reads and writes.
    """

    name: str
    command: tuple[str, ...]
    is_script: bool
    line: tuple[str, ...]
    files: Files


@dataclass(frozen=True)
class Pipeline:
    """A pipeline, checked; `left_out` are the steps whose `when` does not hold."""

    source: str
    state: Path
    steps: tuple[Step, ...]
    left_out: tuple[str, ...]


def read_pipeline(path: str | Path, flags: Mapping[str, str]) -> Pipeline:
    """Read and check a pipeline's YAML.

    Args:
        path: the YAML.
        flags: `--name=value` of the command line, each a variable of the file.

    Raises:
        InputError: an unknown key, variable, command or setting, or two steps that write one file.
    """
    source, content = str(path), load_yaml(path)
    _check_keys(content, KEYS, source)
    variables = _variables(content, flags, source)
    state = content.get("state") or f"saved/pipeline/{Path(path).stem}.json"
    if not isinstance(state, str):
        raise InputError(f"{source}: state: the name of a file was expected")
    given = content.get("steps")
    if not isinstance(given, list) or not given:
        raise InputError(f"{source}: steps: a list of steps is needed")
    steps: list[Step] = []
    left_out: list[str] = []
    for number, entry in enumerate(given, 1):
        place = f"{source}: step {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InputError(f"{place}: `name: ...` and further lines were expected")
        place = f"{source}: step '{entry['name']}'"
        _check_keys(entry, STEP_KEYS, place)
        if not _holds(_filled(entry.get("when", True), variables, place)):
            left_out.append(entry["name"])
            continue
        for name, words in _repeats(entry, variables, place):
            outputs = {f"{OUTPUT}{step.name}": step.files.outputs[0] for step in steps}
            scope = variables | words | outputs
            steps.append(_step(name, entry, scope, f"{source}: step '{name}'"))
    _check_steps(steps, source)
    return Pipeline(source, Path(_filled(state, variables, source)), tuple(steps), tuple(left_out))


def _variables(content: Mapping[str, Any], flags: Mapping[str, str], source: str) -> dict[str, Any]:
    """The file's variables, with the command line's values; a later one may use earlier ones."""
    given = content.get("variables") or {}
    if not isinstance(given, dict):
        raise InputError(f"{source}: variables: `name: value` was expected")
    for name in flags:
        if name not in given:
            hint = did_you_mean(name, map(str, given))
            raise InputError(f"command line: no variable '{name}' in {source}{hint}")
    variables: dict[str, Any] = {PROPERTIES: str(shipped())}
    for name, value in given.items():
        if not re.fullmatch(r"\w+", str(name)) or name in (PROPERTIES, EACH, VALUE):
            raise InputError(f"{source}: variables: '{name}' cannot be a name; choose another")
        value = parse_value(flags[name]) if name in flags else value
        variables[name] = _filled(value, variables, f"{source}: variables: {name}")
    return variables


def _filled(value: Any, scope: Mapping[str, Any], place: str) -> Any:
    """A value with its references replaced, inside lists and mappings too."""
    if isinstance(value, list):
        return [_filled(each, scope, place) for each in value]
    if isinstance(value, dict):
        return {_filled(key, scope, place): _filled(each, scope, place)
                for key, each in value.items()}  # fmt: skip
    if not isinstance(value, str):
        return value

    def found(name: str) -> Any:
        if name not in scope:
            hint = did_you_mean(name, scope)
            raise InputError(f"{place}: '${{{name}}}' is not known{hint}")
        return scope[name]

    if whole := _REFERENCE.fullmatch(value):
        return found(whole[1])
    return _REFERENCE.sub(lambda match: _as_text(found(match[1])), value)


def _as_text(value: Any) -> str:
    if isinstance(value, list | dict):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _holds(value: Any) -> bool:
    """Whether a step's `when` holds: anything but nothing, False and 0."""
    return bool(value) and str(value).lower() not in ("false", "0")


def _repeats(
    entry: Mapping[str, Any], variables: Mapping[str, Any], place: str
) -> list[tuple[str, dict[str, Any]]]:
    """The names of an entry's steps with the words that differ between them."""
    if "each" not in entry:
        return [(entry["name"], {})]
    words = _filled(entry["each"], variables, place)
    if isinstance(words, str):
        words = [word for word in words.replace(",", " ").split() if word]
    if not isinstance(words, list | dict) or not words:
        raise InputError(f"{place}: each: {words!r}: give a list of words, or a mapping")
    values = words if isinstance(words, dict) else dict.fromkeys(words)
    return [
        (f"{entry['name']}-{word}", {EACH: word, VALUE: word if value is None else value})
        for word, value in values.items()
    ]


def _step(name: str, entry: Mapping[str, Any], scope: Mapping[str, Any], place: str) -> Step:
    """One step, its files known."""
    is_script = "script" in entry
    if is_script == ("command" in entry):
        raise InputError(f"{place}: give `command: ...` of recbole-qbert, or `script: ...`")
    words = str(_filled(entry["script" if is_script else "command"], scope, place))
    command = (str(find_script(words)),) if is_script else tuple(words.split())
    if not is_script and command not in commands():
        known = [" ".join(each) for each in commands()]
        raise InputError(f"{place}: no command '{words}'{did_you_mean(words, known)}")
    settings = _filled(entry.get("settings") or {}, scope, place)
    if not isinstance(settings, dict):
        raise InputError(f"{place}: settings: `key: value` lines were expected")
    arguments = [_as_text(each) for each in _listed(entry, "arguments", scope, place)]
    line = (*command, *arguments, *flags_of(settings, command, is_script, place))
    files = files_of(command, is_script, line, place)
    declared = {
        key: tuple(_as_text(each) for each in _listed(entry, key, scope, place))
        for key in ("inputs", "outputs")
    }
    files = files.with_declared(declared["inputs"], declared["outputs"])
    if not files.outputs:
        raise InputError(f"{place}: outputs: name what it writes; it is not known of {words!r}")
    return Step(name, command, is_script, line, files)


def _listed(entry: Mapping[str, Any], key: str, scope: Mapping[str, Any], place: str) -> list[Any]:
    value = _filled(entry.get(key) or [], scope, place)
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise InputError(f"{place}: {key}: a list was expected")
    return value


def flags_of(
    settings: Mapping[str, Any], command: Sequence[str], is_script: bool, place: str
) -> list[str]:
    """Settings as flags: open-ended commands read values as YAML, the others as argparse does."""
    from recbole_qbert.cli import OPEN_ENDED

    is_open = not is_script and command[0] in OPEN_ENDED
    flags = []
    for key, value in settings.items():
        if value is None and not is_open:
            continue
        if is_open and isinstance(value, list | dict) and key not in _NAMES:
            flags.append(f"--{key}={json.dumps(value)}")
        elif is_open or not isinstance(value, bool | dict):
            flags.append(f"--{key}={'~' if value is None else _as_text(value)}")
        elif isinstance(value, dict):
            raise InputError(f"{place}: settings: {key}: a mapping cannot be a flag")
        elif value:
            flags.append(f"--{key}")
    return flags


def _check_keys(content: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    for key in content:
        if key not in known:
            raise InputError(f"{place}: unknown key '{key}'{did_you_mean(str(key), known)}")


def _check_steps(steps: Sequence[Step], source: str) -> None:
    """Every name and every output once."""
    if not steps:
        raise InputError(f"{source}: no step is left; see the variables that `when` names")
    names: set[str] = set()
    writers: dict[str, str] = {}
    for step in steps:
        if step.name in names:
            raise InputError(f"{source}: two steps are named '{step.name}'; rename one")
        names.add(step.name)
        for output in step.files.outputs:
            other = writers.setdefault(str(Path(output)), step.name)
            if other != step.name:
                raise InputError(
                    f"{source}: steps '{other}' and '{step.name}' both write {output}; give one "
                    "another place"
                )
