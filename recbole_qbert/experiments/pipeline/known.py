"""What the commands of recbole-qbert read and write, so that a pipeline need not be told.

Of commands that are not here, and of scripts, a step's `inputs` and `outputs` say it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_qbert.common.errors import InputError, did_you_mean, said_of

# Commands that go on from their last checkpoint when they are told to; all others do by themselves
# or are short.
RESUMABLE = {"run": "--resume=True", "pretrain": "--resume=True", "tune": "--resume"}
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Files:
    """Paths, files or folders; patterns with `*` may stand among the inputs.

    Attributes:
        inputs: must be there before the step.
        optional: read where they are there.
        outputs: are there after it; the first is what `${output.NAME}` names.
        settings: JSON of the settings that the command will find, beside those it is given.
    """

    inputs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    settings: str = ""

    def with_declared(self, inputs: Sequence[str], outputs: Sequence[str]) -> Files:
        """These and what the user named."""
        return Files(
            tuple(dict.fromkeys([*self.inputs, *inputs])),
            self.optional,
            tuple(dict.fromkeys([*self.outputs, *outputs])),
            self.settings,
        )


@functools.cache
def commands() -> dict[tuple[str, ...], str]:
    """All commands a step may name, `embed text` being one, and their usage ("" if open-ended)."""
    from recbole_qbert.cli import OPEN_ENDED, build_parser

    parser = build_parser()
    found: dict[tuple[str, ...], str] = {(name,): "" for name in OPEN_ENDED}
    listed = [(name,) for name in _choices(_help(parser, [])) if (name,) not in found]
    for words in listed:
        usage = _help(parser, list(words))
        kinds = _choices(usage)
        found |= {(*words, kind): _help(parser, [*words, kind]) for kind in kinds}
        if not kinds:
            found[words] = usage
    for name in ("pipeline", "doctor", "demo"):  # they are no steps
        found.pop((name,), None)
    return found


def _help(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """What `--help` prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        parser.parse_args([*words, "--help"])
    return text.getvalue()


def _choices(usage: str) -> list[str]:
    """Names of the sub-commands that a help text lists: lines with four blanks before."""
    return re.findall(r"^    (\w[\w-]*)(?: |$)", usage, re.MULTILINE)


def find_script(name: str) -> Path:
    """A script below the working directory, or else in the repository beside this package."""
    beside = REPOSITORY / name
    return beside if beside.is_file() and not Path(name).is_file() else Path(name)


def files_of(command: tuple[str, ...], is_script: bool, line: Sequence[str], place: str) -> Files:
    """What a command line reads and writes, as far as it is known; its flags are checked.

    Raises:
        InputError: a flag or setting that the command would refuse.
    """
    if is_script:
        return Files(inputs=command)
    flags = list(line[len(command) :])
    with said_of(place):
        if command in _OPEN:
            return _OPEN[command](flags)
        usage = commands()[command]
        return _KNOWN.get(command, _nothing)(_parsed(line, usage)) if usage else Files()


def _parsed(line: Sequence[str], usage: str) -> argparse.Namespace:
    """The flags as argparse reads them; its complaint becomes an InputError."""
    from recbole_qbert.cli import build_parser

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options, unknown = build_parser().parse_known_args(list(line))
    except SystemExit:
        message = said.getvalue().strip().splitlines()[-1]
        raise InputError(message.partition("error: ")[2] or message) from None
    if unknown:
        flag = unknown[0].partition("=")[0]
        hint = did_you_mean(flag, re.findall(r"--[\w-]+", usage))
        raise InputError(f"'{' '.join(line[:2])}' has no {flag}{hint}")
    return options


# Commands with fixed flags --------------------------------------------------------------------


def _nothing(options: argparse.Namespace) -> Files:
    return Files()


def _embedding(options: argparse.Namespace, modality: str, *inputs: str | None) -> Files:
    from recbole_qbert.commands.embed import place

    output = str(options.output or place(options, f"{modality}.npz"))
    given = tuple(each for each in inputs if each)
    return Files(inputs=given, outputs=(output, f"{output}.json"))


def _item_file(options: argparse.Namespace) -> str:
    from recbole_qbert.commands.embed import place

    return str(options.item_file or place(options, "item"))


def _embed_text(options: argparse.Namespace) -> Files:
    folder = options.encoder if Path(options.encoder).is_dir() else None
    return _embedding(
        options, options.modality, _item_file(options), options.frozen_encoder, folder
    )


def _embed_image(options: argparse.Namespace) -> Files:
    from recbole_qbert.encoders.descriptor import DESCRIPTOR

    if options.encoder != DESCRIPTOR:
        from recbole_qbert.encoders.open_clip_encoder import check_model_name

        check_model_name(options.encoder)
    weights = options.pretrained
    file = weights if weights and Path(weights).is_file() else None
    return _embedding(options, "image", _item_file(options), options.folder, file)


def _embed_vectors(options: argparse.Namespace) -> Files:
    return _embedding(options, options.modality, options.matrix, options.items)


def _from_columns(options: argparse.Namespace) -> Files:
    beside = [path for path in options.beside.split(",") if path]
    output = options.output
    return Files((options.item_file, *beside), outputs=(output, f"{output}.json"))


def _sample(options: argparse.Namespace) -> Files:
    from recbole_qbert.experiments.demo import DATASET

    folder = f"{options.data_path}/{DATASET}/{DATASET}"
    return Files(outputs=(f"{folder}.inter", f"{folder}.item"))


def _merge(options: argparse.Namespace) -> Files:
    names = options.datasets.split(",")
    inputs = [_data(options.data_path, name, "inter") for name in names]
    optional = [
        _data(options.data_path, name, suffix) for name in names for suffix in ("item", "semid")
    ]
    output = _data(options.data_path, options.into, "inter")
    return Files(tuple(inputs), tuple(optional), (output,))


# Commands whose flags are the keys of YAML files ----------------------------------------------


def _data(data_path: str | Path, name: str, suffix: str) -> str:
    return str(Path(data_path) / name / f"{name}.{suffix}")


def _tokenize(flags: Sequence[str]) -> Files:
    from recbole_qbert.commands.settings import parse_settings
    from recbole_qbert.common.yaml_files import split_files
    from recbole_qbert.tokenizer.settings import needed_modalities, tokenize_settings

    given = parse_settings(flags)
    names = split_files(given.pop("dataset", ""))
    if not names:
        raise InputError("dataset: ... is needed")
    data_path = given.pop("data_path", "dataset")
    given.pop("tokenizer", None)
    files = split_files(given.pop("config_files", ""))
    settings = tokenize_settings(files, given)
    suffixes = ["item", "inter", *(f"{each}.npz" for each in needed_modalities(settings))]
    outputs = [
        f"{_data(data_path, name, settings['output'])}{end}"
        for name in names
        for end in ("", ".json")
    ]
    settings.pop("show_progress")
    return Files(
        inputs=tuple(files),
        optional=tuple(_data(data_path, name, suffix) for name in names for suffix in suffixes),
        outputs=tuple(outputs) if settings["until"] == "ids" else (),
        settings=json.dumps(settings, sort_keys=True),
    )


def _pretrain(flags: Sequence[str]) -> Files:
    from recbole_qbert.commands.settings import parse_settings
    from recbole_qbert.common.yaml_files import split_files
    from recbole_qbert.pretraining.fit import pretrain_config

    given = parse_settings(flags)
    names = split_files(given.pop("datasets", ""))
    if not names:
        raise InputError("datasets: ... is needed")
    for key in ("nproc", "resume"):
        given.pop(key, None)
    files = split_files(given.pop("config_files", ""))
    config = pretrain_config(names, files, given, given.pop("target", None))
    data_path = Path(config["data_path"]).parent
    data = [_data(data_path, name, suffix) for name in names for suffix in ("inter", "semid")]
    return Files((*files, *data), outputs=(str(Path(config["checkpoint_dir"]) / "pretrained"),))


def _run(flags: Sequence[str]) -> Files:
    from recbole_qbert.commands.settings import parse_settings, pop_models
    from recbole_qbert.config.build import build_config
    from recbole_qbert.training.run_identity import run_folder

    given: dict[str, Any] = dict(parse_settings(flags))
    for key in ("nproc", "resume"):
        given.pop(key, None)
    models, dataset, files = pop_models(given)
    configs = [build_config(model, dataset, files, given) for model in models]
    found = [_read_by_run(config) for config in configs]
    return Files(
        inputs=tuple(dict.fromkeys([*files, *(path for each in found for path in each.inputs)])),
        optional=tuple(dict.fromkeys(path for each in found for path in each.optional)),
        outputs=tuple(str(run_folder(config)) for config in configs),
    )


def _read_by_run(config: Any) -> Files:
    """The data of one run, and what it starts from."""
    folder, name = Path(config["data_path"]), config["dataset"]
    parts = config["benchmark_filename"]
    suffixes = [f"{part}.inter" for part in parts] if parts else ["inter"]
    inputs = [str(folder / f"{name}.{suffix}") for suffix in suffixes]
    inputs += [str(path) for path in (config["item_vectors"] or {}).values()]
    inputs += [str(config[key]) for key in ("semantic_id_file", "pre_model_path") if config[key]]
    optional = [str(folder / f"{name}.{suffix}") for suffix in ("item", "user", "semid")]
    return Files(tuple(inputs), tuple(optional))


def _benchmark(flags: Sequence[str]) -> Files:
    from recbole_qbert.commands.settings import parse_settings
    from recbole_qbert.config.build import shipped_files
    from recbole_qbert.experiments.benchmark.plan import read_plan

    if not flags or flags[0].startswith("-"):
        raise InputError("arguments: [FILE.yaml] is needed")
    given = parse_settings(flags[1:])
    folder = given.pop("output", "")
    plan = read_plan(flags[0], given)
    inputs, optional = [flags[0]], []
    for dataset in plan.datasets:
        inputs.append(_data(plan.data_path, dataset, "inter"))
        optional += [_data(plan.data_path, dataset, suffix) for suffix in ("item", "semid")]
        for contender in plan.contenders:
            optional += map(str, shipped_files(contender.model, dataset, use_tuned=True))
            settings = plan.settings_of(contender, dataset)
            for key in ("pre_model_path", "semantic_id_file"):
                inputs += [str(settings[key])] if settings.get(key) else []
    place = folder or f"{plan.checkpoint_dir}/benchmark"
    outputs = tuple(f"{place}/table.{suffix}" for suffix in ("md", "csv", "tex"))
    return Files(tuple(dict.fromkeys(inputs)), tuple(dict.fromkeys(optional)), outputs)


_OPEN: dict[tuple[str, ...], Callable[[Sequence[str]], Files]] = {
    ("tokenize",): _tokenize,
    ("pretrain",): _pretrain,
    ("run",): _run,
    ("benchmark",): _benchmark,
}
_KNOWN: dict[tuple[str, ...], Callable[[argparse.Namespace], Files]] = {
    ("embed", "text"): _embed_text,
    ("embed", "image"): _embed_image,
    ("embed", "vectors"): _embed_vectors,
    ("ids-from-columns",): _from_columns,
    ("sample",): _sample,
    ("merge",): _merge,
}
