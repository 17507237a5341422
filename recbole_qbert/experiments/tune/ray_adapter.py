"""Execution of trials on Ray Tune. Only this module imports ray.

Ray starts the processes of trials, assigns CPUs and GPUs, restarts processes that died, and stops
the trials that ASHA drops. It neither draws values nor stores results: it knows trials only by
number, and its own records are temporary.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ray
from ray import cloudpickle, tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from recbole_qbert._version import __version__
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.signals import own_sigterm
from recbole_qbert.compat.ray import is_old, memory_costs_a_trial
from recbole_qbert.experiments.tune.ray_leftovers import ended_with_this_process
from recbole_qbert.experiments.tune.trial import TrialJob, check_sight
from recbole_qbert.experiments.tune.trial_log import Report

api: Any = tune  # names that Ray 2.6.3 and Ray 2.45 or later have in different modules
tune_options: dict[str, Any] = {}  # trials stay in the working directory of their machine
ENVIRONMENT = {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
if is_old():
    from ray import air as api  # type: ignore[no-redef]

    tune_options = {"chdir_to_trial_dir": False}
    ENVIRONMENT = {"TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1"}

NUMBER, VALID = "trial", "valid"
OBJECT_STORE_BYTES = 100 << 20  # trials exchange few data; Ray's default is 30 % of the memory
SECONDS_TO_LOOK = 300  # a busy machine may need minutes to import torch and RecBole
# Disable Ray's tables, loggers and syncing, which are not needed here, and its handling of Ctrl-C,
# which would end the sweep as if it were complete.
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    **ENVIRONMENT,
}
DIED = "its process died"
LOW_MEMORY = "running low on memory"  # part of Ray's message
OUT_OF_MEMORY = (
    "Ray ended its process because memory ran low; lower max_concurrent or the size of the model"
)


class Listener(Protocol):
    """Receiver of the events of trials, in the driver's process; see `report.Recorder`."""

    def started(self, number: int) -> None: ...
    def reported(self, number: int, report: Report) -> None: ...
    def ended(self, number: int, stopped: bool) -> None: ...
    def failed(self, number: int, fault: str) -> None: ...


class Schedule(NamedTuple):
    """Resources and scheduling of trials."""

    n_cpus: int  # CPUs per trial
    n_gpus: float  # GPUs per trial; trials with a fraction share a GPU
    max_concurrent: int | None  # maximum number of trials at a time; None: as many as fit
    max_failures: int  # number of times that a trial is restarted after its process died
    asha: bool  # whether ASHA stops trials
    grace: int  # ASHA's first rung, in evaluations
    reduction: float  # ASHA's reduction factor
    n_evaluations: int  # ASHA's last evaluation


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to the cluster at `address`, or to a new Ray instance on this machine if None.

    Raises:
        InputError: the connection or the start failed.
    """
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"address": address}
    if address is None:
        # "local" prevents Ray from joining the cluster that RAY_ADDRESS names.
        options = {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        with own_sigterm(), _environment({"RAY_USAGE_STATS_ENABLED": "0"}):
            started = ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise InputError(f"address: {address}: {_in_a_line(error)}") from None
    with contextlib.ExitStack() as stack:
        if address is None:
            session = started.address_info["session_dir"]
            stack.enter_context(ended_with_this_process(session))
        stack.callback(ray.shutdown)
        yield


def resources(n_cpus: int, n_gpus: float | None, joined: bool) -> tuple[float, str]:
    """Determine the GPUs per trial, and a note if they are fewer than requested (otherwise "").

    Args:
        n_cpus: requested CPUs per trial.
        n_gpus: requested GPUs per trial; None: 1 if there is a GPU.
        joined: whether an existing cluster was joined; it may grow, so that requests that exceed
            its present resources are accepted.

    Raises:
        InputError: this machine has fewer CPUs than requested; Ray would wait forever.
    """
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    most = max((node["Resources"].get("CPU", 0) for node in _nodes()), default=0)
    if n_cpus > most and not joined:
        raise InputError(f"cpus_per_trial: {n_cpus} is more than the {most:g} CPUs of this machine")
    if n_gpus is None:
        return float(has_gpu), ""
    if n_gpus and not has_gpu and not joined:
        return 0.0, "no GPU found: trials run on CPUs"
    return n_gpus, ""


def check_machines(job: TrialJob) -> None:
    """Check that all machines of the cluster have this version, the sweep's folder and the data.

    Raises:
        InputError: names a machine that lacks one of them.
    """
    look: Any = ray.remote(num_cpus=0)(_fault_of_machine)
    answers = [
        look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(job)
        for node in _nodes()
    ]
    try:
        faults = ray.get(answers, timeout=SECONDS_TO_LOOK)
    except ray.exceptions.RayError as error:
        raise InputError(
            f"a machine of the cluster cannot run a trial: {_in_a_line(error)}"
        ) from None
    for fault in faults:
        if fault:
            raise InputError(fault)


def _fault_of_machine(job: TrialJob) -> str:
    from recbole_qbert._version import __version__ as installed

    if installed != __version__:
        return f"{platform.node()} has recbole-qbert {installed}, not {__version__}"
    try:
        check_sight(job)
    except InputError as error:
        return str(error)
    return ""


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


class _Numbered(NamedTuple):
    """The only attribute of a trial that ASHA reads."""

    trial_id: int


class ResumableASHA(ASHAScheduler):
    """ASHA scheduler that identifies trials by number, so that earlier reports can be replayed.

    Its time attribute is Ray's `training_iteration`, the number of reports. It equals the number of
    evaluations, because a resumed trial first sends its earlier reports again. A report that a rung
    already holds has no effect.
    """

    def __init__(self, schedule: Schedule):
        super().__init__(
            metric=VALID,
            mode="max",
            time_attr="training_iteration",
            grace_period=schedule.grace,
            reduction_factor=schedule.reduction,
            max_t=schedule.n_evaluations,
        )
        self.stopped: set[int] = set()  # trials stopped before their last evaluation

    def replay(self, history: Iterable[tuple[int, Report]]) -> None:
        """Feed the reports of an earlier driver, in order of arrival."""
        for number, report in history:
            self.add(number)
            self.decide(number, report["evaluation"], report[VALID])

    def add(self, number: int) -> None:
        """Register a trial, unless it is registered already."""
        if number not in self._trial_info:
            super().on_trial_add(None, _Numbered(number))

    def decide(self, number: int, evaluation: int, valid: float) -> str:
        """Decide whether a trial continues after an evaluation; returns Ray's constant."""
        result = {"training_iteration": evaluation, VALID: valid}
        action: str = super().on_trial_result(None, _Numbered(number), result)
        if action == TrialScheduler.STOP and evaluation < self._max_t:
            self.stopped.add(number)
        return action

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        self.add(trial.config[NUMBER])

    def on_trial_result(self, controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        if VALID not in result:  # the trial ended before its first evaluation
            return str(TrialScheduler.CONTINUE)
        return self.decide(trial.config[NUMBER], result["evaluation"], result[VALID])

    def on_trial_complete(self, controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """Do nothing: the rungs already hold the trial's reports."""

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        """Do nothing: the trial's reports remain in the rungs."""


class _Callback(tune.Callback):
    """Forwards Ray's events to the listener, with the numbers of trials."""

    def __init__(self, listener: Listener, scheduler: TrialScheduler):
        self._listener, self._scheduler = listener, scheduler
        self._failed: list[Any] = []

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Pickle as a plain callback: Ray pickles its settings, which must exclude the listener."""
        return tune.Callback, ()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._listener.started(trial.config[NUMBER])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "reported" in result:
            report = {key: result[key] for key in result["reported"]}
            self._listener.reported(trial.config[NUMBER], report)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config[NUMBER]
        self._listener.ended(number, number in getattr(self._scheduler, "stopped", ()))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._failed.append(trial)  # Ray calls this before it stores the error

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.on_experiment_end(trials)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        while self._failed:
            trial = self._failed.pop(0)
            self._listener.failed(trial.config[NUMBER], fault_of(trial))


def fault_of(trial: Any) -> str:
    """Error message of a Ray trial. Ray stores exceptions, but not the death of a process."""
    try:
        last = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2]
        if LOW_MEMORY in last:
            return OUT_OF_MEMORY
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError):
        return DIED
    if not last.rstrip().endswith(str(error).rstrip()):  # the error is of an earlier failure
        return DIED
    return _in_a_line(getattr(error, "cause", None) or error)


def _in_a_line(error: BaseException) -> str:
    """Format an exception as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return f"{kind}{text}"[:300]


def run_trials(
    train: Callable[[int, Callable[[Report], None]], None],
    numbers: Sequence[int],
    schedule: Schedule,
    history: Iterable[tuple[int, Report]],
    scratch: Path,
    listener: Listener,
) -> None:
    """Run trials until all have ended.

    Args:
        train: called as `train(number, report)` in a separate process for each trial.
        numbers: trial numbers in order; trials that ASHA stops by `history` end immediately.
        schedule: resources and scheduler.
        history: reports of an earlier driver, in order of arrival.
        scratch: folder for Ray's own records, shared by all machines; it is emptied first.
        listener: receives the events of trials.
    """
    scheduler: TrialScheduler = FIFOScheduler()
    if schedule.asha:
        scheduler = ResumableASHA(schedule)
        scheduler.replay(history)
        for number in [each for each in numbers if each in scheduler.stopped]:
            listener.ended(number, True)
        numbers = [each for each in numbers if each not in scheduler.stopped]
    if numbers:
        _fit(train, list(numbers), schedule, scheduler, scratch, listener)


def _fit(
    train: Callable[[int, Callable[[Report], None]], None],
    numbers: list[int],
    schedule: Schedule,
    scheduler: TrialScheduler,
    scratch: Path,
    listener: Listener,
) -> None:
    report_to_ray = _report_function()

    def trainable(config: dict[str, Any]) -> None:
        def report(content: Report) -> None:
            report_to_ray({**content, "reported": list(content)})

        train(config[NUMBER], report)

    shutil.rmtree(scratch, ignore_errors=True)
    # The listener reports errors of trials in one line; Ray's log would add the tracebacks.
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    with _environment(QUIET), memory_costs_a_trial():
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": schedule.n_cpus, "gpu": schedule.n_gpus}),
            param_space={NUMBER: tune.grid_search(numbers)},
            tune_config=tune.TuneConfig(
                scheduler=scheduler,
                max_concurrent_trials=schedule.max_concurrent,
                reuse_actors=False,  # a new process per trial, without state of earlier trials
                **tune_options,
            ),
            run_config=api.RunConfig(
                name=scratch.name,
                storage_path=str(scratch.parent),
                verbose=0,
                callbacks=[_Callback(listener, scheduler)],
                failure_config=api.FailureConfig(max_failures=schedule.max_failures),
            ),
        )
        try:
            tuner.fit()
        finally:
            logger.setLevel(level)


def _report_function() -> Callable[[Report], None]:
    """Ray's function for reports of a trial. The trial imports it in its own process."""
    if not is_old():
        return tune.report
    from ray.air import session

    return session.report


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables during the block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
