"""What a benchmark's YAML becomes, and what is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny, files_below
from toy_plan import SETTINGS, SIZES, write_plan

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.config.build import lineage
from recbole_qbert.experiments.benchmark.benchmark import planned_runs
from recbole_qbert.experiments.benchmark.plan import (
    NOT_STATED,
    BenchmarkPlan,
    ModelRow,
    read_plan,
)
from recbole_qbert.experiments.run import run_models


def plan_of(tiny: Tiny, flags: dict[str, str] | None = None, **content: Any) -> BenchmarkPlan:
    return read_plan(write_plan(tiny, **content), flags or {})


def test_a_name_is_enough_and_controls_come_by_themselves(tiny: Tiny) -> None:
    free = {
        "name": "free",
        "model": "QBERT4Rec",
        "settings": {"exclude_visible": False},
        "budget": "9 trials",
    }
    plan = plan_of(tiny, models=["QBERT4Rec", free, "BigramChain"], controls=True)
    assert plan.model_rows == (
        ModelRow("QBERT4Rec", "QBERT4Rec", {}, NOT_STATED),
        ModelRow("free", "QBERT4Rec", {"exclude_visible": False}, "9 trials"),
        ModelRow("BigramChain", "BigramChain"),
        ModelRow("Popularity", "Popularity", {}, "none: nothing to choose"),
        ModelRow("IDBERT4Rec", "IDBERT4Rec", {}, "none: QBERT4Rec's settings"),
    )
    assert plan.reference == "QBERT4Rec"
    path = write_plan(tiny)
    path.write_text("models: [QBERT4Rec]\ndatasets: [toy]\nseeds: [1]\n")
    plan = read_plan(path, {})
    assert [each.name for each in plan.model_rows[1:]] == [
        "Popularity",
        "BigramChain",
        "IDBERT4Rec",
    ]
    assert (plan.data_path, plan.checkpoint_dir) == ("dataset", "saved")


def test_the_command_line_takes_some_rows_and_data_sets(tiny: Tiny) -> None:
    """What the file says of the others is no fault then; a name that is in neither still is."""
    wide = {"name": "wide", "model": "SASRec", "settings": {"n_layers": 9}, "budget": "3 trials"}
    file = {
        "models": ["QBERT4Rec", wide],
        "datasets": ["toy", "other"],
        "per_model": {"SASRec": {"n_layers": 1}},
        "per_dataset": {"other": {"per_model": {"SASRec": {"n_layers": 2}}}},
    }
    assert plan_of(tiny, {"models": "wide,Popularity"}, **file).reference == "wide"
    with pytest.raises(InputError, match="reference: 'QBERT4Rec' is none of wide"):
        plan_of(tiny, {"models": "wide", "reference": "QBERT4Rec"}, **file)
    plan = plan_of(tiny, {"models": "QBERT4Rec", "datasets": "toy"}, **file)
    assert [each.name for each in plan.model_rows] == ["QBERT4Rec"]
    assert plan.datasets == ["toy"]
    plan = plan_of(tiny, {"models": "wide,QBERT4Rec,BERT4Rec"}, **file)
    assert plan.model_rows[0] == ModelRow("wide", "SASRec", {"n_layers": 9}, "3 trials")
    assert plan.model_rows[2] == ModelRow("BERT4Rec", "BERT4Rec")  # no row of the file
    for section in ({"per_model": {"GRU4Rec": {}}}, {"per_dataset": {"third": {}}}):
        with pytest.raises(InputError, match="unknown key"):
            plan_of(tiny, {"models": "QBERT4Rec", "datasets": "toy"}, **file | section)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("fused, 12 levels", ["fused, 12 levels"]),
        ("fused,12 levels,BERT4Rec", ["fused, 12 levels", "BERT4Rec"]),
        ('BERT4Rec, "fused, 12 levels"', ["BERT4Rec", "fused, 12 levels"]),
        ("fixed depth, fused", ["fixed depth", "fused"]),
        ("[fixed depth, fused]", ["fixed depth", "fused"]),
        ("BERT4Rec fused", ["BERT4Rec", "fused"]),
    ],
)
def test_names_of_rows_may_hold_blanks_and_commas(
    tiny: Tiny, given: str, expected: list[str]
) -> None:
    rows = [{"name": n, "model": "SASRec"} for n in ("fused, 12 levels", "fused", "fixed depth")]
    plan = plan_of(tiny, {"models": given}, models=rows, controls=False)
    assert [row.name for row in plan.model_rows] == expected


def test_later_settings_win(tiny: Tiny) -> None:
    """settings < per_dataset < per_model < that of the data set < the entry's own < flags."""
    entry = {"name": "own", "model": "SASRec", "settings": {"learning_rate": 4.0}}
    plan = plan_of(
        tiny,
        {"seeds": "5,6", "weight_decay": "5.0", "checkpoint_dir": "elsewhere"},
        models=["QBERT4Rec", "SASRec", entry],
        settings={"learning_rate": 1.0, "stopping_step": 1, "epochs": 1, "eval_step": 1},
        per_dataset={
            "toy": {
                "learning_rate": 2.0,
                "stopping_step": 2,
                "epochs": 2,
                "per_model": {"SASRec": {"learning_rate": 3.5, "eval_batch_size": 35}},
            }
        },
        per_model={
            "SASRec": {
                "learning_rate": 3.0,
                "stopping_step": 3,
                "weight_decay": 3.0,
                "eval_batch_size": 30,
            }
        },
    )
    ours, plain, own = (plan.settings_of(each, "toy") for each in plan.model_rows)
    keys = ("eval_step", "epochs", "stopping_step", "learning_rate", "weight_decay")
    assert [ours.get(key) for key in keys] == [1, 2, 2, 2.0, 5.0]
    assert [plain[key] for key in keys] == [1, 2, 3, 3.5, 5.0]
    assert [own[key] for key in keys] == [1, 2, 3, 4.0, 5.0]
    assert (ours.get("eval_batch_size"), plain["eval_batch_size"]) == (None, 35)
    assert plan.settings_of(plan.model_rows[0], "other")["epochs"] == 1
    assert plan.settings_of(plan.model_rows[1], "other")["eval_batch_size"] == 30
    assert (plan.seeds, ours["checkpoint_dir"]) == ([5, 6], "elsewhere")


def test_mask_dictionaries_are_merged(tiny: Tiny) -> None:
    plan = plan_of(
        tiny,
        models=["QBERT4Rec"],
        settings={"mask_mix": {"span": 2.0}},
        per_model={"QBERT4Rec": {"mask_mix": {"tail": 3.0}}},
    )
    assert plan.settings_of(plan.model_rows[0], "toy")["mask_mix"] == {"span": 2.0, "tail": 3.0}


def test_controls_take_what_belongs_to_them(tiny: Tiny) -> None:
    """Sizes of its base but no codes for IDBERT4Rec; neither sizes nor epochs where one counts."""
    shape = {"item_representation": "word", "hidden_dropout_prob": 0.1}
    common = {**SETTINGS, "eval_step": 2}
    plan = plan_of(tiny, controls=True, settings=common, per_model={"QBERT4Rec": shape})
    found = {each.name: plan.settings_of(each, "toy") for each in plan.model_rows}
    assert found["QBERT4Rec"].items() >= {**SETTINGS, **shape}.items()
    assert found["IDBERT4Rec"].items() >= {**SETTINGS, "hidden_dropout_prob": 0.1}.items()
    assert "item_representation" not in found["IDBERT4Rec"]
    assert "hidden_dropout_prob" not in found["SASRec"]
    for name in ("Popularity", "BigramChain"):
        assert not found[name].keys() & {*SIZES, "epochs", "eval_step"}
        assert found[name]["train_batch_size"] == 16
    configs = {cell.model_row.name: cell.config for cell in planned_runs(plan)}
    assert configs["IDBERT4Rec"]["item_representation"] == "id"
    assert configs["QBERT4Rec"]["item_representation"] == "word"
    assert (configs["SASRec"]["epochs"], configs["Popularity"]["epochs"]) == (2, 1)


def test_lineage() -> None:
    assert lineage("IDBERT4Rec") == ["QBERT4Rec", "IDBERT4Rec"]
    assert lineage("BigramChain") == ["Popularity", "BigramChain"]
    assert lineage("SASRec") == ["SASRec"]


def test_the_order_of_the_cells(tiny: Tiny) -> None:
    """A data set's first seed of every model comes first, so that a table is soon whole."""
    cells = planned_runs(plan_of(tiny, seeds=[3, 1]))
    assert [(cell.model_row.name, cell.seed) for cell in cells] == [
        ("QBERT4Rec", 3),
        ("SASRec", 3),
        ("QBERT4Rec", 1),
        ("SASRec", 1),
    ]
    assert [cell.config["seed"] for cell in cells] == [3, 3, 1, 1]
    assert all(cell.config["resume"] for cell in cells)


def test_ids_of_a_model_that_reads_none(tiny: Tiny) -> None:
    rows = ["QBERT4Rec", {"name": "plain", "model": "SASRec", "ids": {"streams": ["identity"]}}]
    with pytest.raises(InputError, match="plain on toy: ids: the model reads no semantic IDs"):
        planned_runs(plan_of(tiny, models=rows, controls=False))


def test_a_row_with_fewer_seeds(tiny: Tiny) -> None:
    rows = ["QBERT4Rec", {"model": "SASRec", "seeds": [1]}]
    cells = planned_runs(plan_of(tiny, models=rows, seeds=[3, 1], controls=False))
    found = [(cell.model_row.name, cell.seed) for cell in cells]
    assert found == [("QBERT4Rec", 3), ("QBERT4Rec", 1), ("SASRec", 1)]


def test_a_row_whose_seeds_are_all_left_out(tiny: Tiny) -> None:
    rows = [{"name": "few", "model": "QBERT4Rec", "seeds": [7]}, "SASRec"]
    with pytest.raises(InputError, match=r"models: few: seeds: \[7\] are none of .* \[1, 2\]"):
        plan_of(tiny, models=rows, reference="few", seeds=[1, 2])
    with pytest.raises(InputError, match=r"none of the benchmark's \[2\]"):
        plan_of(tiny, {"seeds": "2"}, models=rows, reference="few", seeds=[2, 7])


def test_names_of_data_sets_may_be_numbers(tiny: Tiny) -> None:
    (tiny.root / "2018").mkdir()
    tiny.write_inter(tiny.rows, "2018")
    plan = plan_of(tiny, {"datasets": "2018"}, models=["SASRec"], reference="SASRec")
    assert plan.datasets == ["2018"] and len(planned_runs(plan)) == len(plan.seeds)


def test_a_pretrained_row_stands_beside_itself_from_scratch(tiny: Tiny) -> None:
    settings = {**SETTINGS, "epochs": 1, "data_path": ".", "checkpoint_dir": "first"}
    (run,) = run_models(["QBERT4Rec"], "toy", (), settings)
    entry = {"name": "pretrained", "model": "QBERT4Rec", "settings": {"pre_model_path": run.bundle}}
    cells = planned_runs(plan_of(tiny, models=[entry, "SASRec"], reference="pretrained"))
    names = [cell.model_row.name for cell in cells]
    assert names == ["pretrained", "pretrained, from scratch", "SASRec"]
    left, right = (dict(cell.config.final_config_dict) for cell in cells[:2])
    assert left.pop("pre_model_path") == run.bundle and right.pop("pre_model_path") is None
    assert left == right
    # The same from scratch, however the weights are loaded.
    encoder = {**entry, "settings": {"pre_model_path": run.bundle, "pre_model_codes": "skip"}}
    for each in (entry, encoder):
        cells = planned_runs(plan_of(tiny, models=[each, "QBERT4Rec"]))
        assert [cell.model_row.name for cell in cells] == ["pretrained", "QBERT4Rec"]


def test_a_row_from_scratch_of_the_file(tiny: Tiny) -> None:
    """It has the runs that would be added; another row must not have the added row's name."""
    settings = {**SETTINGS, "epochs": 1, "data_path": ".", "checkpoint_dir": "first"}
    (run,) = run_models(["QBERT4Rec"], "toy", (), settings)
    entry = {"name": "A", "model": "QBERT4Rec", "settings": {"pre_model_path": run.bundle}}
    own = {"name": "none", "model": "QBERT4Rec", "seeds": [1]}
    cells = planned_runs(plan_of(tiny, models=[entry, own], reference="A", seeds=[1, 2]))
    found = [(cell.seed, cell.model_row.name) for cell in cells]
    assert found == [(1, "A"), (1, "none"), (2, "A"), (2, "none")]
    other = {**own, "name": "A, from scratch", "settings": {"weight_decay": 0.5}}
    with pytest.raises(
        InputError, match="models: 'A, from scratch' is the name of the row that is"
    ):
        planned_runs(plan_of(tiny, models=[entry, other], reference="A", seeds=[1, 2]))


def test_a_rows_flag_overrides_a_flag_of_all_rows(tiny: Tiny) -> None:
    flags = {"models.SASRec.learning_rate": "0.5", "learning_rate": "0.25"}
    plan = plan_of(tiny, flags, models=["SASRec", "QBERT4Rec"])
    rates = {cell.model_row.name: cell.config["learning_rate"] for cell in planned_runs(plan)}
    assert rates == {"SASRec": 0.5, "QBERT4Rec": 0.25}


def test_published_figures_may_have_the_names_of_papers(tiny: Tiny) -> None:
    published = {"toy": {"HR@10": 0.5, "NDCG@5": 0.25}}
    (row,) = plan_of(
        tiny, models=[{"model": "QBERT4Rec", "published": published}], controls=False
    ).model_rows
    assert row.published == {"toy": {"hit@10": 0.5, "ndcg@5": 0.25}}


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "published metric": (
        {"models": [{"model": "QBERT4Rec", "published": {"toy": {"recal@10": 0.5}}}]},
        "bench.yaml: models: published: metric 'recal@10': use ndcg@10",
    ),
    "output of IDs": (
        {"models": [{"model": "QBERT4Rec", "ids": {"output": "x.semid"}}]},
        "models: QBERT4Rec: ids: output: the benchmark sets it itself",
    ),
    "part of the IDs": (
        {"models": [{"model": "QBERT4Rec", "ids": {"until": "fusion"}}]},
        "models: QBERT4Rec: ids: until: the benchmark sets it itself",
    ),
    "half a seed": ({"seeds": 0.5}, "seeds: [0.5] is not a list, each a whole number"),
    "unknown key": ({"model": []}, "bench.yaml: unknown key 'model'; did you mean 'models'?"),
    "no models": ({"models": []}, "models: empty; give a list"),
    "no data sets": ({"datasets": None}, "datasets: empty; give a list"),
    "no seeds": ({"seeds": {}}, "seeds: empty; give a list"),
    "unknown model": ({"models": ["SASRek"]}, "bench.yaml: models: model SASRek: not a model"),
    "unusable setting": (
        {"settings": {**SETTINGS, "batch_by": "users"}},
        "QBERT4Rec on toy: batch_by: 'users' is none of row, user",
    ),
    "general model": ({"models": ["BPR"]}, "not a sequential model"),
    "entry without model": ({"models": [{"name": "x"}]}, "models: {'name': 'x'}: give the name"),
    "entry of a number": ({"models": [3]}, "models: 3: give the name"),
    "key of an entry": (
        {"models": [{"model": "SASRec", "setting": {}}]},
        "models: unknown key 'setting'; did you mean 'settings'?",
    ),
    "two of one name": (
        {"models": ["SASRec", "SASRec"]},
        "models: ['SASRec', 'SASRec'] has duplicates",
    ),
    "data set twice": ({"datasets": ["toy", "toy"]}, "datasets: ['toy', 'toy'] has duplicates"),
    "data set of a number": ({"datasets": [3]}, "datasets: [3] is not a list, each text"),
    "seed twice": ({"seeds": [1, 1]}, "seeds: [1, 1] has duplicates"),
    "seed no number": ({"seeds": ["x"]}, "seeds: ['x'] is not a list, each a whole"),
    "seed no whole number": ({"seeds": [True]}, "seeds: [True] is not a list, each a whole"),
    "controls": ({"controls": "some"}, "controls: 'some' is not True or False"),
    "reference": (
        {"reference": "QBERT4rec"},
        "reference: 'QBERT4rec' is none of QBERT4Rec, SASRec; did you mean 'QBERT4Rec'?",
    ),
    "a section of a data set that is no mapping": (
        {"per_dataset": {"toy": {"per_model": {"SASRec": 3}}}},
        "bench.yaml: per_dataset: {'toy': {'per_model': {'SASRec': 3}}} is not a mapping",
    ),
    "no reference": ({"models": ["SASRec"]}, "reference: 'QBERT4Rec' is none of SASRec"),
    "settings no mapping": ({"settings": [1]}, "settings: [1] is not a mapping"),
    "ids no mapping": ({"ids": "text"}, "bench.yaml: ids: 'text' is not a mapping"),
    "pretrain no mapping": ({"pretrain": [1]}, "bench.yaml: pretrain: [1] is not a mapping"),
    "section no mapping": (
        {"per_model": {"SASRec": 3}},
        "per_model: {'SASRec': 3} is not a mapping {name: value}, each value a mapping",
    ),
    "section of nobody": (
        {"per_model": {"SASRek": {}}},
        "per_model: unknown key 'SASRek'; did you mean 'SASRec'?",
    ),
    "section of no data": (
        {"per_dataset": {"toi": {}}},
        "per_dataset: unknown key 'toi'; did you mean 'toy'?",
    ),
    "unknown setting": (
        {"settings": {"hiden_size": 8}},
        "bench.yaml: settings: unknown key 'hiden_size' for QBERT4Rec; did you mean 'hidden_size'?",
    ),
    "setting of one model": (
        {"settings": {"mask_mix": {}}},
        "bench.yaml: settings: SASRec has no key 'mask_mix', QBERT4Rec has; put it under "
        "per_model: QBERT4Rec:",
    ),
    "setting that only counters would get": (
        {"models": ["BigramChain"], "reference": "BigramChain", "settings": {"hidden_size": 8}},
        "settings: unknown key 'hidden_size' for BigramChain",
    ),
    "setting of a data set": (
        {"per_dataset": {"toy": {"hiden_size": 8}}},
        "bench.yaml: per_dataset: toy: unknown key 'hiden_size'",
    ),
    "section of a data set": (
        {"per_dataset": {"toy": {"per_model": {"SASRek": {}}}}},
        "per_dataset: toy: per_model: unknown key 'SASRek'; did you mean 'SASRec'?",
    ),
    "setting of a model on a data set": (
        {"per_dataset": {"toy": {"per_model": {"SASRec": {"mask_mix": {}}}}}},
        "bench.yaml: per_dataset: toy: per_model: SASRec: unknown key 'mask_mix' for SASRec",
    ),
    "setting of a model": (
        {"per_model": {"SASRec": {"mask_mix": {}}}},
        "bench.yaml: per_model: SASRec: unknown key 'mask_mix' for SASRec",
    ),
    "setting of an entry": (
        {"models": ["QBERT4Rec", {"name": "s", "model": "SASRec", "settings": {"mask_mix": {}}}]},
        "bench.yaml: models: s: settings: unknown key 'mask_mix' for SASRec",
    ),
    "setting of the benchmark": (
        {"settings": {"seed": 3}},
        "settings: 'seed' cannot be set here: set by seeds",
    ),
    "value": ({"settings": {"epochs": "many"}}, "epochs: 'many' is not a whole number"),
    "protocol": (
        {"settings": {**SETTINGS, "eval_step": 0}},
        "eval_step: 0 is not a whole number",
    ),
    "columns": (
        {"per_model": {"SASRec": {"topk": [5, 10]}}},
        "topk: SASRec on toy, seed 1 has [5, 10], QBERT4Rec on toy, seed 1 has [1, 5, 10]",
    ),
    "missing folder": ({"datasets": ["toy", "gone"]}, "gone: no such folder; data_path must name"),
    "missing vectors": (
        {"settings": {**SETTINGS, "item_vectors": {"text": "no.npz"}}},
        "no.npz: no such file; QBERT4Rec reads it",
    ),
    "missing IDs": (
        {"settings": {**SETTINGS, "semantic_id_file": "no.semid"}},
        "no.semid: no such file; QBERT4Rec reads it; run `recbole-qbert tokenize --dataset=toy`",
    ),
}


@pytest.mark.parametrize("fault", list(ERRORS))
def test_a_fault_is_one_line_before_anything_is_trained(
    tiny: Tiny, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    content, message = ERRORS[fault]
    path = write_plan(tiny, **content)
    before = files_below(tiny.root)
    capfd.readouterr()
    assert main(["benchmark", str(path)]) == 2
    errors = capfd.readouterr().err
    assert message in errors
    assert errors.startswith("recbole-qbert: ") and errors.count("\n") == 1
    assert files_below(tiny.root) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "benchmark: FILE is missing; write recbole-qbert benchmark FILE.yaml"),
        (["--seeds=1"], "benchmark: FILE is missing; write recbole-qbert benchmark FILE.yaml"),
        (["gone.yaml"], "gone.yaml: no such config file"),
        (["bench.yaml", "--epoch=1"], "command line: unknown key 'epoch'"),
        (["bench.yaml", "--nproc=2"], "command line: 'nproc' cannot be set here"),
        (["bench.yaml", "--seeds=1,x"], "seeds: [1, 'x'] is not a list, each a whole"),
        (["bench.yaml", "--output=bench.yaml"], "bench.yaml: is a file; give another folder"),
        (["bench.yaml", "epochs"], "'epochs' is no --key=value"),
    ],
)
def test_the_command_line(
    tiny: Tiny, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(tiny)
    assert main(["benchmark", *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert not Path("saved").exists()


def test_data_without_their_files(tiny: Tiny) -> None:
    plan = plan_of(tiny)
    (tiny.folder / "toy.semid").unlink()
    with pytest.raises(InputError, match="toy.semid: no such file; QBERT4Rec reads it; run `rec"):
        planned_runs(plan)
    (tiny.folder / "toy.inter").unlink()
    with pytest.raises(
        InputError, match="toy.inter: no such file; QBERT4Rec reads it; check data_path"
    ):
        planned_runs(plan)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--help"]) == 0
    assert "FILE.yaml" in capsys.readouterr().out


def test_a_flag_reaches_one_row(tiny: Tiny) -> None:
    models = [{"name": "a b.c", "model": "SASRec", "settings": {"epochs": 3}}, "QBERT4Rec"]
    plan = plan_of(tiny, {"models.a b.c.epochs": "4", "eval_step": "2"}, models=models)
    epochs = [plan.settings_of(each, "toy")["epochs"] for each in plan.model_rows]
    assert epochs == [4, SETTINGS["epochs"]]
    with pytest.raises(InputError, match="unknown key 'epoch' for SASRec"):
        plan_of(tiny, {"models.a b.c.epoch": "4"}, models=models)
    with pytest.raises(InputError, match="no row 'QBERT4Re'; did you mean 'QBERT4Rec'"):
        plan_of(tiny, {"models.QBERT4Re.epochs": "4"}, models=models)
