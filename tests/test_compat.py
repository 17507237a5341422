"""Each workaround against the upstream fact it answers."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import pickle
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas.io.formats.format as pandas_format
import pytest
import torch
from conftest import OWN_MODELS, Tiny
from processes import LIBRARIES, PACKAGE
from recbole.config import Config
from recbole.utils import argument_list
from scipy.sparse import dok_matrix

from recbole_qbert import compat
from recbole_qbert.compat import ray, recbole
from recbole_qbert.registry import recbole_models

VISIBLE = "CUDA_VISIBLE_DEVICES"
LENT = ("float_", "complex_", "unicode_")


@pytest.fixture(autouse=True)
def applied(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VISIBLE, "0")  # Config writes it; this puts it back after the test
    with warnings.catch_warnings():
        compat.apply()
        yield


def build(**settings: Any) -> Config:
    with recbole.isolated_argv():
        return Config("BPR", "ml-100k", config_dict=settings)


def test_applying_twice_changes_nothing() -> None:
    before = (Config._init_device, Config._init_parameters_category, list(warnings.filters))
    compat.apply()
    after = (Config._init_device, Config._init_parameters_category, list(warnings.filters))
    assert set(after[2]) == set(before[2])
    assert len(after[2]) == len(before[2])
    assert after[:2] == before[:2]


def test_every_workaround_states_its_fact() -> None:
    assert all(workaround.__doc__ for workaround in compat.WORKAROUNDS)


def test_neither_ray_nor_quick_start_is_imported() -> None:
    script = (
        "import sys\nfrom recbole_qbert import compat\ncompat.apply()\n"
        "sys.exit(any(m == 'ray' or m.startswith('recbole.quick_start') for m in sys.modules))"
    )
    assert LIBRARIES.run(script).returncode == 0


def test_imports_where_unix_modules_are_missing(tmp_path: Path) -> None:
    """As on Windows: no `fcntl`, no `resource`; files are written without a lock."""
    script = (
        "import psutil, sys\n"  # has a part of its own for each system
        "sys.modules.update(fcntl=None, resource=None)\n"
        "import recbole_qbert, recbole_qbert.cli, recbole_qbert.experiments.parallel\n"
        "import recbole_qbert.experiments.tune.sweep\n"
        "from recbole_qbert.common.files import append_line, exclusive\n"
        "with exclusive('lock'):\n"
        "    append_line('lines', {'a': 1})\n"
    )
    done = LIBRARIES.run(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "lines").read_text())["a"] == 1


def test_numpy_lends_the_names_that_a_config_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under NumPy 2, whatever is installed here."""
    for name in LENT:
        monkeypatch.delattr(np, name, raising=False)
    read: list[Any] = []

    def compatibility_settings(self: Any) -> None:
        read.extend(getattr(np, name) for name in LENT)

    monkeypatch.setattr(Config, "compatibility_settings", compatibility_settings)
    recbole.lend_numpy_names()
    build()
    assert read == [np.float64, np.complex128, np.str_]
    assert not any(hasattr(np, name) for name in LENT)


def test_a_numpy_that_has_the_names_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def native(self: Any) -> None:
        raise NotImplementedError

    for name in LENT:
        monkeypatch.setattr(np, name, object(), raising=False)
    monkeypatch.setattr(Config, "compatibility_settings", native)
    recbole.lend_numpy_names()
    assert Config.compatibility_settings is native


RECEIVED = """
import pickle, sys
import recbole_qbert
from recbole_qbert.experiments.splits import load_splits
with open(sys.argv.pop(), "rb") as file:
    dataset = load_splits(pickle.load(file)).dataset
print(dataset.item_feat["size"].sum().item())
"""


def test_a_process_that_receives_a_config_reads_numbers_in_sequence(tiny: Tiny) -> None:
    """As in a parallel benchmark. The first item has no row, so that RecBole fills it."""
    items = sorted({item for sequence in tiny.sequences.values() for item in sequence})
    lines = [f"{item}\t1 2.5" for item in items[1:]]
    path = tiny.folder / "toy.item"
    path.write_text("\n".join(["item_id:token\tsize:float_seq", *lines, ""]), encoding="utf-8")
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "size"]}
    config = tiny.make_config("SASRec", load_col=columns)
    Path("config.pickle").write_bytes(pickle.dumps(config))
    done = PACKAGE.run(RECEIVED, "config.pickle")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == 3.5 * len(lines)


# Nor with Ray, whose worker takes `doctor` many seconds to start.
WITHOUT_RECBOLE = """
import importlib.metadata, sys
version = importlib.metadata.version
def version_of_others(name):
    if name == "ray":
        raise importlib.metadata.PackageNotFoundError
    return version(name)
importlib.metadata.version = version_of_others
sys.modules["recbole"] = None
sys.argv = ["recbole-qbert", *sys.argv[1:]]
import recbole_qbert
"""


def test_without_recbole_the_import_names_the_remedy() -> None:
    done = LIBRARIES.run("import sys; sys.modules['recbole'] = None; import recbole_qbert")
    line = done.stderr.splitlines()[-1]
    assert line == f"ImportError: RecBole is not installed; run: {recbole.INSTALL}"


@pytest.mark.parametrize(("words", "status"), [(["run", "--model=SASRec"], 2), (["doctor"], 1)])
def test_without_recbole_a_command_names_the_remedy(words: list[str], status: int) -> None:
    done = LIBRARIES.run(WITHOUT_RECBOLE, *words, env={**os.environ, "COLUMNS": "300"})
    assert done.returncode == status, done.stderr
    if words == ["doctor"]:
        assert f"not installed │ {recbole.INSTALL}" in " ".join(done.stdout.split())
    else:
        assert done.stderr == f"recbole-qbert: RecBole is not installed; run: {recbole.INSTALL}\n"


def test_dok_update_sets_the_cells_recbole_asks_for() -> None:
    # LightGCN's graph for user 0 with items 0 and 1, user 1 with item 1: both directions.
    rows, columns = np.array([0, 0, 1]), np.array([0, 1, 1])
    cells = dict(zip(zip(rows, columns + 2, strict=True), [1] * 3, strict=True))
    cells.update(dict(zip(zip(columns + 2, rows, strict=True), [1] * 3, strict=True)))
    matrix = dok_matrix((4, 4), dtype=np.float32)
    matrix._update(cells)
    expected = [[0, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 0], [1, 1, 0, 0]]
    assert matrix.toarray().tolist() == expected
    assert matrix.dtype == np.float32
    assert (matrix > 0).sum(axis=1).ravel().tolist() == [[2, 1, 1, 2]]


def test_dok_update_of_an_older_scipy_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def native(self: Any, data: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(dok_matrix, "_update", native)
    recbole.restore_dok_update()
    assert dok_matrix._update is native


KNOWN = (
    ("`torch.cuda.amp.GradScaler(args...)` is deprecated.", FutureWarning, "recbole.trainer.x"),
    ("`torch.cuda.amp.autocast(args...)` is deprecated.", FutureWarning, "recbole.trainer.x"),
    (
        "A value is trying to be set on a copy of a DataFrame or Series through chained "
        "assignment using an inplace method.\nThe behavior will change",
        FutureWarning,
        "recbole.data.dataset.dataset",
    ),
    ("pkg_resources is deprecated as an API. See", UserWarning, "ray._private.parameter"),
    ("`np.bool8` is a deprecated alias for `np.bool_`.", DeprecationWarning, "ray.tune.logger"),
)


@pytest.mark.parametrize(("message", "category", "module"), KNOWN)
@pytest.mark.parametrize("from_upstream", [True, False])
def test_only_upstream_warnings_are_silenced(
    message: str,
    category: type[Warning],
    module: str,
    from_upstream: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monkeypatch.setattr(ray, "is_old", lambda: True)
        recbole.silence_known_warnings()
        ray.silence_known_warnings()
        source = module if from_upstream else "my_model"
        warnings.warn_explicit(message, category, "file.py", 1, module=source)
    assert len(caught) == (0 if from_upstream else 1)


@pytest.mark.parametrize(
    ("version", "old"), [("2.6.3", True), ("2.45.0", False), ("2.60.0", False), (None, False)]
)
def test_what_ray_is_the_old_one(
    version: str | None, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    assert ray.is_old() is old


def test_nothing_is_done_for_a_current_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_old", lambda: False)
    monkeypatch.delattr(pandas_format, "ExtensionArrayFormatter", raising=False)
    filters, modules = list(warnings.filters), set(sys.modules)
    ray.silence_known_warnings()
    ray.lend_packaging()
    ray.restore_pandas_formatter()
    assert (warnings.filters, set(sys.modules)) == (filters, modules)
    assert not hasattr(pandas_format, "ExtensionArrayFormatter")


def test_recbole_reports_to_a_current_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole calls `tune.report(**metrics)`; Ray takes one mapping since 2.45."""
    reported: list[Any] = []
    module = SimpleNamespace(tune=SimpleNamespace(report=reported.append))
    monkeypatch.setitem(sys.modules, "recbole.quick_start.quick_start", module)
    monkeypatch.setattr(ray, "is_old", lambda: True)
    ray.let_recbole_report()
    assert module.tune.report == reported.append
    monkeypatch.setattr(ray, "is_old", lambda: False)
    for _ in range(2):
        ray.let_recbole_report()
    module.tune.report(**{"ndcg@10": 0.5, "hit@10": 1.0})
    assert reported == [{"ndcg@10": 0.5, "hit@10": 1.0}]


def test_argv_is_isolated_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    leaking = ["program", "--learning_rate=0.5", "--cov=src"]
    monkeypatch.setattr(sys, "argv", leaking)
    assert build()["learning_rate"] == 0.001
    with recbole.isolated_argv(["--learning_rate=0.25"]):
        assert Config("BPR", "ml-100k")["learning_rate"] == 0.25
    with pytest.raises(KeyError), recbole.isolated_argv():
        raise KeyError
    assert sys.argv is leaking


def test_argv_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    assert build()["model"] == "BPR"


def test_one_config_does_not_change_the_lists_of_the_next() -> None:
    before = list(argument_list.dataset_arguments)
    first = build().parameters["Dataset"]
    assert set(first) > set(before)  # RecBole adds the keys of its ml-100k.yaml
    assert argument_list.dataset_arguments == before
    first.append("a_key_of_the_first")
    assert "a_key_of_the_first" not in build().parameters["Dataset"]


def test_a_data_path_counts_for_ml_100k_too() -> None:
    """Without one, it is the sample inside RecBole, as upstream."""
    assert build(data_path="mine")["data_path"] == os.path.join("mine", "ml-100k")
    assert Path(build()["data_path"]).resolve().parts[-3:] == (
        "recbole",
        "dataset_example",
        "ml-100k",
    )


@pytest.mark.parametrize("visible", [None, "3"])
def test_use_gpu_false_means_cpu_for_this_config_only(
    visible: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if visible is None:
        monkeypatch.delenv(VISIBLE)
    else:
        monkeypatch.setenv(VISIBLE, visible)
    assert build(use_gpu=False, gpu_id="1")["device"] == torch.device("cpu")
    assert os.environ.get(VISIBLE) == visible
    assert build()["device"] == torch.device("cuda")


@pytest.mark.parametrize(
    ("visible", "settings", "expected"),
    [
        (None, {}, "0"),  # RecBole's default
        ("3", {}, "3"),  # what Ray or SLURM assigned
        ("3", {"gpu_id": 1}, "1"),  # what the user asked for
        ("GPU-5a", {}, "GPU-5a"),
        (None, {"gpu_id": "0,1"}, "0,1"),
    ],
)
def test_assigned_gpu_is_kept_unless_the_user_chose(
    visible: str | None,
    settings: dict[str, Any],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if visible is None:
        monkeypatch.delenv(VISIBLE)
    else:
        monkeypatch.setenv(VISIBLE, visible)
    config = build(**settings)
    assert (config["gpu_id"], os.environ[VISIBLE]) == (expected, expected)
    assert config["device"] == torch.device("cuda")


@pytest.mark.parametrize(
    ("visible", "settings", "expected"),
    [(None, {}, "0,1,2"), ("4,5,6", {}, "4,5,6"), (None, {"gpu_id": "1,3,5"}, "1,3,5")],
)
def test_processes_of_torchrun_see_a_gpu_each(
    visible: str | None,
    settings: dict[str, Any],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    test_assigned_gpu_is_kept_unless_the_user_chose(visible, settings, expected, monkeypatch)


def test_an_assignment_of_no_gpu_means_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv(VISIBLE, "")  # what Ray gives a trial that asked for no GPU
    assert build()["device"] == torch.device("cpu")


@pytest.mark.parametrize(
    ("program", "read"),
    [
        ("/x/bin/pytest", False),
        ("/x/pytest/__main__.py", False),
        ("/x/ray/_private/workers/default_worker.py", False),
        ("/x/train.py", True),
    ],
)
def test_flags_of_other_programs_are_no_settings(
    monkeypatch: pytest.MonkeyPatch, program: str, read: bool
) -> None:
    """`--worker=...` of a Ray worker stays out; a script's own `--epochs=3` counts."""
    compat.apply()
    monkeypatch.setattr(sys, "argv", [program, "--epochs=3", "--worker=1"])
    config = Config(model="SASRec", dataset="ml-100k", config_dict={"train_neg_sample_args": None})
    assert (config["epochs"] == 3) is read
    assert (config["worker"] == 1) is read


SNAPSHOT = """
import builtins, inspect, json, logging, os, random, signal, sys, warnings
warnings.simplefilter("default")
import numpy, pandas, torch, scipy.sparse
import recbole.config, recbole.data, recbole.trainer, recbole.utils, recbole.quick_start
import recbole.model.sequential_recommender, recbole.model.general_recommender
import recbole.model.context_aware_recommender, recbole.data.dataset

def owners():
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] in ("torch", "recbole", "numpy", "builtins"):
            yield name, module
            for cls in list(vars(module).values()):
                if inspect.isclass(cls) and cls.__module__.startswith("recbole."):
                    yield f"{cls.__module__}.{cls.__qualname__}", cls

def attributes():
    found = owners()
    return {f"{name}.{key}": value for name, owner in found for key, value in vars(owner).items()}

def state():
    root = logging.getLogger()
    return {
        "anomaly": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "random": (random.getstate(), str(numpy.random.get_state()), str(torch.get_rng_state())),
        "argv": list(sys.argv), "environment": dict(os.environ), "folder": os.getcwd(),
        "logging": (root.level, list(root.handlers), logging.root.manager.disable),
        "signals": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
        "torch": (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()),
        "hooks": (sys.excepthook, sys.unraisablehook, sys.displayhook),
    }

torch.autograd.set_detect_anomaly(True, check_nan=False)
filters, before, ours = list(warnings.filters), attributes(), state()
import recbole_qbert
after = attributes()
# What is added to a package when one of its modules is imported is no change of it.
changed = sorted(
    key for key in before.keys() | after.keys()
    if before.get(key) is not after.get(key)
    and not (key not in before and inspect.ismodule(after[key]))
)
known = {name.rpartition(".")[0] for name in before}
changed = [key for key in changed if key.rpartition(".")[0] in known]
same = [name for name, value in state().items() if value != ours[name]]
added = [str(each[3]) for each in warnings.filters if each not in filters]
print(json.dumps([changed, same, added]))
"""
# All that the import changes of RecBole, and of nothing else.
CONFIG = {"_convert_config_dict", "_init_device", "_init_parameters_category", "_load_cmd_line"}
CONFIG |= {
    "__setstate__",
    "_get_model_and_dataset",
    "_load_config_files",
    "_load_internal_config_dict",
    "_set_default_parameters",
}


def test_an_import_changes_no_more_than_this(tmp_path: Path) -> None:
    """A snapshot of the process before and after, where RecBole's modules are imported already."""
    done = LIBRARIES.run(SNAPSHOT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    changed, state, filters = json.loads(done.stdout.splitlines()[-1])
    mark = "_recbole_qbert_workaround"
    expected = {f"recbole.config.configurator.Config.{name}" for name in CONFIG}
    expected |= {"recbole.trainer.trainer.Trainer._save_checkpoint"}
    expected |= {"recbole.trainer.trainer.torch", f"recbole.quick_start.quick_start.{mark}"}
    expected |= {f"recbole.quick_start{end}.load_data_and_model" for end in ("", ".quick_start")}
    if not hasattr(np, LENT[0]):
        expected.add("recbole.config.configurator.Config.compatibility_settings")
    models = [*OWN_MODELS, *(model.__name__ for model in recbole_models())]
    expected |= {f"recbole.trainer.{name}Trainer" for name in models}
    expected |= {f"recbole.data.dataset.{name}Dataset" for name in models}
    expected |= {f"recbole.{name}.init_logger" for name in ("utils", "quick_start.quick_start")}
    expected |= {"recbole.data.utils.get_dataloader"}
    assert set(changed) == expected
    assert state == []
    assert all(each.startswith(("re.compile('recbole", "re.compile('ray")) for each in filters)


@pytest.mark.parametrize("on", [True, False])
def test_a_callers_anomaly_detection_is_kept(on: bool) -> None:
    """RecBole's models are imported by the import, and by a later look-up; neither changes it."""
    script = (
        f"import torch\ntorch.autograd.set_detect_anomaly({on})\nimport recbole_qbert\n"
        "from recbole.utils import get_model\n"
        "import recbole.model.sequential_recommender.sine\nget_model('SINE')\n"
        "import importlib\nimportlib.invalidate_caches()\n"
        f"assert torch.is_anomaly_enabled() is {on}\n"
    )
    done = LIBRARIES.run(script)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("n_before", range(3))
def test_each_action_after_an_import_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_before: int
) -> None:
    """So many of two actions are registered before the import, both after it, each twice."""
    name = "imported_by_a_test"
    (tmp_path / f"{name}.py").write_text("number = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, name, sys)  # its end removes the module again
    del sys.modules[name]
    finders = list(sys.meta_path)
    monkeypatch.setattr(sys, "meta_path", [*finders])
    called: list[tuple[str, int]] = []

    def first(module: Any) -> None:
        called.append(("first", module.number))

    def second(module: Any) -> None:
        called.append(("second", module.number))

    for action in [first, second][:n_before] * 2:
        recbole.after_import(name, action)
    assert called == []
    importlib.import_module(name)
    assert [each for each, _ in called] == ["first", "second"][:n_before]
    for action in [first, second] * 2:
        recbole.after_import(name, action)
    assert called == [("first", 7), ("second", 7)]
    assert sys.meta_path == finders
