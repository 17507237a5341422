"""`ResumableTrainer`: RecBole's trainer with exact resume, two rankings and safe checkpoints.

It overrides only what differs: the optimizer has a warm-up and decay, evaluation uses
`evaluation.ranking`, and the state is saved after each evaluation. A killed run can be resumed and
ends with the same result, bit for bit on one CPU thread.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import recbole.trainer.trainer
import torch
from recbole.trainer import Trainer
from recbole.utils import get_gpu_usage
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.tensorboard import SummaryWriter

from recbole_qbert.common.errors import InputError, recbole_error_context
from recbole_qbert.common.files import write_json
from recbole_qbert.common.process import has_bfloat16
from recbole_qbert.common.process_group import barrier, is_main, world
from recbole_qbert.common.progress import Progress
from recbole_qbert.data.dataset import SemanticIDDataset
from recbole_qbert.evaluation.indexed_ranks import ranks_by_codes
from recbole_qbert.evaluation.ranking import Ranks, rank_targets, summarize
from recbole_qbert.evaluation.results import PATH_KEYS
from recbole_qbert.speedups.trimmed_forward import (
    is_s3rec_first_stage,
    trimmed_loss,
    trimmed_scores,
)
from recbole_qbert.training.checkpoint import load_checkpoint, save_checkpoint, trainer_state
from recbole_qbert.training.distributed import ParallelLoss, generator_states, set_generator_states
from recbole_qbert.training.inputs import check_inputs, inputs_of
from recbole_qbert.training.run_identity import START_ANEW, last_state_file, run_hash


class ResumableTrainer(Trainer):
    """Trainer of all RecBole sequential models.

    Files in `checkpoint_dir`: `<model>.safetensors` is the best epoch, `<model>.last.safetensors`
    the state to resume from, and `<model>.curve.json` the learning curve. If several runs share the
    folder (`for_shared_folder`), the name is `<model>-<hash of the settings>-<time>`, and `resume`
    continues the latest run with these settings.
    """

    shares_folder = False

    def __init__(self, config: Any, model: Any, inputs: Mapping[str, str] | None = None):
        """Build the optimizer, and load the state to resume from.

        `inputs` are the SHA-256 of the files that the run reads; default: those of the config.

        Raises:
            InputError: settings cannot be used, or the state belongs to another run.
        """
        folder = Path(config["checkpoint_dir"])
        folder.mkdir(parents=True, exist_ok=True)  # RecBole's own call fails in concurrent runs
        if not is_main():
            config["log_wandb"] = False
        # RecBole's own writer would create a folder `log_tensorboard` in the current folder.
        module = recbole.trainer.trainer
        original, module.get_tensorboard = module.get_tensorboard, lambda _: _board(folder)
        try:
            super().__init__(config, model)
        finally:
            module.get_tensorboard = original
        self._choose_precision()
        self.inputs = inputs_of(config) if inputs is None else dict(inputs)
        name = self._name_of_files()
        self.saved_model_file = str(folder / f"{name}.safetensors")
        self.last_state_file = last_state_file(folder, name)
        self.curve_file = folder / f"{name}.curve.json"
        self.curve: list[dict[str, float]] = []
        self.n_before = 0  # number of evaluations in the curve before a resume
        self.ranks: Ranks | None = None  # of the latest evaluation
        self.list_length = 0  # length of the lists in `ranks`
        self.schedule: LambdaLR | None = None
        self._train_data: Any = None
        self._without_valid = False
        self._has_stepped = False  # whether this object has done an optimizer step
        self._started = perf_counter()
        self._resume_from: dict[str, Any] | None = None
        if config["resume"] and self.last_state_file.is_file():
            self.resume_checkpoint(str(self.last_state_file))
        self._parallel_loss: ParallelLoss | None = None
        if world()[1] > 1:
            self._parallel_loss = ParallelLoss(
                model, trimmed_loss(model, config), config["seed"], is_s3rec_first_stage(config)
            )

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
        """Apply `enable_amp` on a GPU only, in bfloat16 if the GPU has it.

        Otherwise RecBole's float16 is used, but only with `enable_scaler`, since small gradients
        would become zero. RecBole clips gradients before unscaling them, so scaler and clipping are
        mutually exclusive.
        """
        self.enable_amp: bool = bool(self.enable_amp) and self.device.type == "cuda"
        if not self.enable_amp:
            return
        if has_bfloat16(self.device):
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            self.enable_scaler = False
        elif self.enable_scaler and self.clip_grad_norm:
            raise InputError("enable_scaler clips scaled gradients; set clip_grad_norm: ~ with it")
        else:
            self.enable_amp = bool(self.enable_scaler)

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Train as RecBole's `fit`; return the best valid score and the metrics of that evaluation.

        The state for `resume` is saved after each evaluation, or after each epoch without valid
        data.
        """
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
        if hasattr(self.model, "begin_epoch"):
            self.model.begin_epoch(epoch_idx)
        if epoch_idx + 1 == self.epochs and not self._without_valid:
            self.eval_step = 1  # the last epoch is evaluated, whatever the step
        loss_func = loss_func or self._parallel_loss or trimmed_loss(self.model, self.config)
        # RecBole's own progress bar writes control characters to files.
        batches: Any = train_data
        if show_progress:
            batches = Progress(train_data, ncols=100, desc=f"Train {epoch_idx + 1:>5}", unit="step")

        def after_step(*_: Any) -> None:
            self._has_stepped = True
            if self.schedule is not None:
                self.schedule.step()
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
        """Wrap the loss so that an error of a RecBole model in the first step becomes one line.

        Errors in the first step come from settings or data that the model cannot use.
        """

        def loss(*batch: Any) -> Any:
            if self._has_stepped:
                return loss_func(*batch)
            place = f"{self.config['model']} on {self.config['dataset']}"
            remedy = "see its keys in RecBole's documentation; it may need more items or users"
            with recbole_error_context(type(self.model), place, "cannot train it", remedy):
                return loss_func(*batch)

        return loss

    def _check_nan(self, loss: torch.Tensor) -> None:
        if not torch.isfinite(loss):
            name, value = self.config["model"], loss.item()
            remedy = "lower learning_rate, or set clip_grad_norm"
            raise InputError(f"{name}: the training loss is {value}; {remedy}")

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, Any]:
        score, result = super()._valid_epoch(valid_data, show_progress)
        epoch = len(self.train_loss_dict) - 1
        mean_loss = self.train_loss_dict[epoch] / len(self._train_data)  # per batch
        row = {"epoch": epoch, "train_loss": mean_loss, "seconds": perf_counter() - self._started}
        self.curve.append(row | {name: float(value) for name, value in result.items()})
        if is_main():
            write_json(self.curve_file, {"valid_metric": self.valid_metric, "curve": self.curve})
        return score, result

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        if is_main():
            super()._save_checkpoint(epoch, verbose, **kwargs)
            if self._without_valid:
                self._save_last_state(epoch)

    @torch.no_grad()
    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Return the metrics of both rankings, unrounded; `self.ranks` holds every row's ranks.

        Raises:
            InputError: the model has diverged, or the checkpoint is damaged or of other data.
        """
        if load_best_model:
            barrier()  # process 0 may still be writing the file
        if not isinstance(eval_data._dataset, SemanticIDDataset):  # a third party's class
            return super().evaluate(eval_data, load_best_model, model_file, show_progress)
        if load_best_model:
            self._load_weights(model_file or self.saved_model_file)
        self.model.eval()  # before an index of its items is made

        def wrap(batches: Iterable[Any]) -> Iterable[Any]:
            if not show_progress:
                return batches
            total = len(eval_data)
            return Progress(
                batches, total=total, ncols=100, desc="Evaluate", unit="step", leave=False
            )

        score = trimmed_scores(self.model, self.config)
        groups = getattr(self.model, "code_groups", None)
        self.ranks = rank_targets(
            self.model,
            eval_data,
            self.device,
            wrap,
            self.list_length,
            score,
            ranks_by_codes(self.model),
            groups,
        )
        return OrderedDict(summarize(self.ranks, self.config["metrics"], self.config["topk"]))

    def _load_weights(self, path: str) -> None:
        state = load_checkpoint(path, self.device)
        check_inputs(path, state["inputs"], self.inputs, "train the model again")
        self._set_weights(path, state)
        self.logger.info(f"Loading model structure and parameters from {path}")

    def _set_weights(self, path: str, state: Mapping[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["state_dict"])
        except RuntimeError as error:  # weights have other names or sizes
            raise InputError(
                f"{path}: was made by another version of {self.config['model']}; {START_ANEW}"
            ) from error
        self.model.load_other_parameter(state.get("other_parameter"))

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
        """Load weights, optimizer and everything that `fit` needs to continue after `resume_file`.

        An `InputError` says if the file has weights only, or was made with other settings or
        inputs.
        """
        state = load_checkpoint(resume_file, self.device)
        if "resume" not in state:
            raise InputError(f"{resume_file}: has only weights; resume from *.last.safetensors")
        free = RESUMABLE_CHANGES
        if self.config["pretrain_epochs"]:  # S3Rec's pretrained model may have moved with the run
            free = free | {"pre_model_path"}
        changed = [
            key
            for key, value in state["config"]["keys"].items()
            if key not in free and key in self.config and self.config[key] != value
        ]
        if state["config"]["model"] != self.config["model"] or changed:
            names = ", ".join(sorted(changed)) or "model"
            raise InputError(
                f"{resume_file}: was made with other settings ({names}); give the same ones, or "
                "another checkpoint_dir"
            )
        check_inputs(resume_file, state["inputs"], self.inputs, START_ANEW)
        self.start_epoch = state["epoch"] + 1
        self.cur_step = state["cur_step"]
        self.best_valid_score = state["best_valid_score"]
        self._set_weights(resume_file, state)
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
            # Building the schedule has set the learning rates of step 0.
            rates = self.schedule.get_last_lr()
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        set_generator_states(state, self.device)
        self._train_data.generator.set_state(state["loader"].cpu())
        self._started = perf_counter() - (self.curve[-1]["seconds"] if self.curve else 0.0)


def _board(folder: Path) -> Any:
    """Return the TensorBoard writer of process 0, or one that writes nothing."""
    if is_main():
        return SummaryWriter(str(folder / "tensorboard"))
    return SimpleNamespace(add_scalar=lambda *_: None, add_hparams=lambda *_: None)


# Stored keys that may differ between a run and its continuation without changing its result.
RESUMABLE_CHANGES = PATH_KEYS | {"eval_batch_size"}


def for_shared_folder(trainer: type[ResumableTrainer]) -> type[ResumableTrainer]:
    """Return a subclass for RecBole's own `run_recbole`, whose runs all share one folder."""
    return type(trainer.__name__, (trainer,), {"shares_folder": True})


def build_schedule(
    optimizer: Optimizer, *, n_steps: int, warmup_ratio: float, decay: str
) -> LambdaLR:
    """Build a schedule: linear warm-up in a share of the steps, then decay to zero at `n_steps`.

    `decay` is `none`, `linear` or `cosine`.
    """
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
    """Return the number of parameters, with those that a setting freezes."""
    return sum(each.numel() for each in model.parameters())
