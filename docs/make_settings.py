"""Write docs/settings.md: every setting with its type, default and meaning, from the YAML files.

    python docs/make_settings.py

The comments of the YAML files in `properties/` and of the commands' own flags are the source; a
test checks that the page is up to date. Nothing here imports RecBole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package beside this file, not one that is installed

from recbole_qbert.cli import COMMANDS  # noqa: E402
from recbole_qbert.commands.keys import Key, keys_in  # noqa: E402

INTRODUCTION = """\
# Settings

<!-- Written by docs/make_settings.py from the files in properties/. Do not edit: edit those. -->

Every key that the package reads, with its type, default and meaning. Keys are set in a YAML file
(`--config_files=a.yaml`) or on the command line (`--key=value`). `tokenize` takes a key of a
section with a dot: `--rqvae.epochs=100`. Keys marked (ours) are not RecBole's. `~` means no value.

Later sources win, in this order: RecBole's defaults, `properties/base.yaml`, the model's file, the
data set's file, the tuned file, your files, the command line; see [Training](train.md#settings).
`recbole-qbert run --help` also lists RecBole's own keys. Files of `properties/` are found by name
(`--config_files=paper.yaml`); `recbole-qbert --properties` prints their folder.
"""
KINDS = {bool: "bool", int: "int", float: "float", str: "str", list: "list", dict: "dict"}


class Part(NamedTuple):
    """Keys under one heading.

    Attributes:
        title: the heading.
        about: a sentence before the table.
        file: below `properties/`.
        depth: of the keys that are listed: 0 leaves out what is in mappings.
    """

    title: str
    about: str
    file: str
    depth: int = 1


RUN = (
    Part("Keys of all models", "The protocol and the training.", "base.yaml"),
    Part("Keys of QBERT4Rec", "IDBERT4Rec and BBQRec have the same keys.", "model/QBERT4Rec.yaml"),
    Part("Keys of IDBERT4Rec", "What differs from QBERT4Rec.", "model/IDBERT4Rec.yaml"),
    Part("Keys of BBQRec", "What differs from QBERT4Rec.", "model/BBQRec.yaml"),
    Part("Keys of BERT4Rec and BERT4RecFixed", "RecBole's keys.", "model/BERT4Rec.yaml"),
    Part("Keys of ESASRec", "eSASRec; GSASRec has the same keys.", "model/ESASRec.yaml"),
    Part("Keys of GSASRec", "What differs from ESASRec.", "model/GSASRec.yaml"),
    Part("Keys of SASRecCodes", "A control for QBERT4Rec.", "model/SASRecCodes.yaml"),
    Part("Keys of SASRecContent", "It needs item_vectors.", "model/SASRecContent.yaml"),
    Part("Keys of MISSRec", "It needs item_vectors.", "model/MISSRec.yaml"),
    Part("Keys of VQRec", "It needs semantic IDs.", "model/VQRec.yaml"),
    Part("Keys of TIGER", "It needs semantic IDs.", "model/TIGER.yaml"),
    Part("Keys of P5CID", "It makes its own IDs.", "model/P5CID.yaml"),
    Part("Keys of VIP5", "It needs item_vectors.", "model/VIP5.yaml"),
    Part("Keys of MQL4GRec", "It needs semantic IDs of text and image.", "model/MQL4GRec.yaml"),
    Part("Keys of S3Rec", "Beside RecBole's keys.", "model/S3Rec.yaml"),
    Part("Keys of Popularity", "Nothing is trained.", "model/Popularity.yaml"),
    Part("Keys of ContentKNN", "Beside the keys of Popularity.", "model/ContentKNN.yaml"),
    Part("Keys of BigramChain", "Beside the keys of Popularity.", "model/BigramChain.yaml"),
)
# Keys that a command takes beside its flags, below the section of the command.
FURTHER = {
    "tokenize": (Part("Keys of semantic IDs", "All stages.", "tokenize.yaml"),),
    "run": RUN,
    "pretrain": (Part("Keys of pretraining", "On top of the keys of QBERT4Rec.", "pretrain.yaml"),),
    "benchmark": (
        Part(
            "Keys of a benchmark file",
            "The values shown are those of the demo. Keys of `run` are taken too.",
            "benchmark/demo.yaml",
            depth=0,
        ),
    ),
    "tune": (
        Part("Keys of a tune file", "The values shown are those of the demo.", "tune/demo.yaml", 0),
    ),
}
WORKFLOWS = (
    Part("Workflow demo.smk", "Variables for `--config`.", "pipeline/demo.yaml"),
    Part("Workflow scientific.smk", "Variables for `--config`.", "pipeline/scientific.yaml"),
    Part("Workflow paper.smk", "Variables for `--config`.", "pipeline/paper.yaml"),
)


def settings_page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, command in COMMANDS.items():
        if command.flags:
            parts += [
                f"\n## {name}\n\n{command.summary}\n",
                "\n".join(table(command.flags, 0)) + "\n",
            ]
        for part in FURTHER.get(name, ()):
            parts += section(part, "###")
    for part in WORKFLOWS:
        parts += section(part, "##")
    parts.append("\n## Tuned settings\n\n" + tuned())
    return "\n".join(parts)


def section(part: Part, level: str) -> list[str]:
    """Heading, source and table of the keys of a shipped file."""
    text = (ROOT / "properties" / part.file).read_text(encoding="utf-8")
    head = f"\n{level} {part.title}\n\n{part.about} Source: `properties/{part.file}`.\n"
    return [head, "\n".join(table(text, part.depth)) + "\n"]


def table(text: str, depth: int) -> Iterator[str]:
    """The Markdown table of a commented YAML text."""
    values = yaml.safe_load(text) or {}
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    parent = ""
    for key in keys_in(text, depth):
        if not key.depth:
            parent = key.name
            value = values.get(key.name)
            name = key.name
        else:
            value = values[parent][key.name]
            name = f"{parent}.{key.name}"
        kind = KINDS.get(type(value), "") if key.kind in ("", "ours") else key.kind
        meaning = f"(ours) {key.meaning}" if key.kind == "ours" else key.meaning
        yield row([f"`{name}`", kind, default_of(key), meaning])


def default_of(key: Key) -> str:
    """As it stands in the file; of a mapping with lines of its own, nothing."""
    return f"`{key.default}`" if key.default else ""


def row(cells: Sequence[str]) -> str:
    """A row of a table; characters that Markdown would read are escaped outside code."""
    shown = [cell if cell.startswith("`") else escaped(cell) for cell in cells]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in shown) + " |"


def escaped(text: str) -> str:
    """Angle brackets and asterisks as they are."""
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("*", "\\*")


def tuned() -> str:
    """Which tuned files there are."""
    files = sorted((ROOT / "properties" / "tuned").glob("*.yaml"))
    found: dict[str, list[str]] = {}
    for file in files:
        model, _, dataset = file.stem.partition("-")
        found.setdefault(model, []).append(dataset)
    lines = [
        "`properties/tuned/<model>-<dataset>.yaml` holds what won on validation.",
        "`--use_tuned=False` leaves it out.",
        "",
        "| model | data sets |",
        "|---|---|",
        *(f"| {model} | {', '.join(datasets)} |" for model, datasets in found.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(settings_page(), encoding="utf-8")
