"""Ablations: the paper's Tables 3 to 5 and the masking schemes, on any data set.

An ablation is a list of variants. A variant may have its own settings, its own pretrained model and
its own semantic IDs, which are written to a separate folder and leave the data set's IDs unchanged.
All other settings are equal. Each run is an ordinary run with its own folder and a line in
`results.jsonl`. Finished runs and pretrained models are reused, unless a file that they read has
changed.
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
# Settings of the runs that also apply to pretraining.
SHARED = ("data_path", "checkpoint_dir", "show_progress", "use_gpu", "gpu_id")
Settings = dict[str, Any]


class Paper(NamedTuple):
    """Test metrics of one row in the paper: all items ranked, a single run."""

    hit_10: float
    ndcg_10: float


@dataclass(frozen=True)
class Variant:
    """One row of an ablation.

    Attributes:
        name: printed name.
        model: QBERT4Rec or its control IDBERT4Rec.
        settings: settings of the runs.
        ids: settings of `tokenize` for the variant's own IDs; None: the data set's IDs.
        pretraining: settings of `pretrain` for the variant's own model; None: no such model.
        paper: data set -> the paper's row.
    """

    name: str
    model: str = MODEL
    settings: Settings = field(default_factory=dict)
    ids: Settings | None = None
    pretraining: Settings | None = None
    paper: Mapping[str, Paper] = field(default_factory=dict)


def only(*schemes: str) -> Settings:
    """Settings that draw the given masking schemes with equal weights, and no others."""
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
    """Table 3: semantic IDs from images, from texts, or from all sources; and no semantic IDs."""
    return [
        Variant("image", ids={"streams": ["image"]}, paper=IMAGE),
        Variant("text", ids={"streams": ["text"]}, paper=TEXT),
        Variant("ID only", model=CONTROL, paper=ID_ONLY),
        Variant("all", ids={}, paper=FULL),
    ]


def pretraining() -> list[Variant]:
    """Table 4: no pretraining, pretraining with plain masks, and with the paper's three schemes."""
    return [
        Variant("none", paper=SCRATCH),
        Variant("MLM", pretraining=only("random"), paper=MLM),
        Variant("multi-mask", pretraining=only(*MASKS), paper=FULL),
    ]


def fusion() -> list[Variant]:
    """Table 5: stage 1 with fixed depth (all blocks) or dynamic depth (a gate stops each item)."""
    return [
        Variant(f"{gate} depth", ids={"streams": [FUSED], "injection.gate": gate}, paper=paper)
        for gate, paper in (("fixed", FIXED), ("dynamic", FULL))
    ]


def masks() -> list[Variant]:
    """Each masking scheme alone, the paper's three together, and mixtures with `next_item`."""
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
    """Arguments of `ablate`.

    Attributes:
        name: one of `ABLATIONS`.
        dataset: name of the data set.
        seeds: seeds; each variant has one run per seed.
        sources: data sets to pretrain on.
        files: the user's YAML files for the runs.
        settings: `key=value` settings of the runs.
        ids: `key=value` settings of `tokenize`.
        pretraining: `key=value` settings of `pretrain`.
        max_concurrent: maximum number of runs at a time.
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
    """Run an ablation; print its table and write it as Markdown.

    Returns:
        Path of the Markdown file.

    Raises:
        InputError: a setting or file cannot be used (the settings of all variants are checked
            before anything is run), or a run failed.
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
            config["resume"] = not changed  # if there is a training state to resume
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
    """Config of a variant. Its settings override the user's, since the ablation compares them."""
    given = {**request.settings, **variant.settings, **extra}
    return build_config(variant.model, request.dataset, request.files, given)


def _id_settings(request: AblationRequest, variant: Variant) -> Settings:
    """Settings of `tokenize` for a variant."""
    return tokenize_settings((), {**request.ids, **(variant.ids or {})})


def _prepared(
    request: AblationRequest, variant: Variant, data_path: Path, base: Path, console: Console
) -> Settings:
    """Make a variant's semantic IDs or pretrained model; return the settings that point to them."""
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
    """Tokenize a data set in a separate folder, without changing the data set's own IDs.

    Returns:
        Path of the `.semid` file.
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
    """Header and rows of the table, with mean and sample standard deviation over the seeds."""
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
