"""`sweep`: runs the trials, selects the best one on valid, and tests it once.

The trial log determines which trials remain to be run; Ray schedules them. A sweep that was killed
at any moment can be resumed. Trials that ended are not repeated, interrupted trials
resume from their last evaluation, and ASHA receives all earlier reports in their order.
"""

from __future__ import annotations

import shutil
import uuid
from functools import partial
from pathlib import Path
from typing import Any

from recbole.config import Config
from rich.console import Console

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import exclusive, read_json, report_disk_full, write_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.output import counted
from recbole_qbert.common.process import flush_denormals, quiet_recbole, versions
from recbole_qbert.common.signals import own_sigterm
from recbole_qbert.config.build import build_config
from recbole_qbert.evaluation.printing import print_tables
from recbole_qbert.evaluation.results import STOPPED_TRIAL, RunResult, metric_title
from recbole_qbert.experiments.benchmark.outputs import print_table
from recbole_qbert.experiments.checks import check_files, check_model
from recbole_qbert.experiments.run import prepare, publish
from recbole_qbert.experiments.splits import data_counts, load_splits
from recbole_qbert.experiments.tune.report import (
    TRIALS_CSV,
    Length,
    Recorder,
    best_trial,
    trials_table,
)
from recbole_qbert.experiments.tune.settings import SweepPlan, describe, of_trial, write_yaml
from recbole_qbert.experiments.tune.space import GRID, n_grid
from recbole_qbert.experiments.tune.trial import TrialJob, run_trial
from recbole_qbert.experiments.tune.trial_log import (
    EXPERIMENT,
    FAILED,
    FAULT,
    REPORTS,
    STOPPED,
    TRIAL_YAML,
    WAITING,
    Report,
    Trial,
    TrialLog,
    trial_folder,
)
from recbole_qbert.training.inputs import check_inputs
from recbole_qbert.training.run_identity import LOCK, finished_run, run_folder

BEST_YAML = "best.yaml"
# Entries of experiment.json that must be equal to resume a sweep, besides inputs and trials.
IDENTITY = ("model", "dataset", "space", "seed", "settings", "schedule", "versions")


def sweep(plan: SweepPlan, console: Console, resume: bool = False) -> RunResult:
    """Run a sweep to its end.

    Args:
        plan: the checked sweep.
        console: console to print on.
        resume: resume the sweep in the folder. If the plan has more trials, the new ones are run
            too.

    Returns:
        Result of the best trial, including its test metrics.

    Raises:
        InputError: the data cannot be read, the folder holds another sweep, or all trials failed.
    """
    quiet_recbole()
    request = plan.request
    repeated = plan.n_drawn - len(plan.trials)
    has_grid = any(domain.kind == GRID for domain in plan.space.values())
    line = (
        f"{request.model} on {request.dataset}: {counted(plan.n_drawn, 'trial')} planned ("
        + f"{n_grid(plan.space)} in the grid x " * has_grid
        + counted(request.trials, "sample")
        + " + the baseline" * request.baseline
        + ")"
        + f", {repeated} of them duplicates, which are left out" * bool(repeated)
    )
    console.print(line, style="bold", highlight=False, soft_wrap=True)
    hashes = {name: sha256_file(path) for name, path in plan.files.items()}
    if resume and (plan.folder / EXPERIMENT).is_file():
        there = read_json(plan.folder / EXPERIMENT)
        # Files that only further trials read are not inputs of the earlier sweep, and vice versa.
        fewer, more = sorted((len(there.get("trials", ())), len(plan.trials)))
        heads = tuple(of_trial(number, "") for number in range(fewer + 1, more + 1))
        before, now = (
            {name: digest for name, digest in digests.items() if not name.startswith(heads)}
            for digests in (there.get("data_sha256", {}), hashes)
        )
        check_inputs(plan.folder, before, now, "give another --name")
    check_files(plan.configured)
    _check_buildable(plan)
    counts = data_counts(*load_splits(plan.configured))
    console.print("  " + ", ".join(f"{key} {value:,}" for key, value in counts.items()))
    # Wait briefly: the trials of a driver that was killed may need a moment to end.
    with exclusive(plan.folder / LOCK, wait_s=10.0):
        job = _open_experiment(plan, hashes, resume)
        trials = [Trial(number, values) for number, values in enumerate(plan.trials, start=1)]
        trial_log = TrialLog(plan.folder / REPORTS)
        history = trial_log.replay({trial.number: trial for trial in trials})
        metric = plan.configured["valid_metric"]
        length = Length(plan.configured["epochs"], plan.n_evaluations)
        keys = list(plan.space)
        recorder = Recorder(plan.folder, trials, keys, metric, length, console)
        _run(plan, job, recorder, history, console)
        return _conclude(plan, recorder, console)


def _check_buildable(plan: SweepPlan) -> None:
    """Raise the `InputError` of the first trial if the model of no trial can be built."""
    fault: InputError | None = None
    for number in range(1, len(plan.trials) + 1):
        try:
            with plan.trial_config(number) as config:
                check_model(config)
            return
        except InputError as error:
            fault = fault or error
    if fault is not None:
        raise fault


def _open_experiment(plan: SweepPlan, hashes: dict[str, str], resume: bool) -> TrialJob:
    """Create the sweep's folder, or check that it holds this sweep."""
    request, file = plan.request, plan.folder / EXPERIMENT
    content: dict[str, Any] = {
        "model": request.model,
        "dataset": request.dataset,
        "valid_metric": plan.configured["valid_metric"],
        "space": {key: domain.to_yaml() for key, domain in plan.space.items()},
        "seed": request.seed,
        "samples": request.trials,
        "trials": plan.trials,
        "settings": {key: plan.base[key] for key in sorted(plan.base) if key != "data_path"},
        "schedule": {
            "scheduler": request.scheduler,
            "grace": request.grace,
            "reduction": request.reduction,
            "evaluations": plan.n_evaluations,
        },
        "versions": versions(),
        "data_sha256": hashes,
    }
    if file.is_file() and (resume or (plan.folder / REPORTS).is_file()):
        there = read_json(file)
        if not resume:
            raise InputError(
                f"{plan.folder}: this sweep exists; add --resume, or give another --name"
            )
        _check_same(plan.folder, there, content)
        identity = there["identity"]
    else:
        identity = uuid.uuid4().hex
        shutil.rmtree(trial_folder(plan.folder, 1).parent, ignore_errors=True)
    for number in range(1, len(plan.trials) + 1):  # restores them when resuming
        path = trial_folder(plan.folder, number) / TRIAL_YAML
        write_yaml(path, plan.trial_settings(number))
    write_json(file, {**content, "identity": identity})  # last: it marks a complete folder
    data_path = plan.base["data_path"]
    return TrialJob(str(plan.folder), identity, data_path, request.cpus_per_trial, False)


def _check_same(folder: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    """Check that two sweeps are equal, except that the new one may have more trials."""
    other = [key for key in IDENTITY if there.get(key) != asked[key]]
    earlier, trials = there["trials"], asked["trials"]
    shared = min(len(earlier), len(trials))
    if earlier[:shared] != trials[:shared]:
        other.append("trials")
    if other:
        raise InputError(
            f"{folder}: this sweep has different {', '.join(other)}; use the same ones, or give "
            "another --name"
        )
    if len(trials) < len(earlier):
        raise InputError(
            f"{folder}: this sweep has {counted(len(earlier), 'trial')}, and {len(trials)} were "
            f"requested; give --trials={there['samples']} or more"
        )


def _run(
    plan: SweepPlan,
    job: TrialJob,
    recorder: Recorder,
    history: list[tuple[int, Report]],
    console: Console,
) -> None:
    """Run the trials that have not ended. Ray is imported only here, since it is optional."""
    open_trials = [trial for trial in recorder.trials if not trial.is_done]
    for trial in open_trials:
        trial.state, trial.fault = WAITING, ""  # failed trials are repeated
        (trial_folder(plan.folder, trial.number) / FAULT).unlink(missing_ok=True)
    if not open_trials:
        return
    try:
        with own_sigterm():
            from recbole_qbert.experiments.tune import ray_adapter
    except ImportError as error:
        raise InputError(
            f"tune: Ray cannot be imported ({error}); run recbole-qbert doctor"
        ) from None
    request = plan.request
    with ray_adapter.connected(request.address):
        asked = 0.0 if plan.base.get("use_gpu") is False else request.gpus_per_trial
        joined = request.address is not None
        n_gpus, note = ray_adapter.resources(request.cpus_per_trial, asked, joined)
        if note:
            console.print(f"  {note}")
        job = job._replace(gpu=n_gpus > 0)
        ray_adapter.check_machines(job)
        schedule = ray_adapter.Schedule(
            n_cpus=request.cpus_per_trial,
            n_gpus=n_gpus,
            max_concurrent=request.max_concurrent,
            max_failures=request.max_failures,
            asha=request.scheduler == "asha",
            grace=request.grace,
            reduction=request.reduction,
            n_evaluations=plan.n_evaluations,
        )
        numbers = [trial.number for trial in open_trials]
        ray_adapter.run_trials(
            partial(run_trial, job), numbers, schedule, history, plan.folder / "ray", recorder
        )


def _conclude(plan: SweepPlan, recorder: Recorder, console: Console) -> RunResult:
    """Select the best trial, write its settings, and test it unless it has a result."""
    trials, metric, length = recorder.trials, recorder.metric, recorder.length
    recorder.write_csv()
    print_table(trials_table(trials, recorder.keys, metric, length), console)
    for trial in trials:
        if trial.state == FAILED:
            line = f"trial {trial.number} failed: {trial.fault}"
            console.print(line, soft_wrap=True, markup=False)
    best = best_trial(trials)
    if best is None:
        raise InputError(f"all trials failed; trial 1: {trials[0].fault}")
    file = plan.folder / BEST_YAML
    settings = plan.trial_settings(best.number)
    head = (
        f"Trial {best.number} of {len(trials)}: valid {metric_title(metric)} {best.best:.6f}\n"
        f"{describe(best.values)}\n"
        f"recbole-qbert run --config_files={BEST_YAML}"
    )
    write_yaml(file, settings, head)
    config = build_config(settings["model"], settings["dataset"], [file], {"resume": True})
    folder = run_folder(config)
    if best.state == STOPPED:  # no run of these settings: `run` would train to the end
        folder = folder.with_name(f"{folder.name}{STOPPED_TRIAL}")
    result = finished_run(config, folder)
    if result is None or not _is_of(result, best):
        result = _test(config, folder, plan, best, length, console)
    print_tables([result], console)
    for path in (file, plan.folder / TRIALS_CSV):
        console.print(f"written: {path}", soft_wrap=True, highlight=False)
    return result


def _is_of(result: RunResult, best: Trial) -> bool:
    """Whether a result in the folder of the best trial is that trial's, not an earlier run's."""
    return (
        result.versions == versions()
        and result.epochs == best.reports[-1]["epoch"] + 1
        and result.valid[result.valid_metric] == best.best
    )


def _test(
    config: Config, folder: Path, plan: SweepPlan, best: Trial, length: Length, console: Console
) -> RunResult:
    """Test the best trial's weights once; `folder` and result line are as of an ordinary run."""
    base = Path(config["checkpoint_dir"])
    ended = f"{length.epochs_of(best)} epochs" + ", stopped early" * length.stopped_early(best)
    line = f"Best trial: {best.number} ({ended}): {describe(best.values)}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    flush_denormals()
    config["checkpoint_dir"] = str(folder)
    with exclusive(folder / LOCK, wait_s=0):
        _copy_states(trial_folder(plan.folder, best.number), folder)
        # With `resume` the trainer loads the trial's state; nothing is trained.
        training = prepare(config, console)
        return publish(training, base, [str(plan.folder / BEST_YAML)], console)


def _copy_states(source: Path, folder: Path) -> None:
    """Copy a trial's weights, state and learning curve, including those of a first stage."""
    for pattern in ("*.safetensors", "*.curve.json", "pretrain/*.safetensors"):
        for path in source.glob(pattern):
            target = folder / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            with report_disk_full(target):
                shutil.copyfile(path, target)
