"""What an import of the package loads and changes, and what it says without RecBole."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OWN_MODELS
from processes import LIBRARIES
from workarounds import LENT, apply_workarounds  # noqa: F401

from recbole_qbert.compat import recbole
from recbole_qbert.registry import recbole_models


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
    "_update_internal_config_dict",
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
