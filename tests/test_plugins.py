"""Models of another distribution, registered through the entry-point group."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import Tiny
from processes import COMMAND, LIBRARIES
from toy_plan import SETTINGS, lines_of, write_plan
from tune_toy import write_sweep

PLUGIN = """
from pathlib import Path

from pydantic import Field
from recbole.model.sequential_recommender import SASRec

from recbole_qbert.quick_start import register
from recbole_qbert.tokenizer.quantizers.opq import OPQ, fit_opq
from recbole_qbert.tokenizer.quantizers.registry import METHODS, Method
from recbole_qbert.tokenizer.stages import QuantizerSettings


class PluginSASRec(SASRec):
    pass


class Settings(QuantizerSettings):
    clip: float = Field(0.25, description="share of the values")


register(PluginSASRec, defaults=Path(__file__).with_suffix(".yaml"))
METHODS["bins"] = Method(Settings, fit_opq, OPQ)
"""
DEFAULTS = """
own_key: 3  # (int) a key of the plug-in's model
hidden_dropout_prob: 0.5
attn_dropout_prob: 0.5
hidden_act: gelu
layer_norm_eps: 1e-12
initializer_range: 0.02
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A folder on the path with an installed distribution and a broken one."""
    folder = tmp_path / "site"
    for name, code in (("toy_plugin", PLUGIN), ("broken_plugin", "import no_such_module\n")):
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}.py").write_text(code)
        (folder / f"{name}.yaml").write_text(DEFAULTS)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[recbole_qbert.plugins]\n{name} = {name}\n")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run(
    code: str, environment: dict[str, str], *words: str, program: str = "-c"
) -> subprocess.CompletedProcess[str]:
    """Code in a process that imports RecBole, this package and the plug-ins."""
    paths = environment["PYTHONPATH"].split(os.pathsep)
    start = f"import sys; sys.path[1:1] = {paths!r}\n"
    done = LIBRARIES.run(start + code, *words, env=environment, program=program)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def outputs(environment: dict[str, str], *words: str) -> tuple[str, str]:
    done = run(COMMAND, environment, *words, program="recbole-qbert")
    return done.stdout, done.stderr


def command(environment: dict[str, str], *words: str) -> str:
    return outputs(environment, *words)[1]


@pytest.mark.slow
def test_worker_processes_of_a_benchmark(tiny: Tiny, environment: dict[str, str]) -> None:
    models = ["PluginSASRec", "SASRec"]
    path = write_plan(tiny, models=models, reference="SASRec", settings={**SETTINGS, "epochs": 1})
    errors = command(environment, "benchmark", str(path), "--max_concurrent=2")
    assert sorted(run["model"] for run in lines_of("saved")) == models
    assert "plug-in broken_plugin (broken_plugin): cannot be loaded: ModuleNotFound" in errors


@pytest.mark.slow
def test_worker_processes_of_run_and_tune(tiny: Tiny, environment: dict[str, str]) -> None:
    pytest.importorskip("ray")
    flags = [f"--{key}={value}" for key, value in (SETTINGS | {"epochs": 1}).items()]
    command(environment, "run", "--model=PluginSASRec", "--dataset=toy", "--nproc=2",
            "--data_path=.", *flags)  # fmt: skip
    file = write_sweep(tiny, model="PluginSASRec", trials=1, max_epochs=1)
    command(environment, "tune", str(file))
    assert [run["model"] for run in lines_of("saved")] == ["PluginSASRec"] * 2


def test_a_bundle_is_loaded(tiny: Tiny, environment: dict[str, str]) -> None:
    flags = [f"--{key}={value}" for key, value in (SETTINGS | {"epochs": 1}).items()]
    command(environment, "run", "--model=PluginSASRec", "--dataset=toy", "--data_path=.", *flags)
    (made,) = lines_of("saved")
    code = (
        "from recbole_qbert.quick_start import Recommender\n"
        f"print(Recommender.load({made['bundle']!r}).recommend([['i1', 'i2']], k=3))"
    )
    assert run(code, environment).stdout.startswith("[[('i")


def test_help_knows_plugins(environment: dict[str, str]) -> None:
    printed, _ = outputs(environment, "tokenize", "--help")
    assert re.search(r"--quantizer=\w+ [^-]*quantizers: rqvae,\s+rqkmeans,\s+opq,\s+bins", printed)
    assert re.search(r"quantizer bins:[^:]*--bins.clip=0.25 +share of the values", printed)
    printed, _ = outputs(environment, "run", "--help", "--model=PluginSASRec")
    assert re.search(r"models:[\w\s,]* PluginSASRec,", printed)
    assert re.search(r"Keys of PluginSASRec [^:]*:\n +--own_key=3", printed)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("run --model=Plugin", "--model=PluginSASRec"),
        ("run --model=PluginSASRec --own", "--own_key="),
        ("tokenize --quantizer=b", "--quantizer=bins"),
        ("tokenize --bi", "--bins.clip="),
    ],
)
def test_completion_knows_plugins(environment: dict[str, str], line: str, found: str) -> None:
    assert outputs(environment, "--complete", *line.split())[0].split() == [found]


def test_completion_does_not_load_plugins_in_vain(environment: dict[str, str]) -> None:
    """Loading takes seconds; a plug-in that cannot be loaded says that it was tried."""
    for line in ("run --hidden_s", "ru", "tokenize --n_lev", "run --model=SASRec --topk"):
        printed, errors = outputs(environment, "--complete", *line.split())
        assert printed.split() and errors == ""
    printed, errors = outputs(environment, "embed", "text", "--help")
    assert "--encoder" in printed and errors == ""
