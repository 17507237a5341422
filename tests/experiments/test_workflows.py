"""The shipped Snakemake workflows: what they plan, and the demo from a kill to its tables."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from command_lines import check_line
from conftest import Tiny
from waiting import until

from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import shipped
from recbole_qbert.evaluation.results import read_results

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("snakemake") is None,
    reason="snakemake is not installed; pip install -e '.[workflow]'",
)
FOLDER = shipped("pipeline")
DOMAINS = load_yaml(FOLDER / "paper.yaml")["amazon"]


def command(smk: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "-s", str(smk), "-j1", *flags]


def snakemake(smk: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(smk, *flags), capture_output=True, text=True, timeout=500, env=environment()
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout + done.stderr)


def environment() -> dict[str, str]:
    """The commands are those beside this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}


def ran(smk: Path, *flags: str) -> str:
    """What it prints; it ends well."""
    done = snakemake(smk, *flags)
    assert done.returncode == 0, done.stdout
    return done.stdout


def rules_in(text: str) -> Counter[str]:
    """How often each rule runs, or would."""
    return Counter(re.findall(r"^(?:local)?rule (\w+):", text, re.MULTILINE))


def planned(smk: Path, *flags: str) -> Counter[str]:
    """How often a dry run would run each rule."""
    return rules_in(ran(smk, "-n", *flags))


def touched(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the workflows start from, in name."""
    monkeypatch.chdir(tmp_path)
    suffixes = ("inter", "clip_text.npy", "clip_image.npy", "embedding_items.txt")
    touched(*(f"dataset/Scientific/Scientific.{suffix}" for suffix in suffixes))
    touched(*(f"raw/{kind}_{name}.json.gz" for kind in ("meta", "x") for name in DOMAINS.values()))


PLANS = {
    "demo": {"atomic": 1, "text": 1, "tokenize": 1, "pretrain": 1, "benchmark": 1},
    "scientific": {"vectors": 2, "tokenize": 1, "benchmark": 1},
    "paper": {
        **dict.fromkeys(("candidates", "pictures", "atomic", "text", "image"), 9),
        **{"tokenize": 1, "pretrain": 1, "train": 3 * 8 * 3, "benchmark": 1},
    },
}


@pytest.mark.parametrize("name", PLANS)
def test_a_shipped_workflow_plans_what_the_commands_take(raw: None, name: str) -> None:
    text = ran(FOLDER / f"{name}.smk", "-n", "-p")
    assert rules_in(text) == {**PLANS[name], "all": 1}
    lines = re.findall(r"(?:^|[ :])((?:recbole-qbert|python) .*)$", text, re.MULTILINE)
    assert len(lines) == sum(PLANS[name].values())
    for line in set(lines):
        check_line(shlex.split(line))


def test_the_workflows_are_those_that_are_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.smk")} == {*PLANS, "common"}
    for name in PLANS:
        text = (FOLDER / f"{name}.smk").read_text() + (FOLDER / "common.smk").read_text()
        for key in load_yaml(FOLDER / f"{name}.yaml"):
            assert re.search(rf"""config\[["']{key}["']\]""", text), f"{name}: {key} is never used"


def test_variables(raw: None) -> None:
    demo, paper = FOLDER / "demo.smk", FOLDER / "paper.smk"
    Path("posters").mkdir()
    assert planned(demo, "--config", "posters=posters")["image"] == 1
    flags = ("download=False", "sources=[Pet]", "targets=[Arts]")
    touched("pictures/Pet/1.jpg", "pictures/Arts/1.jpg")
    plan = planned(paper, "--config", *flags)
    assert "pictures" not in plan and (plan["atomic"], plan["train"]) == (2, 24)
    done = snakemake(demo, "-n", "--config", "poster=posters")
    assert done.returncode == 1
    assert f"poster: no such variable in {FOLDER / 'demo.yaml'}" in done.stdout


@pytest.fixture
def demo(tiny: Tiny) -> Path:
    """The demo on the toy data, with tiny settings in a copy of `properties/`."""
    data = Path("dataset/ml-100k/ml-100k")
    data.parent.mkdir(parents=True)
    shutil.copy("toy/toy.inter", f"{data}.inter")
    head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    rows = [f"i{n}\tFilm of {n % 7}\t19{n + 50}\tkind{n % 3}\n" for n in range(30)]
    Path(f"{data}.item").write_text(head + "".join(rows))
    shutil.copytree(FOLDER.parent, "properties")
    Path("properties/demo_tokenize.yaml").write_text("streams: [identity, content]\n")
    Path("properties/benchmark/demo.yaml").write_text(
        "models: [QBERT4Rec]\ndatasets: [ml-100k]\nseeds: [1]\ncontrols: False\n"
        "settings: {eval_step: 1, stopping_step: 99}\n"
        "per_model: {QBERT4Rec: {hidden_size: 64, inner_size: 256}}\n"
    )
    return Path("properties/pipeline/demo.smk")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_goes_on_after_a_kill_and_runs_what_changed(demo: Path) -> None:
    tables = Path("saved/benchmark/table.md")
    epochs = ("--config", "epochs=20")
    assert planned(demo, *epochs)["atomic"] == 0  # its files are there
    process = subprocess.Popen(
        command(demo, *epochs), env=environment(), start_new_session=True, stdout=subprocess.DEVNULL
    )
    until(lambda: list(Path("saved/ml-100k").glob("*/*.last.safetensors")), 400)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (curve,) = Path("saved/ml-100k").glob("*/*.curve.json")
    before = json.loads(curve.read_text())["curve"]
    assert len(before) < 20 and not tables.exists()

    ran(demo, "--unlock", *epochs)
    rest = rules_in(ran(demo, "--rerun-incomplete", *epochs))
    assert rest == {"benchmark": 1, "all": 1}
    after = json.loads(curve.read_text())["curve"]
    assert after[: len(before)] == before and len(after) == 20
    runs = read_results("saved/results.jsonl")
    assert [run.pretrained_on for run in runs] == [["ml-100k"], []]  # and from scratch
    assert "QBERT4Rec, from scratch" in tables.read_text()
    assert planned(demo, *epochs) == {}

    assert planned(demo, "--config", "epochs=21") == {"pretrain": 1, "benchmark": 1, "all": 1}
    with open("properties/benchmark/demo.yaml", "a") as file:
        file.write("max_concurrent: 1\n")
    assert planned(demo, *epochs) == {"benchmark": 1, "all": 1}
    Path("properties/demo_tokenize.yaml").write_text("streams: [content]\n")
    rest |= {"tokenize": 1, "pretrain": 1}
    assert planned(demo, *epochs) == rest
