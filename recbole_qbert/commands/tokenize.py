"""`recbole-qbert tokenize`: makes semantic IDs from embeddings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from recbole_qbert.commands.command import Command, different_names
from recbole_qbert.commands.keys import tokenize_groups
from recbole_qbert.common.yaml_files import split_names
from recbole_qbert.data.domain import default_folder


def _tokenize(options: SimpleNamespace) -> int:
    names = different_names("dataset", options.dataset)

    from recbole_qbert.data.domain import find_domain
    from recbole_qbert.tokenizer.pipeline import tokenize
    from recbole_qbert.tokenizer.report import report_lines
    from recbole_qbert.tokenizer.settings import tokenize_settings

    settings = tokenize_settings(split_names(options.config_files or ""), options.settings)
    domains = [find_domain(name, options.data_path) for name in names]
    folder = options.tokenizer or default_folder(options.data_path, names, settings["output"])
    tokenizer = tokenize(domains, Path(folder), settings)
    if tokenizer is None:
        print(f"{folder}: stopped after {settings['until']}; repeat without --until to finish")
        return 0
    for line in report_lines(tokenizer):
        print(line)
    for domain in domains:
        print(f"{domain.file(settings['output'])}: written")
    return 0


TOKENIZE = Command(
    "tokenize",
    "Make a semantic ID for each item of one or more data sets from their embedding tables.",
    _tokenize,
    details="""
        recbole-qbert tokenize --dataset=ml-100k --n_levels=4 --codebook_size=64

        Without new settings, a repeated command goes on where the last one stopped.
        """,
    keys=tokenize_groups,
)
