"""Every file that a command reads is part of what a result is; a changed one is never passed over.

Two independent checks: which files Python opens while a run is made, and what each command does
when any of these files, or any of those that it left itself, has another byte.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from conftest import N_ITEMS, N_USERS, Tiny
from rich.console import Console
from toy_plan import write_plan
from tune_toy import SWEEP, without_ray
from two_domains import Toys, make_toys, write_ids  # noqa: F401

from recbole_qbert.cli import main
from recbole_qbert.config.build import build_config
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.evaluation.results import read_results
from recbole_qbert.experiments.run import run_model
from recbole_qbert.pretraining.fit import pretrain
from recbole_qbert.registry import MODEL_TABLE, register
from recbole_qbert.training.inputs import inputs_of, reads_semantic_ids
from recbole_qbert.training.trainer import ResumableTrainer

SIZES = {"n_layers": 1, "n_heads": 2, "hidden_size": 16, "inner_size": 32}
SMALL = {
    **SIZES,
    "MAX_ITEM_LIST_LENGTH": 8,
    "train_batch_size": 16,
    "use_gpu": False,
    "show_progress": False,
}
COLUMNS = {
    "inter": ["user_id", "item_id", "timestamp"],
    "item": ["item_id", "class"],
    "user": ["user_id", "age"],
}
OWN = ("toy.inter", "toy.item", "toy.user", "toy.semid", "toy.semid.json")
VECTORS = ("item_vectors.text/toy.text.npz", "item_vectors.text/toy.text.npz.json")
PRETRAINED = ("config.json", "corpus.json", "items.json", "manifest.json", "model.safetensors")


@pytest.fixture
def rich_data(tiny: Tiny) -> dict[str, Any]:
    """Settings under which a run reads a file of every kind."""
    users = "".join(f"u{number}\t{20 + number}\n" for number in range(N_USERS))
    (tiny.folder / "toy.user").write_text("user_id:token\tage:float\n" + users, encoding="utf-8")
    vectors = np.random.default_rng(5).standard_normal((N_ITEMS, 1, 4)).astype(np.float32)
    items = tuple(f"i{number}" for number in range(N_ITEMS))
    table = EmbeddingTable(items, vectors, np.ones((N_ITEMS, 1), np.bool_), {"modality": "text"})
    write_embeddings(tiny.folder / "toy.text.npz", table)
    given = {**SMALL, "valid_users": 10, "epochs": 1, "data_path": str(tiny.root)}
    source = pretrain(["toy"], settings={**given, "checkpoint_dir": str(tiny.root / "first")})
    shutil.copytree(source, tiny.root / "source")
    return {
        **SMALL,
        "load_col": COLUMNS,
        "item_vectors": {"text": str(tiny.folder / "toy.text.npz")},
        "pre_model_path": str(tiny.root / "source"),
    }


# What is covered ---------------------------------------------------------------------------------


@contextlib.contextmanager
def opened_below(*folders: Path) -> Iterator[set[str]]:
    """Names of the files below some folders that Python opens to read in the block."""
    found: set[str] = set()
    watching = [True]

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(details[0], (str, Path)):
            path = Path(details[0]).resolve()
            if any(folder in path.parents for folder in folders):
                found.add(path.name)

    sys.addaudithook(hook)  # for the life of the process
    try:
        yield found
    finally:
        watching.clear()


@pytest.mark.parametrize("model", ["QBERT4Rec", "FDSA", "SASRec", "BigramChain"])
def test_no_other_file_is_read(
    tiny: Tiny, rich_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """Nor is any named that is not read, except that of the semantic IDs all models open."""
    ours = {} if model == "QBERT4Rec" else {"pre_model_path": None}
    if model == "FDSA":
        ours["selected_features"] = ["semantic_id"]
    settings = tiny.settings(model, **{**rich_data, **ours, "epochs": 1})
    if model != "QBERT4Rec":
        del settings["pre_model_path"]
    if model == "BigramChain":
        settings = {key: value for key, value in settings.items() if key not in SIZES}
    config = build_config(model, "toy", settings=settings)
    inputs = inputs_of(config)
    # Hashing opens files too: the run gets what was computed before.
    for module in ("experiments.run", "training.trainer"):
        monkeypatch.setattr(f"recbole_qbert.{module}.inputs_of", lambda config: inputs)
    with opened_below(tiny.folder, tiny.root / "source") as opened:
        run_model(config, Console(quiet=True))
    named = {name.rpartition("/")[2] for name in inputs}
    reads_ids = model in ("QBERT4Rec", "FDSA")
    ids = {"toy.semid", "toy.semid.json"}
    assert opened == named | (set() if reads_ids else ids)
    assert (ids <= named) == reads_ids
    expected = {*OWN, *VECTORS} if reads_ids else {*OWN, *VECTORS} - ids
    if model == "QBERT4Rec":
        expected |= {f"pre_model_path/{name}" for name in PRETRAINED}
    assert set(inputs) == expected


def test_files_of_one_name_are_told_apart(tiny: Tiny, rich_data: dict[str, Any]) -> None:
    """Also those beyond the interactions, items and users that some models read."""
    other = tiny.root / "other"
    other.mkdir()
    for name in ("toy.text.npz", "toy.text.npz.json"):
        shutil.copy(tiny.folder / name, other / name)
    for suffix in ("kg", "link", "net"):
        (tiny.folder / f"toy.{suffix}").write_text("head_id:token\n", encoding="utf-8")
    vectors = {"text": str(tiny.folder / "toy.text.npz"), "more": str(other / "toy.text.npz")}
    columns = {**COLUMNS, "kg": ["head_id"]}
    config = tiny.make_config(**{**rich_data, "item_vectors": vectors, "load_col": columns})
    inputs = inputs_of(config)
    heads = ("item_vectors.text", "item_vectors.more")
    assert {f"{head}/toy.text.npz" for head in heads} < set(inputs)
    assert "toy.kg" in inputs and not {"toy.link", "toy.net"} & set(inputs)


def test_who_reads_semantic_ids_is_a_matter_of_the_model(tiny: Tiny) -> None:
    """Not of its name: a model of somebody else's is asked, and else taken for one that may."""
    cases: list[tuple[str, dict[str, Any], bool]] = [
        ("QBERT4Rec", {}, True),
        ("QBERT4Rec", {"item_representation": "id"}, False),
        ("IDBERT4Rec", {}, False),
        ("BERT4RecFixed", {}, False),
        ("Popularity", {}, False),
        ("BigramChain", {}, False),
        ("TIGER", {}, True),
        ("MQL4GRec", {}, True),
        ("P5CID", {}, False),
        ("VIP5", {}, False),
        ("VQRec", {}, True),
        ("SASRec", {}, False),
        ("FDSA", {"selected_features": ["semantic_id"]}, True),
        ("FDSA", {"selected_features": ["class"]}, False),
        ("S3Rec", {"item_attribute": "semantic_id"}, True),
        ("S3Rec", {"item_attribute": "class"}, False),
    ]
    for model, settings, expected in cases:
        config = tiny.make_config(model, **settings)
        assert reads_semantic_ids(config) is expected, (model, settings)
        assert ("toy.semid" in inputs_of(config)) is expected
    base = MODEL_TABLE["BigramChain"].model
    silent = type("SilentReader", (base,), {"reads_semantic_ids": None})
    told = type("ToldReader", (base,), {"reads_semantic_ids": staticmethod(lambda config: True)})
    try:
        for model_class, answer in ((silent, None), (told, True)):
            register(model_class)
            settings = {**SMALL, "data_path": str(tiny.root), "tie_break": "first"}
            settings = {key: value for key, value in settings.items() if key not in SIZES}
            config = build_config(model_class.__name__, "toy", settings=settings)
            assert reads_semantic_ids(config) is answer
            assert "toy.semid" in inputs_of(config)
    finally:
        for name in ("SilentReader", "ToldReader"):
            MODEL_TABLE.pop(name, None)


# No command passes over a change -----------------------------------------------------------------


class Command(NamedTuple):
    """A command whose work is done, or was broken off."""

    arguments: list[str]
    files: dict[str, Path]  # what it reads, by the name that a refusal has
    epochs: list[int]  # grows with every epoch that is trained
    error: Callable[[], str]
    published: Path  # what must stay as it is where nothing is trained

    def run(self) -> tuple[int, int, str]:
        """Exit status, epochs trained, standard error."""
        self.epochs.clear()
        self.error()
        return main(self.arguments), len(self.epochs), self.error()


def flips(path: Path) -> Iterator[bytes]:
    """The file with one bit turned: within, and in its last byte."""
    content = path.read_bytes()
    for place in (len(content) // 3, len(content) - 1):
        yield content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def never_reused(command: Command, repeats: bool = False) -> None:
    """With any byte of any file changed the command refuses in a line that names the file, or, if
    it may, makes the result again; with all as it was it has nothing to do but its rest."""
    for name, path in command.files.items():
        before = path.read_bytes()
        for content in flips(path):
            path.write_bytes(content)
            kept = snapshot(command.published)
            status, n_epochs, error = command.run()
            if repeats and status == 0:
                assert n_epochs > 0, f"{name} changed, and the result was taken"
                continue
            assert (status, n_epochs, error.count("\n")) == (2, 0, 1), (name, error)
            assert snapshot(command.published) == kept, name
            if not repeats:  # or the reader of the data has its own words
                assert path.name in error or f"/{path.parent.name}/" in error, (name, error)
        path.write_bytes(before)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every result line, ranking and bundle below a folder."""
    kept = ("results.jsonl", "test_ranks.npz")
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path): path.read_bytes()
        for path in paths
        if path.name in kept or path.parent.name in ("bundle", "pretrained")
    }


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every epoch that is trained."""
    found: list[int] = []
    train_epoch = ResumableTrainer._train_epoch

    def counted(self: ResumableTrainer, data: Any, epoch: int, *more: Any, **named: Any) -> Any:
        found.append(epoch)
        return train_epoch(self, data, epoch, *more, **named)

    monkeypatch.setattr(ResumableTrainer, "_train_epoch", counted)
    return found


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Run a command and break it off after the first epoch, whose state is kept."""

    def run(arguments: list[str]) -> None:
        keep = ResumableTrainer._save_last_state

        def once(self: ResumableTrainer, epoch: int) -> None:
            keep(self, epoch)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(ResumableTrainer, "_save_last_state", once)
            assert main(arguments) == 130

    return run


def flags(settings: dict[str, Any]) -> list[str]:
    """As a command line has them; JSON is YAML."""
    return [f"--{key}={json.dumps(value)}" for key, value in settings.items()]


def inputs_below(tiny: Tiny) -> dict[str, Path]:
    """Of a run under `rich_data`."""
    files = {name: tiny.folder / name for name in OWN}
    files |= {name: tiny.folder / name.rpartition("/")[2] for name in VECTORS}
    return files | {f"pre_model_path/{n}": tiny.root / "source" / n for n in PRETRAINED}


def own_files(folder: Path, *patterns: str) -> dict[str, Path]:
    """What a command left in a folder and reads again."""
    return {path.name: path for pattern in patterns for path in folder.glob(pattern)}


@pytest.mark.slow
@pytest.mark.parametrize("done", ["finished", "broken off"])
def test_run_and_its_resume(
    tiny: Tiny,
    rich_data: dict[str, Any],
    epochs: list[int],
    killed: Callable[[list[str]], None],
    capsys: pytest.CaptureFixture[str],
    done: str,
) -> None:
    arguments = ["run", "--model=QBERT4Rec", "--dataset=toy", "--data_path=.", "--epochs=2"]
    arguments += flags(rich_data)
    if done == "finished":
        assert main(arguments) == 0
    else:
        killed(arguments)
    resumed = [*arguments, "--resume=True"]
    error = lambda: capsys.readouterr().err  # noqa: E731
    folders = list(Path("saved/toy").iterdir())
    if done == "finished":  # with the one from scratch beside it, whose files are not read again
        folders = [Path(run.folder) for run in read_results("saved/results.jsonl")][:1]
    (folder,) = folders
    files = inputs_below(tiny) | {"last": folder / "QBERT4Rec.last.safetensors"}
    if done == "finished":
        files |= {"best": folder / "QBERT4Rec.safetensors"}
    never_reused(Command(resumed, files, epochs, error, Path("saved")))
    status, n_epochs, _ = Command(resumed, {}, epochs, error, Path("saved")).run()
    assert (status, n_epochs) == (0, 0 if done == "finished" else 3)


@pytest.mark.slow
def test_the_run_from_scratch_beside(
    tiny: Tiny, rich_data: dict[str, Any], epochs: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is taken where it is there already, and made again where a file that it read changed."""
    settings = {**rich_data, "epochs": 1}
    arguments = ["run", "--model=QBERT4Rec", "--dataset=toy", "--data_path=.", *flags(settings)]
    assert main(arguments) == 0
    for name, path in inputs_below(tiny).items():
        if path.parent.name == "source" or path.suffix in (".semid", ".npz"):
            continue  # the first are not read by it, the others have sidecars that say so
        before = path.read_bytes()
        change = before.replace(b"i3\t", b"i4\t", 1) if name == "toy.inter" else before + b"\n"
        path.write_bytes(change)
        epochs.clear()
        assert main(arguments) == 0, name
        assert len(epochs) == 2, name  # both of them
        path.write_bytes(before)
    epochs.clear()
    assert main(arguments) == 0
    assert len(epochs) == 2  # the data are again those of the run before the last
    epochs.clear()
    assert main(arguments) == 0
    assert len(epochs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("done", ["finished", "broken off"])
def test_benchmark(
    tiny: Tiny,
    rich_data: dict[str, Any],
    epochs: list[int],
    killed: Callable[[list[str]], None],
    capsys: pytest.CaptureFixture[str],
    done: str,
) -> None:
    path = write_plan(tiny, models=["QBERT4Rec"], settings={**rich_data, "epochs": 2})
    arguments = ["benchmark", str(path)]
    if done == "finished":
        assert main(arguments) == 0
        files = {f"{path.parent.name}/ranks": path for path in Path("saved/toy").glob("*/*.npz")}
        files |= {"results.jsonl": Path("saved/results.jsonl")}
        assert len(files) == 3
    else:
        killed(arguments)
        files = own_files(Path("saved"), "toy/*/*.last.safetensors")
    error = lambda: capsys.readouterr().err  # noqa: E731
    command = Command(arguments, inputs_below(tiny) | files, epochs, error, Path("saved"))
    never_reused(command)
    assert command.run()[:2] == (0, 0 if done == "finished" else 3)


@pytest.mark.slow
@pytest.mark.parametrize("done", ["finished", "broken off"])
def test_pretrain(
    tiny: Tiny,
    toys: Toys,
    epochs: list[int],
    killed: Callable[[list[str]], None],
    capsys: pytest.CaptureFixture[str],
    done: str,
) -> None:
    settings = {**SMALL, "valid_users": 10, "epochs": 2, "data_path": "."}
    arguments = ["pretrain", "--datasets=A,B", *flags(settings)]
    if done == "finished":
        assert main(arguments) == 0
        own = own_files(Path("saved"), "pretrain/A+B/*/pretrained/*")
        assert len(own) == 5
    else:
        killed(arguments)
        own = own_files(Path("saved"), "pretrain/A+B/*/*.last.safetensors")
    files = {f"{n}.{s}": tiny.root / n / f"{n}.{s}" for n in "AB" for s in ("inter", "semid")}
    files |= {f"{n}.semid.json": tiny.root / n / f"{n}.semid.json" for n in "AB"}
    error = lambda: capsys.readouterr().err  # noqa: E731
    command = Command([*arguments, "--resume=True"], files | own, epochs, error, Path("saved"))
    never_reused(command)
    assert command.run()[:2] == (0, 0 if done == "finished" else 1)


@pytest.mark.slow
def test_pretraining_of_a_benchmark_row(tiny: Tiny, toys: Toys, epochs: list[int]) -> None:
    """Repeated it trains nothing; if a file changed, it stops, or what read it is made again."""
    mix = {"random": 1.0, "span": 0.0, "tail": 0.0, "multi_region": 0.0, "next_item": 0.0}
    rows = [
        {"name": "none", "model": "QBERT4Rec"},
        {"name": "MLM", "model": "QBERT4Rec", "pretrain": {"mask_mix": mix, "epochs": 2}},
    ]
    path = write_plan(
        tiny,
        models=rows,
        reference="none",
        sources=["A", "B"],
        settings={**SMALL, "epochs": 1},
        pretrain={**SIZES, "MAX_ITEM_LIST_LENGTH": 8},
    )

    def trained(*flags: str) -> list[int]:
        epochs.clear()
        assert main(["benchmark", str(path), *flags]) == 0
        return list(epochs)

    assert trained() == [0, 1, 0, 0]
    assert trained() == []
    # A source or its semantic IDs: the pretraining, and the run that starts from it.
    tiny.write_inter([*tiny_rows(tiny, "A")[:-1]], "A")
    epochs.clear()
    assert main(["benchmark", str(path)]) == 2
    assert epochs == []
    assert trained("--retrain=True") == [0, 1, 0]
    write_ids(tiny.root, "B", "another")
    assert trained("--retrain=True") == [0, 1, 0]
    # The data set: both runs, no pretraining.
    tiny.write_inter(tiny.rows[:-1])
    assert trained("--retrain=True") == [0, 0]
    assert trained() == []


def tiny_rows(tiny: Tiny, name: str) -> list[tuple[str, str, float]]:
    """The rows of a data set's `.inter` file."""
    lines = (tiny.root / name / f"{name}.inter").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return [(user, item, float(time)) for user, item, time in rows]


@pytest.mark.slow
@pytest.mark.parametrize("done", ["finished", "broken off"])
def test_tune(
    tiny: Tiny,
    rich_data: dict[str, Any],
    epochs: list[int],
    killed: Callable[[list[str]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    done: str,
) -> None:
    """One trial draws the item vectors for itself."""
    without_ray(monkeypatch)
    other = tiny.root / "other.npz"
    shutil.copy(tiny.folder / "toy.text.npz", other)
    shutil.copy(tiny.folder / "toy.text.npz.json", f"{other}.json")
    settings = {key: value for key, value in rich_data.items() if key not in ("show_progress",)}
    choices = [settings.pop("item_vectors"), {"text": str(other)}]
    plan = {**SWEEP, "settings": settings, "max_epochs": 2, "trials": 1, "scheduler": "none"}
    plan["space"] = {"item_vectors": {"grid": choices}}
    path = tiny.root / "sweep.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    arguments = ["tune", str(path)]
    if done == "finished":
        assert main(arguments) == 0
    else:
        killed(arguments)
    files = inputs_below(tiny) | {"other": other, "other's sidecar": Path(f"{other}.json")}
    error = lambda: capsys.readouterr().err  # noqa: E731
    command = Command([*arguments, "--resume"], files, epochs, error, Path("saved"))
    never_reused(command)
    assert command.run()[:2] == (0, 0 if done == "finished" else 3)


@pytest.mark.slow
def test_s3rec_and_its_first_stage(
    tiny: Tiny,
    epochs: list[int],
    killed: Callable[[list[str]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file of the first stage is read again when the second one goes on."""
    arguments = ["run", "--model=S3Rec", "--dataset=toy", "--data_path=.", "--pretrain_epochs=1"]
    arguments += [*flags(SMALL), "--item_attribute=semantic_id", "--epochs=2"]
    assert main(arguments) == 0
    first = Path("saved").glob("toy/*/pretrain/*.safetensors")
    files = {f"first stage, {path.name}": path for path in first}
    assert len(files) == 2
    error = lambda: capsys.readouterr().err  # noqa: E731
    never_reused(Command([*arguments, "--resume=True"], files, epochs, error, Path("saved")))
