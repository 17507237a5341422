"""What each part is worth: the paper's Tables 3 to 5 and the masks, on any data set.

An ablation is a list of variants. A variant may have semantic IDs of its own, made beside the data
set's without touching them, a pretrained model of its own, and settings of its own; all else is
alike. Every run is a run like any other, with its folder and its line in `results.jsonl`, and one
that is there already is trained again only if a file that it read has changed; so is a pretrained
model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from recbole.config import Config
from rich.console import Console
from rich.table import Table

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import atomic_write
from recbole_qbert.config.build import build_config
from recbole_qbert.data.domain import DatasetPaths, find_domain
from recbole_qbert.data.embeddings import FUSED
from recbole_qbert.evaluation.ranking import UNSEEN
from recbole_qbert.evaluation.results import RunResult, mean_and_deviation
from recbole_qbert.experiments.parallel import Job, run_parallel
from recbole_qbert.experiments.run import check_run
from recbole_qbert.models.layers.masking import SCHEMES
from recbole_qbert.pretraining.fit import pretrain
from recbole_qbert.tokenizer.pipeline import tokenize
from recbole_qbert.tokenizer.settings import tokenize_settings
from recbole_qbert.training.run_identity import changed_inputs

MODEL, CONTROL = "QBERT4Rec", "IDBERT4Rec"
MASKS = ("span", "tail", "multi_region")  # the paper's
METRICS = ("hit@10", "ndcg@10")
# Settings of the runs that pretraining takes over.
SHARED = ("data_path", "checkpoint_dir", "show_progress", "use_gpu", "gpu_id")
Settings = dict[str, Any]


class Paper(NamedTuple):
    """A row of the paper: test, all items ranked, one run."""

    hit_10: float
    ndcg_10: float


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        name: as printed.
        model: QBERT4Rec or the control.
        settings: of the run.
        ids: settings of `tokenize`, where it has IDs of its own.
        pretraining: settings of `pretrain`, where it starts from a pretrained model.
        paper: the paper's row of each data set.
    """

    name: str
    model: str = MODEL
    settings: Settings = field(default_factory=dict)
    ids: Settings | None = None
    pretraining: Settings | None = None
    paper: Mapping[str, Paper] = field(default_factory=dict)


def only(*schemes: str) -> Settings:
    """The setting under which these masking schemes alone are drawn, all alike."""
    return {"mask_mix": {scheme: float(scheme in schemes) for scheme in SCHEMES}}


def _papers(*rows: tuple[float, float]) -> dict[str, Paper]:
    names = ("Instruments", "Arts", "Games")
    return {name: Paper(*row) for name, row in zip(names, rows, strict=True)}


# Q-BERT4Rec: Quantized Semantic-ID Representation Learning for Multimodal Recommendation, Tables
# 3 to 5.
FULL = _papers((0.1418, 0.1077), (0.1419, 0.1039), (0.1061, 0.0575))
IMAGE = _papers((0.1367, 0.1055), (0.1399, 0.1020), (0.1048, 0.0566))
TEXT = _papers((0.1398, 0.1063), (0.1378, 0.1007), (0.1040, 0.0563))
ID_ONLY = _papers((0.1363, 0.1034), (0.1367, 0.0982), (0.1011, 0.0539))
SCRATCH = _papers((0.1360, 0.1035), (0.1361, 0.0988), (0.1037, 0.0543))
MLM = _papers((0.1384, 0.1055), (0.1405, 0.1019), (0.1041, 0.0566))
FIXED = _papers((0.1387, 0.1067), (0.1362, 0.1003), (0.1043, 0.0572))


def modality() -> list[Variant]:
    """Table 3: what the semantic IDs are made from."""
    return [
        Variant("image", ids={"streams": ["image"]}, paper=IMAGE),
        Variant("text", ids={"streams": ["text"]}, paper=TEXT),
        Variant("ID only", model=CONTROL, paper=ID_ONLY),
        Variant("all", ids={}, paper=FULL),
    ]


def pretraining() -> list[Variant]:
    """Table 4: none, with plain masks, with the paper's three."""
    return [
        Variant("none", paper=SCRATCH),
        Variant("MLM", pretraining=only("random"), paper=MLM),
        Variant("multi-mask", pretraining=only(*MASKS), paper=FULL),
    ]


def fusion() -> list[Variant]:
    """Table 5: each item goes through all blocks of stage 1, or stops by its own gate."""
    return [
        Variant(f"{gate} depth", ids={"streams": [FUSED], "injection.gate": gate}, paper=paper)
        for gate, paper in (("fixed", FIXED), ("dynamic", FULL))
    ]


def masks() -> list[Variant]:
    """Each masking scheme alone, the paper's three, and what the last position adds to them."""
    return [
        *(Variant(scheme, settings=only(scheme)) for scheme in SCHEMES),
        Variant("span, tail, multi_region", settings=only(*MASKS)),
        Variant("random and next_item", settings=only("random", "next_item")),
        Variant("span, tail, multi_region, next_item", settings=only(*MASKS, "next_item")),
        Variant("as configured"),
    ]


ABLATIONS: dict[str, Callable[[], list[Variant]]] = {
    "modality": modality,
    "pretraining": pretraining,
    "fusion": fusion,
    "masks": masks,
}


@dataclass(frozen=True)
class AblationRequest:
    """What the user asked for.

    Attributes:
        name: one of `ABLATIONS`.
        dataset: data set.
        seeds: of the runs of each variant.
        sources: data sets to pretrain on.
        files: the user's YAML files, of the runs.
        settings: `key=value` of the runs.
        ids: `key=value` of `tokenize`.
        pretraining: `key=value` of `pretrain`.
        max_concurrent: how many runs go at a time.
    """

    name: str
    dataset: str
    seeds: Sequence[int]
    sources: Sequence[str]
    files: Sequence[str]
    settings: Settings
    ids: Settings
    pretraining: Settings
    max_concurrent: int = 1


def ablate(request: AblationRequest, console: Console) -> Path:
    """Run an ablation and print and write its table.

    Returns:
        The Markdown file.

    Raises:
        InputError: a setting or file that cannot be used; all of them are looked at first.
    """
    variants = ABLATIONS[request.name]()
    if any(variant.pretraining is not None for variant in variants) and not request.sources:
        raise InputError("--sources=A,B is needed: the data sets to pretrain on")
    configs = []
    for variant in variants:
        configs.append(_config(request, variant, {}))
        check_run(configs[-1])
        if variant.ids is not None:
            _id_settings(request, variant)
    base, data_path = Path(configs[0]["checkpoint_dir"]), Path(configs[0]["data_path"]).parent
    jobs = []
    for variant in variants:
        extra = _prepared(request, variant, data_path, base, console)
        for seed in request.seeds:
            config = _config(request, variant, {**extra, "seed": seed})
            label = f"{variant.name}, seed {seed}"
            if changed := changed_inputs(config):
                line = f"{label}: made again, {', '.join(changed)} changed"
                console.print(line, markup=False, highlight=False)
            config["resume"] = not changed  # where there is a state to go on from
            jobs.append(Job(label, config, request.files))
    answers = run_parallel(jobs, request.max_concurrent, console)
    runs = [answer for answer in answers if isinstance(answer, RunResult)]
    if len(runs) < len(answers):
        raise InputError(next(str(answer) for answer in answers if isinstance(answer, InputError)))
    n = len(request.seeds)
    rows = [(variant, runs[n * k : n * (k + 1)]) for k, variant in enumerate(variants)]
    head, lines = _cells(request.dataset, rows)
    console.print(_table(request, head, lines))
    path = base / f"ablate-{request.name}-{request.dataset}.md"
    with atomic_write(path) as handle:
        marks = ["---"] * len(head)
        handle.writelines("| " + " | ".join(line) + " |\n" for line in [head, marks, *lines])
    console.print(f"written: {path}", soft_wrap=True, highlight=False)
    return path


def _config(request: AblationRequest, variant: Variant, extra: Settings) -> Config:
    """A variant's settings win over the user's: they are what is compared."""
    given = {**request.settings, **variant.settings, **extra}
    return build_config(variant.model, request.dataset, request.files, given)


def _id_settings(request: AblationRequest, variant: Variant) -> Settings:
    """Of `tokenize`, for this variant."""
    return tokenize_settings((), {**request.ids, **(variant.ids or {})})


def _prepared(
    request: AblationRequest, variant: Variant, data_path: Path, base: Path, console: Console
) -> Settings:
    """Make what the variant's runs need; the settings that name it."""
    if variant.ids is not None:
        domain = find_domain(request.dataset, data_path)
        folder = base / "ablation" / request.dataset / variant.name.replace(" ", "-")
        console.print(f"{variant.name}: semantic IDs in {folder}", soft_wrap=True, highlight=False)
        ids = make_ids(domain, folder, _id_settings(request, variant))
        return {"semantic_id_file": str(ids)}
    if variant.pretraining is not None:
        shared = {key: value for key, value in request.settings.items() if key in SHARED}
        given = {**shared, **request.pretraining, **variant.pretraining}
        source = pretrain(request.sources, (), given, request.dataset, console, retrain=True)
        return {"pre_model_path": str(source)}
    return {}


def make_ids(domain: DatasetPaths, folder: Path, settings: Settings) -> Path:
    """Tokenize a data set in a folder of its own; the data set's own IDs stay.

    Returns:
        The `.semid` file.
    """
    work = DatasetPaths(domain.name, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in domain.folder.glob(f"{domain.name}.*"):
        if path.name.endswith((".inter", ".item", ".npz", ".npz.json")):
            link = folder / path.name
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
    tokenize([work], folder / "tokenizer", settings)
    return work.file("semid")


def _cells(
    dataset: str, rows: Sequence[tuple[Variant, Sequence[RunResult]]]
) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table: mean and sample deviation over the seeds."""
    metric = rows[0][1][0].valid_metric
    head = ["variant", "seeds", f"valid {metric}"]
    head += ["HR@10", "NDCG@10", "HR@10, seen excluded", "NDCG@10, seen excluded"]
    with_paper = any(dataset in variant.paper for variant, _ in rows)
    head += ["paper's HR@10", "paper's NDCG@10"] * with_paper
    lines = []
    for variant, runs in rows:
        values = [[run.valid[metric] for run in runs]]
        values += [[run.test[p + name] for run in runs] for p in ("", UNSEEN) for name in METRICS]
        line = [variant.name, str(len(runs)), *map(mean_and_deviation, values)]
        if with_paper:
            printed = variant.paper.get(dataset, ())
            line += [f"{value:.4f}".lstrip("0") for value in printed] or ["", ""]
        lines.append(line)
    return head, lines


def _table(request: AblationRequest, head: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    table = Table(title=f"{request.dataset}: {request.name}, test unless it says valid")
    for name in head:
        table.add_column(name, justify="left" if name == head[0] else "right")
    for line in lines:
        table.add_row(*line)
    return table
