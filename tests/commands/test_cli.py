"""The command line: exit status, one line for each fault, results and folders."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tiny, files_below
from recbole.model.sequential_recommender import FPMC
from rich.console import Console

from recbole_qbert.cli import main
from recbole_qbert.commands.command import parse_settings
from recbole_qbert.commands.run import in_processes, models_and_dataset
from recbole_qbert.common.errors import InputError
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.evaluation.results import read_results
from recbole_qbert.experiments.run import run_model, run_models
from recbole_qbert.training import distributed
from recbole_qbert.training.checkpoint import load_checkpoint

SMALL = [
    "--data_path=.",
    "--epochs=2",
    "--use_gpu=False",
    "--show_progress=False",
    "--train_batch_size=16",
    "--MAX_ITEM_LIST_LENGTH=8",
]
TINY_MODEL = ["--hidden_size=16", "--n_layers=1", "--n_heads=2", "--inner_size=32"]


def run(*arguments: str) -> int:
    return main(["run", "--dataset=toy", *SMALL, *arguments])


# Faults ------------------------------------------------------------------------------------------


FAULTS = {
    "unknown model": (["--model=QBERT4Rek"], "did you mean 'QBERT4Rec'"),
    "second model unknown": (["--model=SASRec,GRU4Rek"], "did you mean 'GRU4Rec'"),
    "a model twice": (
        ["--model=SASRec,GRU4Rec,SASRec"],
        "model: SASRec is named 2 times; name it once",
    ),
    "general model": (["--model=BPR"], "not a sequential model"),
    "no model": ([], "--model=... is required"),
    "misspelt model": (
        ["--modle=SASRec"],
        "--model=... is required, on the command line or in a config file; "
        "is --modle meant for it?",
    ),
    "ranks no catalog": (["--model=DIN"], "model DIN: it needs labels"),
    "two tables": (
        ["--model=SASRec,GRU4Rec", "--config_files=two.yaml"],
        "topk: GRU4Rec has [10, 20], SASRec has [1, 5, 10]; give all models the same value",
    ),
    "checkpoints below a file": (
        ["--model=SASRec", "--checkpoint_dir=bad.yaml"],
        "checkpoint_dir: bad.yaml: is not writable",
    ),
    "checkpoints in a file's folder": (
        ["--model=SASRec", "--checkpoint_dir=bad.yaml/a/b"],
        "checkpoint_dir: bad.yaml/a/b: is not writable",
    ),
    "checkpoints at a loop": (
        ["--model=SASRec", "--checkpoint_dir=loop/saved"],
        "checkpoint_dir: loop/saved: is not writable",
    ),
    "checkpoints in /proc": (
        ["--model=SASRec", "--checkpoint_dir=/proc/x"],
        "checkpoint_dir: /proc/x: is not writable",
    ),
    "checkpoints under a long name": (
        ["--model=SASRec", f"--checkpoint_dir={'n' * 300}"],
        "is not writable (File name too long)",
    ),
    "a run's folder is a file": (
        ["--model=SASRec", "--checkpoint_dir=taken"],
        "taken/toy is not a folder",
    ),
    "unknown key": (["--model=SASRec", "--learning_rat=1"], "did you mean 'learning_rate'"),
    "unknown key of one model": (["--model=BigramChain", "--hidden_size=8"], "unknown key"),
    "missing folder": (
        ["--model=SASRec", "--data_path=elsewhere"],
        "elsewhere/toy: no such folder",
    ),
    "missing config file": (
        ["--model=SASRec", "--config_files=absent.yaml"],
        "absent.yaml: no such",
    ),
    "broken config file": (
        ["--model=SASRec", "--config_files=bad.yaml"],
        "bad.yaml: not valid YAML",
    ),
    "broken semid": (["--model=QBERT4Rec", "--semantic_id_file=bad.semid"], "bad.semid: line 2"),
    "missing semid": (
        ["--model=QBERT4Rec", "--semantic_id_file=no.semid"],
        "no.semid: no such file",
    ),
    "items without ID": (
        ["--model=QBERT4Rec", "--semantic_id_file=few.semid"],
        "12 of 30 items of the data set have no semantic_id",
    ),
    "unknown scheme": (
        ["--model=QBERT4Rec", "--mask_mix={spam: 1}"],
        "mask_mix: unknown key 'spam'; did you mean 'span'",
    ),
    "negative weight": (
        ["--model=QBERT4Rec", "--mask_mix={span: -1}"],
        "mask_mix.span: -1 is not a number in [0",
    ),
    "mask_mix no dict": (["--model=QBERT4Rec", "--mask_mix=span"], "mask_mix"),
    "mask_mix no number": (["--model=QBERT4Rec", "--mask_mix={span: x}"], "mask_mix"),
    "flag without value": (["--model=SASRec", "--epochs"], "--epochs has no value"),
    "flag before a flag": (["--model", "--epochs=1"], "--model has no value"),
    "type of a number": (["--model=SASRec", "--hidden_size=x"], "hidden_size: 'x' is not a whole"),
    "truth value as number": (
        ["--model=SASRec", "--n_layers=True"],
        "n_layers: True is not a whole",
    ),
    "metric no rank decides": (
        ["--model=SASRec", "--metrics=[GAUC]"],
        "metrics: 'GAUC' is none of hit, ",
    ),
    "valid metric": (
        ["--model=SASRec", "--valid_metric=NDCG@7"],
        "valid_metric: NDCG@7 is not computed",
    ),
    "sampled ranking": (
        ["--model=SASRec", "--eval_args={split: {LS: valid_and_test}, order: TO, mode: uni9}"],
        "eval_args.mode: 'uni9' is not full",
    ),
    "zero step": (
        ["--model=SASRec", "--eval_step=0"],
        "eval_step: 0 is not a whole number from 1",
    ),
    "learner": (["--model=SASRec", "--learner=foo"], "learner: 'foo' is none of adam"),
    "no flag": (["--model=SASRec", "epochs"], "'epochs' is no --key=value"),
    "twice": (["--model=SASRec", "--epochs=9"], "--epochs is given twice"),
    "heads": (
        ["--model=QBERT4Rec", "--hidden_size=10", "--n_heads=4"],
        "not a multiple of n_heads",
    ),
    "schedule": (["--model=SASRec", "--lr_decay=steps"], "lr_decay"),
    "vectors": (["--model=SASRec", "--item_vectors={a: no.npz}"], "no.npz: no such file"),
    "column": (["--model=SASRec", "--TIME_FIELD=when"], "when"),
    "warm-up": (["--model=SASRec", "--warmup_ratio=half"], "warmup_ratio: 'half'"),
    "metric": (["--model=SASRec", "--metrics=[Hitt]"], "did you mean 'hit'"),
}


def prepare_faults(tiny: Tiny) -> None:
    """The bad files that `FAULTS` name."""
    Path("bad.yaml").write_text("a: [1,\n")
    Path("two.yaml").write_text("per_model: {GRU4Rec: {topk: [10, 20]}}\n")
    Path("loop").symlink_to("loop")
    Path("taken").mkdir()
    Path("taken/toy").write_text("a file")
    Path("bad.semid").write_text("item_id:token\tsemantic_id:token_seq\ni0\tnonsense\n")
    table = tiny.table
    few = SemanticIDTable(table.items[:18], table.codes[:18], table.codebook_sizes)
    write_semantic_ids("few.semid", few, {})


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_is_one_line_and_status_2(
    tiny: Tiny, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written, and nobody sees a traceback."""
    prepare_faults(tiny)
    arguments, message = FAULTS[fault]
    flags = [flag for flag in SMALL if not any(a.startswith("--data_path") for a in arguments)
             or not flag.startswith("--data_path")]  # fmt: skip
    before = files_below(tiny.root)
    capfd.readouterr()
    status = main(["run", "--dataset=toy", *flags, *arguments])
    errors = capfd.readouterr().err
    assert status == 2
    assert message in errors
    assert errors.startswith("recbole-qbert: ")
    assert errors.count("\n") == 1 and errors.endswith("\n"), errors
    assert files_below(tiny.root) == before


def test_a_process_shows_one_line_too(tiny: Tiny) -> None:
    """With all that libraries print when they are imported and used for the first time."""
    prepare_faults(tiny)
    faults = [FAULTS[name] for name in ("unknown model", "unknown scheme")]
    lines = [["run", "--dataset=toy", *SMALL, *arguments] for arguments, _ in faults]
    script = (
        "import json, sys; from recbole_qbert.cli import main\n"
        "print([main(words) for words in json.loads(sys.argv.pop())])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(lines)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "[2, 2]\n"
    said = done.stderr.splitlines()
    assert len(said) == 2, done.stderr
    assert all(message in line for line, (_, message) in zip(said, faults, strict=True))


def test_too_little_data(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    """No user with enough interactions; no user at all after filtering; an empty file."""
    rows = [(f"u{n}", f"i{n + k}", float(k)) for n in range(5) for k in range(3)]
    tiny.write_inter(rows)
    assert run("--model=SASRec") == 2
    assert "no user has enough interactions (4 are needed)" in capfd.readouterr().err
    assert run("--model=SASRec", "--user_inter_num_interval=[9,inf)") == 2
    assert capfd.readouterr().err.count("\n") == 1
    tiny.write_inter([])
    assert run("--model=SASRec") == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_parse_settings() -> None:
    given = ["--a=1", "-m", "X", "-d=toy", "--b", "2", "--c=x=y", "--d=", "--a=1"]
    expected = {"a": "1", "model": "X", "dataset": "toy", "b": "2", "c": "x=y", "d": ""}
    assert parse_settings(given) == expected
    for bad in (["--=1"], ["---"], ["-x=1"]):
        with pytest.raises(InputError):
            parse_settings(bad)


# Good runs ---------------------------------------------------------------------------------------


def test_help_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    assert "--model=" in capsys.readouterr().out
    for arguments, status in ((["--version"], 0), (["--help"], 0), ([], 2)):
        assert main(arguments) == status


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("rnu", "; did you mean 'run'?"),
        ("Tune", "; did you mean 'tune'?"),
        ("benchmrk", "; did you mean 'benchmark'?"),
        ("zzz", "; see recbole-qbert --help"),
    ],
)
def test_no_command(word: str, hint: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([word, "--model=SASRec"]) == 2
    assert capfd.readouterr().err == f"recbole-qbert: '{word}' is no command{hint}\n"


def test_check(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    semid = str(tiny.folder / "toy.semid")
    assert main(["ids", "check", semid, "--inter", str(tiny.folder / "toy.inter")]) == 0
    output = capsys.readouterr().out
    assert "30 items, 3 levels" in output
    assert "coverage: all 30 items" in output
    Path(semid).write_text("item_id:token\tsemantic_id:token_seq\ni0\tnonsense\n")
    assert main(["ids", "check", semid]) == 2


def test_ids_from_columns(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    items = str(tiny.folder / "toy.item")
    assert main(["ids", "from-columns", items, "c.semid", "--columns=absent"]) == 2
    assert not Path("c.semid").exists()
    Path("codes.item").write_text("item_id:token\tc:token_seq\nx\ta_1 b_2\ny\ta_1 b_2\n")
    for unique, levels in (("extra_level", 3), ("reallocate", 2)):
        arguments = ["ids", "from-columns", "codes.item", "c.semid", "--columns=c"]
        assert main([*arguments, f"--unique={unique}"]) == 0
        assert f"c.semid: 2 items, {levels} levels" in capsys.readouterr().out


def test_the_last_config_file_names_models_and_data(tmp_path: Path) -> None:
    files = [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    Path(files[0]).write_text("model: SASRec\ndataset: one\n")
    Path(files[1]).write_text("model: GRU4Rec, TIGER\ndataset: two\n")
    for order, models, dataset in (
        (files, ["GRU4Rec", "TIGER"], "two"),
        (files[::-1], ["SASRec"], "one"),
    ):
        given = {"config_files": ",".join(order)}
        assert models_and_dataset(dict(given)) == (models, dataset, order)
        given["model"] = "NARM"  # the command line counts first
        assert models_and_dataset(given) == (["NARM"], dataset, order)
        assert given == {}


def test_the_last_config_file_gives_the_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(tmp_path / f"{name}.yaml") for name in "abc"]
    for file, text in zip(files, ("nproc: 3", "nproc: 2", "seed: 1"), strict=True):
        Path(file).write_text(text)
    monkeypatch.setattr(distributed, "launch", lambda n_processes, command: n_processes)
    assert in_processes(["run"], None, files) == 2
    assert in_processes(["run"], "4", files) == 4


def test_three_models_one_table_three_lines(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    Path("small.yaml").write_text(
        "epochs: 9\nper_model:\n"
        "  QBERT4Rec: {hidden_size: 16, n_layers: 1, n_heads: 2, inner_size: 32}\n"
        "  SASRec: {hidden_size: 16, n_layers: 1, n_heads: 2, inner_size: 32}\n"
    )
    models = ["QBERT4Rec", "SASRec", "BigramChain"]
    assert run(f"--model={','.join(models)}", "--config_files=small.yaml") == 0
    output = capsys.readouterr().out
    assert output.count("the whole catalog ranked") == 1
    assert all(len(line) <= 110 for line in output.splitlines() if "│" in line)

    results = read_results("saved/results.jsonl")
    assert [result.model for result in results] == models
    folders = sorted(Path("saved/toy").iterdir())
    assert len(folders) == 3
    for result in results:
        assert (result.dataset, result.seed, result.valid_metric) == ("toy", 2026, "ndcg@10")
        assert (result.epochs, result.max_epochs) == (2, 2)  # the flag wins over the file
        assert "small.yaml" in result.config_files
        ids = {"toy.semid", "toy.semid.json"} if result.model == "QBERT4Rec" else set()
        assert result.data_sha256.keys() == {"toy.inter", "toy.item"} | ids
        assert result.counts["users"] == 40
        assert result.counts["interactions"] == len(tiny.rows)
        assert result.counts["training interactions"] == len(tiny.rows) - 80
        assert result.counts["test rows"] == result.counts["valid rows"] == 40
        for values in (result.valid, result.test):
            assert all(0 <= value <= 1 for value in values.values())
            assert values["hit@1"] <= values["hit@5"] <= values["hit@10"]
            assert all(values[f"unseen_{n}"] >= v for n, v in values.items() if n[0] != "u")
        (folder,) = [path for path in folders if path.name.startswith(f"{result.model}-seed2026-")]
        with np.load(folder / "test_ranks.npz") as ranks:
            assert (ranks["raw"] <= 10).mean() == pytest.approx(result.test["hit@10"])
        stored = load_checkpoint(folder / f"{result.model}.safetensors")
        assert stored["epoch"] == result.best_epoch
        curve = json.loads((folder / f"{result.model}.curve.json").read_text())["curve"]
        assert curve[result.best_epoch]["ndcg@10"] == result.valid["ndcg@10"]
    assert all(Path(result.bundle, "manifest.json").is_file() for result in results)
    assert results[0].exclude_visible


def test_the_same_settings_share_a_folder(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    """Where things go and how they are shown is no part of a run's name; its settings are."""
    small = ["--model=SASRec", *TINY_MODEL, "--epochs=2"]
    for arguments in ([], ["--show_progress=False"], ["--learning_rate=0.01"], ["--seed=3"]):
        assert run(*small, *arguments) == 0
    folders = sorted(path.name for path in Path("saved/toy").iterdir())
    assert len(folders) == 3
    assert sum(name.startswith("SASRec-seed3-") for name in folders) == 1
    results = read_results("saved/results.jsonl")
    assert len(results) == 4
    assert results[0].test == results[1].test
    assert results[0].test != results[2].test

    capsys.readouterr()
    assert run(*small, "--resume=True") == 0  # finished: nothing is trained, nothing is written
    assert read_results("saved/results.jsonl") == results
    assert f"{results[1].test['hit@10']:.4f}" in capsys.readouterr().out
    tiny.write_inter(tiny.rows[:-1])
    before = files_below(Path("saved"))
    assert run(*small, "--resume=True") == 2
    assert "toy.inter changed since it was made; start the run again" in capsys.readouterr().err
    assert files_below(Path("saved")) == before


def test_s3rec_runs_both_stages(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--item_attribute=semantic_id", "--pretrain_epochs=1", "--epochs=2"]
    assert run("--model=S3Rec", *TINY_MODEL, *flags) == 0
    (result,) = read_results("saved/results.jsonl")
    assert result.epochs == 2
    (folder,) = Path("saved/toy").iterdir()
    assert (folder / "pretrain" / "S3Rec.safetensors").is_file()


def test_fdsa_runs(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model=FDSA", *TINY_MODEL, "--selected_features=[semantic_id]") == 0
    assert len(read_results("saved/results.jsonl")) == 1


@pytest.mark.parametrize(
    ("item", "columns", "features", "said"),
    [
        ("price:float\ni0\tcheap", "price", "price", "toy.item: line 2, price: 'cheap' is not a"),
        ("cat:token\ni0\tc", "kat", "cat", "no column 'kat'; it has item_id, cat; did you mean"),
        ("cat\ni0\tc", "cat", "cat", "toy.item: line 1: 'cat' is not 'name:type'"),
        ("cat:token\ni0", "cat", "cat", "toy.item: line 2: 1 fields where the header has 2"),
        (
            "cat:token\ni0\tc",
            None,
            "cat",
            "not a feature of the items (semantic_id)",
        ),
        ("cat:token\ni0\tc", None, "semid", "did you mean 'semantic_id'?"),
    ],
)
def test_a_later_models_data_are_checked_before_the_first_training(
    tiny: Tiny,
    capsys: pytest.CaptureFixture[str],
    item: str,
    columns: str | None,
    features: str,
    said: str,
) -> None:
    Path("toy/toy.item").write_text(f"item_id:token\t{item}\n")
    own = f"selected_features: [{features}]"
    if columns:
        inter = "inter: [user_id, item_id, timestamp]"
        own += f", load_col: {{{inter}, item: [item_id, {columns}]}}"
    Path("own.yaml").write_text(f"per_model: {{FDSA: {{{own}}}}}\n")
    before = files_below(Path())
    assert run("--model=SASRec,FDSA", *TINY_MODEL, "--config_files=own.yaml") == 2
    output = capsys.readouterr()
    assert said in output.err and output.err.count("\n") == 1
    assert "SASRec on toy" not in output.out
    assert files_below(Path()) == before


def test_missing_semantic_ids_of_a_later_model(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in Path("toy").glob("*.semid*"):
        path.unlink()
    before = files_below(Path())
    assert run("--model=SASRec,QBERT4Rec", *TINY_MODEL) == 2
    message = (
        "toy.semid: no such file; QBERT4Rec reads it; run `recbole-qbert tokenize --dataset=toy`"
    )
    assert message in capsys.readouterr().err
    assert files_below(Path()) == before


def test_a_run_names_the_semantic_ids_that_it_reads(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--dataset=toy", "--data_path=.", "--epochs=1", "--use_gpu=False", "--n_heads=2"]
    assert main(["run", "--model=QBERT4Rec", *where, "--hidden_size=16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "QBERT4Rec on toy"
    digest = hashlib.sha256((tiny.folder / "toy.semid").read_bytes()).hexdigest()[:8]
    assert f"  semantic IDs toy/toy.semid, SHA-256 {digest}" in lines
    assert main(["run", "--model=BigramChain", "--dataset=toy", "--data_path=."]) == 0
    assert "semantic IDs" not in capsys.readouterr().out


def test_lines_stay_whole_where_the_console_is_narrow(tiny: Tiny) -> None:
    stream = io.StringIO()
    result = run_model(tiny.make_config("BigramChain"), Console(file=stream, width=40))
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    ends = {"users 40,": "test rows 40", "settings from": ".yaml"}
    for start, end in ends.items():
        assert any(line.startswith(start) and line.endswith(end) for line in lines)
    assert any(line.endswith(f"folder {result.folder}") for line in lines)


def test_a_broken_results_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"model": 1}\n')
    with pytest.raises(InputError, match=r"r\.jsonl:1: not a run"):
        read_results(tmp_path / "r.jsonl")
    with pytest.raises(InputError, match="no such results file"):
        read_results(tmp_path / "absent.jsonl")


def test_a_later_model_that_cannot_be_built_is_told_of_before_the_first_training(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Any, config: Any, dataset: Any) -> None:
        raise ValueError(f"no size {config['embedding_size']} for {dataset.item_num} items")

    monkeypatch.setattr(FPMC, "__init__", refuse)
    before = files_below(tiny.root)
    assert run("--model=SASRec,FPMC") == 2
    said = capfd.readouterr()
    assert "model FPMC on toy: RecBole cannot build it" in said.err
    assert "no size" in said.err and said.err.count("\n") == 1
    assert "SASRec" not in said.out
    assert files_below(tiny.root) == before


def test_what_is_tried_before_changes_no_run(tiny: Tiny) -> None:
    """`auto` stays in the settings of a later model, and its weights are those of a run alone."""
    settings = tiny.settings("QBERT4Rec", epochs=1, train_batch_size="auto")
    (alone,) = run_models(["QBERT4Rec"], "toy", settings=settings)
    _, later = run_models(["IDBERT4Rec", "QBERT4Rec"], "toy", settings=settings)
    assert (later.valid, later.test, later.folder) == (alone.valid, alone.test, alone.folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "b", "--port="], "--port=: has no value; leave it out for 8000"),
        (["report", "saved", "--n_users="], "--n_users=: has no value; leave it out for 5"),
        (["report", "saved", "--output="], "--output=: has no value"),
        (["evaluate", "b", "--data_path="], "--data_path=: has no value"),
    ],
)
def test_a_flag_with_a_default_is_not_empty(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As from a variable of the shell that is not set."""
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
