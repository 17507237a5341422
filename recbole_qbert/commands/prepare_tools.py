"""`recbole-qbert prepare`: downloads, splits, merges and describes data sets."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

from recbole_qbert.commands.command import Command, different_names
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import counted, new_console
from recbole_qbert.data.domain import DatasetPaths


def _download(options: SimpleNamespace) -> int:
    from recbole_qbert.datasets.download import STATUS, download, read_items, read_list
    from recbole_qbert.datasets.http import FAILED, STATES, HttpOptions

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # status.tsv has the reasons
    if options.workers < 1 or options.per_host < 1 or options.timeout <= 0 or options.retries < 0:
        raise InputError("--workers, --per_host, --timeout: more than 0; --retries: 0 or more")
    if bool(options.list) == bool(options.items):
        raise InputError("give either --list=FILE or --items=FILE with --column=NAME")
    if options.items and not options.column:
        raise InputError("--column=... is required: the column of --items that has the URLs")
    entries = (
        read_items(options.items, options.column) if options.items else read_list(options.list)
    )
    given = {each.name: getattr(options, each.name) for each in fields(HttpOptions)}
    counts = download(
        entries,
        options.output,
        HttpOptions(**{name: value for name, value in given.items() if value is not None}),
        pictures=options.pictures,
        offline=options.offline,
        again=options.again,
        check=options.check,
    )
    shown = ", ".join(f"{counts[state]:,} {state}" for state in STATES if counts[state])
    print(f"{options.output}: {shown}")
    if counts[FAILED] and not options.allow_failed:
        raise InputError(
            f"{counts[FAILED]:,} of {len(entries):,} failed (see {options.output}/{STATUS}); "
            "repeat the command, or go on without them: --allow_failed"
        )
    return 0


def _split(options: SimpleNamespace) -> int:
    from recbole_qbert.common.hashes import sha256_file
    from recbole_qbert.datasets.split import (
        check_filled,
        cut_offs,
        explain,
        few_users,
        leak,
        leave_one_out,
        own_parts,
        read_sequences,
        temporal,
        write_split,
    )
    from recbole_qbert.datasets.target import check_split

    if options.max_length < 0:
        raise InputError(f"--max_length={options.max_length}: give 0 or more")
    if options.parts or options.method != "temporal":
        for name in ("shares", "valid_from", "test_from"):
            if getattr(options, name) not in (None, []):
                raise InputError(f"--{name}: it needs --method=temporal, without --parts")
    domain = DatasetPaths(options.dataset, options.data_path / options.dataset)
    paths = [Path(part) for part in options.parts or [domain.file("inter")]]
    if options.parts and len(paths) != 3:
        raise InputError(
            f"--parts: {counted(len(paths), 'file')}; give three, train, valid and test"
        )
    check_split(domain, paths, options.overwrite)
    sequences = read_sequences(*paths)
    if options.parts:
        rows = own_parts(sequences, paths)
        check_filled(rows, "none of its interactions has one before it; add interactions")
    elif options.method == "leave_one_out":
        rows = leave_one_out(sequences)
        check_filled(rows, "no user has four interactions; give longer sequences, or --parts")
    elif options.shares:
        rows = temporal(sequences, *cut_offs(sequences, _shares(options.shares)))
    elif None in (options.valid_from, options.test_from):
        raise InputError("--method=temporal needs --shares=0.8,0.9, or --valid_from, --test_from")
    else:
        rows = temporal(sequences, options.valid_from, options.test_from)
    if options.train_users != 1:
        rows = few_users(sequences, rows, options.train_users, options.seed)
    source = {
        "method": "own parts" if options.parts else options.method,
        "max_length": options.max_length,
        "train_users": options.train_users,
        "seed": options.seed,
        "from": {path.name: sha256_file(path) for path in paths},
    }
    counts = write_split(domain, sequences, rows, options.max_length, source)
    print(
        f"{domain.folder}: "
        + ", ".join(f"{part} {counted(n, 'row')}" for part, n in counts.items())
    )
    for line in explain(leak(sequences, rows)):
        print(line)
    print(f"use it with --config_files={domain.file('split.yaml')}")
    return 0


def _shares(given: list[str]) -> list[float]:
    try:
        return [float(share) for share in given]
    except ValueError:
        raise InputError(f"--shares={','.join(given)}: give two numbers") from None


def _stats(options: SimpleNamespace) -> int:
    from recbole_qbert.common.files import write_json
    from recbole_qbert.data.domain import find_domain
    from recbole_qbert.datasets.stats import gather_stats
    from recbole_qbert.reports.dataset_statistics import print_stats, write_page

    facts = gather_stats(find_domain(options.dataset, options.data_path), options.pictures)
    print_stats(facts, new_console(highlight=False))
    if options.json:
        write_json(options.json, facts)
    if options.html:
        write_page(options.html, facts)
    return 0


def _merge(options: SimpleNamespace) -> int:
    from recbole_qbert.data.domain import find_domain
    from recbole_qbert.data.merge import merge

    names = different_names("datasets", options.datasets)
    if len(names) < 2:
        raise InputError(f"--datasets={','.join(names)}: name two or more data sets")
    domains = [find_domain(name, options.data_path) for name in names]
    into = DatasetPaths(options.into, options.data_path / options.into)
    merged = merge(domains, into)
    for suffix, rows in merged.rows.items():
        left_out = merged.left_out.get(suffix)
        rest = f"; left out, as not all have it: {', '.join(left_out)}" if left_out else ""
        print(f"{into.file(suffix)}: {counted(rows, 'row')}{rest}")
    for suffix, lacking in merged.without.items():
        print(f"{into.file(suffix)}: not written, because it is missing in {', '.join(lacking)}")
    return 0


TOOLS = (
    Command(
        "prepare download",
        "Download raw files, or images of items, by lists of URLs.",
        _download,
        details="""
        recbole-qbert prepare download --items=dataset/X/X.item --column=image_url \\
            --output=pictures/X --pictures
        recbole-qbert prepare download --list=urls.tsv --output=raw

        URLs of a file are tried in order. Repeat the command after a kill, or to try failed files
        again; status.tsv in the folder has the state of each file.
        """,
    ),
    Command(
        "prepare split",
        "Split a data set into benchmark files for RecBole, and report what the split leaks.",
        _split,
        details="""
        recbole-qbert prepare split --dataset=X
        recbole-qbert prepare split --dataset=X --method=temporal --shares=0.8,0.9
        recbole-qbert prepare split --dataset=X --parts=my_train.inter,my_valid.inter,my_test.inter

        The command writes X.train.inter, X.valid.inter and X.test.inter, where each row is a target
        with its history, and X.split.yaml for `run --config_files`.
        """,
    ),
    Command(
        "prepare stats",
        "Print statistics of a data set: counts, lengths, duplicates, cold items, modalities.",
        _stats,
        details="recbole-qbert prepare stats --dataset=Instruments --html=stats.html",
    ),
    Command(
        "prepare merge",
        "Merge several data sets into one, with tokens <dataset>/<token>.",
        _merge,
        details="recbole-qbert prepare merge --datasets=Pet,Cell --into=PetCell",
    ),
)
