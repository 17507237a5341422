"""A pipeline's YAML: what it means, what is refused, and that every shipped one builds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from toy_pipeline import planned, quiet, write_pipeline

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import shipped
from recbole_qbert.experiments.pipeline.known import commands
from recbole_qbert.experiments.pipeline.plan import KEYS, read_pipeline
from recbole_qbert.experiments.pipeline.runner import dry_run

SHIPPED = sorted(shipped("pipeline").glob("*.yaml"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pipeline(text: str, **flags: str) -> tuple[str, ...]:
    """The command lines of a pipeline."""
    Path("p.yaml").write_text(text)
    return tuple(" ".join(step.line) for step in read_pipeline("p.yaml", flags).steps)


def test_variables_are_filled_in() -> None:
    text = """
variables: {folder: data, domains: [A, B], names: {X: long_x}, wanted: no}
steps:
- name: text
  each: ${domains}
  command: embed text
  settings: {dataset: "${each}", data_path: "${folder}", fields: [t, b], merge: True}
- {name: left, when: "${wanted}", command: sample}
- {name: one, each: "${names}", script: "x/${value}.py", settings: {d: "${domains}", q: False},
   outputs: ["${each}.txt"], arguments: [1, "${output.text-B}"]}
"""
    assert pipeline(text) == (
        "embed text --dataset=A --data_path=data --fields=t,b --merge",
        "embed text --dataset=B --data_path=data --fields=t,b --merge",
        "x/long_x.py 1 data/B/B.text.npz --d=A,B",
    )
    lines = pipeline(text, domains="[B]", folder="d", wanted="True", names="{Y: y}")[0:2]
    assert lines == ("embed text --dataset=B --data_path=d --fields=t,b --merge", "sample")


def test_a_modality_names_its_table() -> None:
    text = """
steps:
- {name: tags, command: embed text, settings: {dataset: A, fields: c, modality: kinds}}
- {name: one, script: x.py, outputs: [x], arguments: ["${output.tags}"]}
"""
    assert pipeline(text)[1] == "x.py dataset/A/A.kinds.npz"


def test_values_reach_open_ended_commands_as_yaml() -> None:
    text = """
steps:
- name: ids
  command: tokenize
  settings: {dataset: [A, B], streams: [identity], rqkmeans.restarts: 2, rqvae: {epochs: 3}}
"""
    assert pipeline(text) == (
        'tokenize --dataset=A,B --streams=["identity"] --rqkmeans.restarts=2 --rqvae={"epochs": 3}',
    )
    (step,) = read_pipeline("p.yaml", {}).steps
    assert step.files.outputs == tuple(
        f"dataset/{name}/{name}.semid{end}" for name in "AB" for end in ("", ".json")
    )
    assert set(step.files.optional) == {
        f"dataset/{name}/{name}.{suffix}" for name in "AB" for suffix in ("item", "inter")
    }
    assert '"epochs": 3' in step.files.settings and '"restarts": 2' in step.files.settings


FAULTS = {
    "no step": ("steps: []", "steps: a list of steps is needed"),
    "top key": ("stpes: []", "unknown key 'stpes'; did you mean 'steps'?"),
    "step key": (
        "steps: [{name: a, comand: sample}]",
        "step 'a': unknown key 'comand'; did you mean 'command'?",
    ),
    "no name": ("steps: [{command: sample}]", "step 1: `name: ...`"),
    "command": (
        "steps: [{name: a, command: tokenise}]",
        "step 'a': no command 'tokenise'; did you mean 'tokenize'?",
    ),
    "half a command": ("steps: [{name: a, command: embed}]", "no command 'embed'"),
    "both": ("steps: [{name: a, command: sample, script: x}]", "give `command: ...`"),
    "flag": (
        "steps: [{name: a, command: embed text, settings: {dataset: A, fieldz: t, fields: t}}]",
        "step 'a': 'embed text' has no --fieldz; did you mean '--fields'?",
    ),
    "flag left out": (
        "steps: [{name: a, command: embed text, settings: {dataset: A}}]",
        "step 'a': the following arguments are required: --fields",
    ),
    "encoder": (
        "steps: [{name: a, command: embed image, settings: {dataset: A, encoder: VitB}}]",
        "step 'a': OpenCLIP has no model 'VitB'; did you mean 'ViT-B-",
    ),
    "tokenize key": (
        "steps: [{name: a, command: tokenize, settings: {dataset: A, quantizer: opq}}]",
        "step 'a': command line: unknown key 'quantizer'; did you mean 'quantiser'?",
    ),
    "run key": (
        "steps: [{name: a, command: run, settings: {model: SASRec, dataset: A, epoch: 1}}]",
        "unknown key 'epoch' for SASRec; did you mean 'epochs'?",
    ),
    "no file": ("steps: [{name: a, command: benchmark}]", "arguments: [FILE.yaml] is needed"),
    "benchmark row": (
        f"steps: [{{name: a, command: benchmark, arguments: ['{shipped('benchmark', 'demo.yaml')}']"
        ", settings: {models.SASREC.epochs: 1}}]",
        "no row 'SASREC'; did you mean 'SASRec'?",
    ),
    "reference": (
        "variables: {folder: x}\nsteps: [{name: a, command: sample, settings: "
        "{data_path: '${foldr}'}}]",
        "'${foldr}' is not known; did you mean 'folder'?",
    ),
    "output of none": (
        "steps: [{name: a, command: merge, settings: {datasets: '${output.b}', into: C}}]",
        "'${output.b}' is not known",
    ),
    "no output": ("steps: [{name: a, script: x.py}]", "outputs: name what it writes"),
    "two names": (
        "steps: [{name: a, command: sample}, {name: a, command: sample}]",
        "two steps are named 'a'",
    ),
    "two writers": (
        "steps: [{name: a, command: sample}, {name: b, command: sample}]",
        "steps 'a' and 'b' both write dataset/ml-100k/ml-100k.inter",
    ),
    "each": ("steps: [{name: a, each: 3, command: sample}]", "each: 3: give a list of words"),
    "variables": ("variables: 3\nsteps: [{name: a, command: sample}]", "variables: `name: value`"),
    "a reserved variable": (
        "variables: {each: 3}\nsteps: [{name: a, command: sample}]",
        "'each' cannot be a name",
    ),
    "state": ("state: [1]\nsteps: [{name: a, command: sample}]", "state: the name of a file"),
    "none left": ("steps: [{name: a, when: False, command: sample}]", "no step is left"),
    "settings": ("steps: [{name: a, command: sample, settings: 3}]", "settings: `key: value`"),
    "a mapping": (
        "steps: [{name: a, script: x, outputs: [y], settings: {b: {c: 1}}}]",
        "settings: b: a mapping cannot be a flag",
    ),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_is_one_line(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = FAULTS[fault]
    Path("p.yaml").write_text(text + "\n")
    assert main(["pipeline", "p.yaml", "--dry_run=True"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("recbole-qbert: ") and errors.count("\n") == 1
    assert message in errors


def test_faults_of_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_pipeline(here)
    for arguments, message in (
        ([], "name its file first"),
        (["--dry_run=True"], "name its file first"),
        ([str(path), "--dry_run=yes"], "--dry_run=yes: write True or False"),
        ([str(path), "--aa=1"], "no variable 'aa'"),
        (["absent.yaml"], "absent.yaml: no such config file"),
    ):
        assert main(["pipeline", *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(InputError, match="no variable 'bee'"):
        planned(path, bee="1")


def test_every_listed_command_is_known() -> None:
    found = {" ".join(words) for words in commands()}
    assert {"embed text", "embed image", "embed vectors", "merge", "sample", "run", "tune"} <= found
    assert not {"embed", "pipeline", "doctor", "demo"} & found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_pipeline_builds(path: Path) -> None:
    content = load_yaml(path)
    assert content.keys() == set(KEYS)
    console = quiet()
    wanted = dry_run(read_pipeline(path, {}), console)
    assert f"{wanted} of {wanted} steps would run" in console.export_text()
    text = path.read_text(encoding="utf-8")
    for name in content["variables"]:
        assert f"${{{name}}}" in text, f"{name} is never used"
    for line in text.splitlines():
        assert len(line) <= 200
    for key, kind in (("variables", "dict"), ("state", "str"), ("steps", "list")):
        assert re.search(rf"^{key}:.*# \({kind}\) \S", text, re.MULTILINE)
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode) and len(node.value) == len(content)


def test_the_shipped_ones_are_those_that_are_named() -> None:
    assert [path.stem for path in SHIPPED] == ["demo", "paper", "scientific"]


def test_the_paper_has_its_nine_domains() -> None:
    steps = read_pipeline(shipped("pipeline", "paper.yaml"), {}).steps
    lines = {step.name: " ".join(step.line) for step in steps}
    assert sum(name.startswith("atomic-") for name in lines) == 9
    assert lines["atomic-Instruments"].endswith(
        "dataset_scripts/amazon.py --category=Instruments --release=2018 --folder=raw "
        "--data_path=dataset --pictures=pictures/Instruments --require=image --longest=2000 "
        "--overwrite"
    )
    (pretrain,) = [step for step in steps if step.name == "pretrain"]
    for domain in ("Pet", "Cell", "Automotive", "Tools", "Toys", "Sports"):
        assert f"dataset/{domain}/{domain}.semid" in pretrain.files.inputs
    (output,) = pretrain.files.outputs
    assert f"--models.QBERT4Rec.pre_model_path={output}" in lines["benchmark"]
    (benchmark,) = [step for step in steps if step.name == "benchmark"]
    assert output in benchmark.files.inputs
    for domain in ("Instruments", "Arts", "Games"):
        assert f"dataset/{domain}/{domain}.inter" in benchmark.files.inputs


def test_the_demo_takes_posters_or_goes_without() -> None:
    path = shipped("pipeline", "demo.yaml")
    assert read_pipeline(path, {}).left_out == ("image",)
    assert read_pipeline(path, {"posters": "p"}).left_out == ()
