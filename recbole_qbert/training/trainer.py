"""`ResumableTrainer`: RecBole's trainer with exact resume, two-column ranking and safe checkpoints.

Overrides only what differs: the optimizer gains a warm-up and decay, evaluation goes through
`evaluation.ranking`, and the state after each evaluation is kept so that a killed run goes on and
ends with the same result, bit for bit on one CPU thread.
"""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import recbole.trainer.trainer
import torch
from recbole.trainer import Trainer
from recbole.utils import get_gpu_usage
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.tensorboard import SummaryWriter

from recbole_qbert.common.errors import InputError, said_by_recbole
from recbole_qbert.common.files import write_json
from recbole_qbert.common.process_group import barrier, is_main, world
from recbole_qbert.common.progress import Progress
from recbole_qbert.data.dataset import SemanticIDDataset
from recbole_qbert.evaluation.ranking import Ranks, rank_targets, summarize
from recbole_qbert.evaluation.results import PATH_KEYS
from recbole_qbert.speedups.trimmed_forward import trimmed_loss, trimmed_scores
from recbole_qbert.training.checkpoint import load_checkpoint, save_checkpoint, trainer_state
from recbole_qbert.training.distributed import ParallelLoss, generator_states, set_generator_states
from recbole_qbert.training.inputs import check_inputs, inputs_of
from recbole_qbert.training.run_identity import START_ANEW, last_state_file, run_hash


class ResumableTrainer(Trainer):
    """Trains any RecBole sequential model.

    Files, all in `checkpoint_dir`: `<model>.safetensors` the best epoch, `<model>.last.safetensors`
    the state to resume from, `<model>.curve.json` the learning curve. Where several runs share the
    folder (`for_shared_folder`), `<model>-<hash of the settings>-<time>` stands for `<model>`, and
    `resume` goes on with the latest of these settings.
    """

    shares_folder = False

    def __init__(self, config: Any, model: Any, inputs: Mapping[str, str] | None = None):
        """Build the optimizer, and take over the state to resume from.

        Args:
            config: of the run.
            model: what is trained.
            inputs: SHA-256 of the files that the run reads; None: those of the config.

        Raises:
            InputError: settings that cannot be used, or a state of another run.
        """
        # RecBole makes the folder too, and fails where two processes do it at once.
        Path(config["checkpoint_dir"]).mkdir(parents=True, exist_ok=True)
        if not is_main():
            config["log_wandb"] = False
        folder = Path(config["checkpoint_dir"])
        with _tensorboard_below(folder):
            super().__init__(config, model)
        self._choose_precision()
        self.inputs = inputs_of(config) if inputs is None else dict(inputs)
        name = self._name_of_files()
        self.saved_model_file = str(folder / f"{name}.safetensors")
        self.last_state_file = last_state_file(folder, name)
        self.curve_file = folder / f"{name}.curve.json"
        self.curve: list[dict[str, float]] = []
        self.n_before = 0  # evaluations of the curve that were made before a resume
        self.ranks: Ranks | None = None  # of the latest evaluation
        self.list_length = 0  # best items of each row that `ranks` keeps
        self.schedule: LambdaLR | None = None
        self._train_data: Any = None
        self._without_valid = False
        self._has_stepped = False  # since this object was made
        self._started = perf_counter()
        self._resume_from: dict[str, Any] | None = None
        if config["resume"] and self.last_state_file.is_file():
            self.resume_checkpoint(str(self.last_state_file))
        self._parallel_loss: ParallelLoss | None = None
        if world()[1] > 1:
            self._parallel_loss = ParallelLoss(model, trimmed_loss(model, config), config["seed"])

    def _name_of_files(self) -> str:
        name = str(self.config["model"])
        if not self.shares_folder:
            return name
        name = f"{name}-{run_hash(self.config)}"
        if self.config["resume"]:
            folder = Path(self.config["checkpoint_dir"])
            states = folder.glob(last_state_file(Path(), f"{name}-*").name)
            if latest := max(states, key=lambda path: path.stat().st_mtime_ns, default=None):
                return latest.name.removesuffix(last_state_file(Path(), "").name)
        return f"{name}-{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"

    def _choose_precision(self) -> None:
        """`enable_amp` acts on a GPU only, in bfloat16 where the GPU has it.

        RecBole's default there is float16, whose gradients need a scaler; RecBole clips them before
        they are scaled back, so that the two keys do not go together.
        """
        self.enable_amp: bool = bool(self.enable_amp) and self.device.type == "cuda"
        if self.enable_amp and torch.cuda.is_bf16_supported():
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            self.enable_scaler = False
        elif self.enable_amp and self.enable_scaler and self.clip_grad_norm:
            raise InputError("enable_scaler clips scaled gradients; set clip_grad_norm: ~ with it")

    # Training ----------------------------------------------------------------------------------

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, dict[str, float] | None]:
        """RecBole's `fit`; the whole state is kept for `resume` after each evaluation on valid, or
        after each epoch where there is no valid data."""
        self._train_data = train_data
        self._without_valid = valid_data is None
        self.schedule = build_schedule(
            self.optimizer,
            n_steps=self.epochs * len(train_data),
            warmup_ratio=self.config["warmup_ratio"] or 0.0,
            decay=self.config["lr_decay"] or "none",
        )
        if self._resume_from is not None:
            self._restore(self._resume_from)
            # A finished run has nothing to do; RecBole would save the last epoch as the best.
            if self.cur_step > self.stopping_step or self.start_epoch >= self.epochs:
                return self.best_valid_score, self.best_valid_result

        def after_evaluation(epoch: int, score: float) -> None:
            if saved and is_main():
                self._save_last_state(epoch)
            if callback_fn is not None:
                callback_fn(epoch, score)

        return super().fit(train_data, valid_data, verbose, saved, show_progress, after_evaluation)

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: Callable[..., Any] | None = None,
        show_progress: bool = False,
    ) -> Any:
        if self._parallel_loss is not None:
            self._parallel_loss.begin_epoch(epoch_idx * len(train_data))
        loss_func = loss_func or self._parallel_loss or trimmed_loss(self.model, self.config)
        # RecBole's own bar goes to files as it is.
        batches: Any = train_data
        if show_progress:
            batches = Progress(train_data, ncols=100, desc=f"Train {epoch_idx + 1:>5}", unit="step")

        def after_step(*_: Any) -> None:
            self._has_stepped = True
            self._step_schedule()
            if show_progress and self.gpu_available:
                batches.set_postfix_str(f"GPU RAM: {get_gpu_usage(self.device)}", refresh=False)

        hook = self.optimizer.register_step_post_hook(after_step)
        try:
            return super()._train_epoch(
                batches, epoch_idx, self._explained(loss_func), show_progress=False
            )
        finally:
            hook.remove()

    def _explained(self, loss_func: Callable[..., Any]) -> Callable[..., Any]:
        """The same loss, but what a model of RecBole's own cannot do with these settings and this
        data set is one line; it shows in the first step."""

        def loss(*batch: Any) -> Any:
            if self._has_stepped:
                return loss_func(*batch)
            place = f"{self.config['model']} on {self.config['dataset']}"
            remedy = "see its keys in RecBole's documentation; it may need more items or users"
            with said_by_recbole(type(self.model), place, "cannot train it", remedy):
                return loss_func(*batch)

        return loss

    def _check_nan(self, loss: torch.Tensor) -> None:
        if not torch.isfinite(loss):
            raise InputError(
                f"{self.config['model']}: the training loss is {loss.item()}; lower learning_rate, "
                f"or set clip_grad_norm"
            )

    def _step_schedule(self) -> None:
        if self.schedule is not None:
            self.schedule.step()

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, Any]:
        score, result = super()._valid_epoch(valid_data, show_progress)
        epoch = len(self.train_loss_dict) - 1
        self.curve.append(
            {
                "epoch": epoch,
                "train_loss": self.train_loss_dict[epoch] / len(self._train_data),  # a batch
                "seconds": perf_counter() - self._started,
                **{name: float(value) for name, value in result.items()},
            }
        )
        if is_main():
            write_json(self.curve_file, {"valid_metric": self.valid_metric, "curve": self.curve})
        return score, result

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        if is_main():
            super()._save_checkpoint(epoch, verbose, **kwargs)
            if self._without_valid:
                self._save_last_state(epoch)

    # Evaluation --------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Metrics of both columns, unrounded; `self.ranks` keeps every row's rank."""
        if load_best_model:
            barrier()  # until it is written
        if not isinstance(eval_data._dataset, SemanticIDDataset):  # a third party's own
            return super().evaluate(eval_data, load_best_model, model_file, show_progress)
        if load_best_model:
            self._load_weights(model_file or self.saved_model_file)

        def wrap(batches: Iterable[Any]) -> Iterable[Any]:
            if not show_progress:
                return batches
            return Progress(
                batches,
                total=len(eval_data),
                ncols=100,
                desc="Evaluate",
                unit="step",
                leave=False,
            )

        score = trimmed_scores(self.model, self.config)
        self.ranks = rank_targets(self.model, eval_data, self.device, wrap, self.list_length, score)
        return OrderedDict(summarize(self.ranks, self.config["metrics"], self.config["topk"]))

    def _load_weights(self, path: str) -> None:
        state = load_checkpoint(path, self.device)
        check_inputs(path, state["inputs"], self.inputs, "train the model again")
        self.model.load_state_dict(state["state_dict"])
        self.model.load_other_parameter(state.get("other_parameter"))
        self.logger.info(f"Loading model structure and parameters from {path}")

    # Resume ------------------------------------------------------------------------------------

    def _save_last_state(self, epoch: int) -> None:
        state = trainer_state(self, epoch)
        state["resume"] = {
            "schedule": self.schedule.state_dict() if self.schedule is not None else None,
            **generator_states(self.device),
            "loader": self._train_data.generator.get_state(),
            "best_valid_result": dict(self.best_valid_result or {}) or None,
            "train_loss_dict": self.train_loss_dict,
            "curve": self.curve,
        }
        save_checkpoint(self.last_state_file, state)

    def resume_checkpoint(self, resume_file: str) -> None:
        """Take over weights, optimizer and all that `fit` needs to go on after `resume_file`."""
        state = load_checkpoint(resume_file, self.device)
        if "resume" not in state:
            raise InputError(
                f"{resume_file}: holds weights only; resume from the file *.last.safetensors"
            )
        # S3Rec's own first stage lies in the run's folder, wherever that is now.
        moves = ["pre_model_path"] if self.config["pretrain_epochs"] else []
        free = RESUMABLE_CHANGES.union(moves)
        changed = [
            key
            for key, value in state["config"]["keys"].items()
            if key not in free and key in self.config and self.config[key] != value
        ]
        if state["config"]["model"] != self.config["model"] or changed:
            raise InputError(
                f"{resume_file}: made with other settings "
                f"({', '.join(sorted(changed)) or 'model'}); "
                f"give the same ones, or another checkpoint_dir"
            )
        check_inputs(resume_file, state["inputs"], self.inputs, START_ANEW)
        self.start_epoch = state["epoch"] + 1
        self.cur_step = state["cur_step"]
        self.best_valid_score = state["best_valid_score"]
        self.model.load_state_dict(state["state_dict"])
        self.model.load_other_parameter(state.get("other_parameter"))
        self.optimizer.load_state_dict(state["optimizer"])
        self._resume_from = state["resume"]
        self.best_valid_result = state["resume"]["best_valid_result"]
        self.train_loss_dict = state["resume"]["train_loss_dict"]
        self.curve = state["resume"]["curve"]
        self.n_before = len(self.curve)
        self.logger.info(f"Resuming after epoch {state['epoch']} from {resume_file}")

    def _restore(self, state: dict[str, Any]) -> None:
        if self.schedule is not None and state["schedule"] is not None:
            self.schedule.load_state_dict(state["schedule"])
            # Building the schedule set the rates of step 0.
            rates = self.schedule.get_last_lr()
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        set_generator_states(state, self.device)
        self._train_data.generator.set_state(state["loader"].cpu())
        self._started = perf_counter() - (self.curve[-1]["seconds"] if self.curve else 0.0)


@contextlib.contextmanager
def _tensorboard_below(folder: Path) -> Iterator[None]:
    """RecBole's trainer begins a folder `log_tensorboard` in the current folder; in the block it
    writes below `folder`."""
    module = recbole.trainer.trainer
    before = module.get_tensorboard
    if is_main():
        module.get_tensorboard = lambda _: SummaryWriter(str(folder / "tensorboard"))
    try:
        yield
    finally:
        module.get_tensorboard = before


# Stored keys that may differ between a run and its continuation without changing its result.
RESUMABLE_CHANGES = PATH_KEYS | {"eval_batch_size"}


def for_shared_folder(trainer: type[ResumableTrainer]) -> type[ResumableTrainer]:
    """The same trainer for RecBole's own `run_recbole`, all of whose runs share one folder."""
    return type(trainer.__name__, (trainer,), {"shares_folder": True})


def build_schedule(
    optimizer: Optimizer, *, n_steps: int, warmup_ratio: float, decay: str
) -> LambdaLR:
    """Linear warm-up over `warmup_ratio` of `n_steps`, then `decay` towards zero at `n_steps`."""
    warmup = round(warmup_ratio * n_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if decay == "none":
            return 1.0
        left = max(0.0, (n_steps - step) / max(1, n_steps - warmup))
        return left if decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)

    return LambdaLR(optimizer, factor)


def n_parameters(model: torch.nn.Module) -> int:
    """All that are trained."""
    return sum(each.numel() for each in model.parameters())
