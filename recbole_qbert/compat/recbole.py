"""Workarounds that let RecBole 1.2.1 run with current libraries and inside other programs.

Every workaround addresses one upstream fault. Its docstring states the fault and the versions of
other packages that cause it; without versions, RecBole 1.2.1 has the fault with any of them. When
RecBole fixes a fault, delete the function and its line in `WORKAROUNDS`. Nothing here imports ray
or `recbole.quick_start`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_MARK = "_recbole_qbert_workaround"
# Script names, or names of packages with a `__main__.py`, whose flags are not RecBole settings.
FOREIGN_PROGRAMS = frozenset({"pytest", "py.test", "default_worker.py"})
_VISIBLE = "CUDA_VISIBLE_DEVICES"
INSTALL = "pip install --no-deps recbole==1.2.1"


def missing() -> str:
    """Return a message with the command that installs RecBole, or "" if it is installed."""
    found = importlib.util.find_spec("recbole")
    return "" if found else f"RecBole is not installed; run: {INSTALL}"


def require_installed() -> None:
    """Raise an `ImportError` with the remedy if RecBole is not installed (Python 3.12 and later).

    RecBole's pins cannot be met there, so pip does not install it as a dependency.
    """
    if line := missing():
        raise ImportError(line)


def lend_numpy_names() -> None:
    """Provide the names that NumPy 2 removed and `Config.compatibility_settings` reads.

    NumPy has them only while that method runs (NumPy 2 and later).
    """
    import numpy
    from recbole.config import Config

    names = {"float_": "float64", "complex_": "complex128", "unicode_": "str_"}
    lent = {old: getattr(numpy, new) for old, new in names.items() if not hasattr(numpy, old)}
    if not lent:
        return

    def compatibility_settings(original: Callable[..., Any], self: Any) -> None:
        vars(numpy).update(lent)
        try:
            original(self)
        finally:
            for name in lent:
                delattr(numpy, name)

    wrap_once(Config, "compatibility_settings", compatibility_settings)


def set_numpy_names_for_received_configs() -> None:
    """Set the names that RecBole reads, such as `np.float`, in a process that receives a `Config`.

    `Config.__init__` sets them in its own process alone. A `Config` that arrives by pickle, as in
    the processes of a parallel benchmark, left them unset, and a field of type `float_seq` stopped
    the run.
    """
    from recbole.config import Config

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.compatibility_settings()

    if "__setstate__" not in vars(Config):
        Config.__setstate__ = __setstate__


def silence_known_warnings() -> None:
    """Silence RecBole's deprecated calls of PyTorch (2.4 and later) and pandas (2.1 and later).

    The warnings appear in every run, and only upstream can act on them. Each filter names the
    message and the module that raises it, so that the same warning from elsewhere still appears.
    """
    known: tuple[tuple[str, str], ...] = (
        (r"`torch\.cuda\.amp\.(GradScaler|autocast)\(", r"recbole\.trainer\."),
        (r"A value is trying .* chained assignment", r"recbole\.data\."),
        (r"using <built-in function len> in Series\.agg", r"recbole\.data\."),
    )
    for message, module in known:
        warnings.filterwarnings("ignore", message, FutureWarning, module)


def restore_dok_update() -> None:
    """Restore `dok_matrix._update`, which LightGCN and six other models call.

    SciPy 1.13 removed it.
    """
    from scipy.sparse import dok_matrix

    if hasattr(dok_matrix, "_update"):
        return

    def _update(self: Any, data: Mapping[tuple[int, int], Any]) -> None:
        self._dict.update(data)

    dok_matrix._update = _update


def copy_argument_lists() -> None:
    """Give each `Config` its own lists of parameter names.

    `Config` appends a data set's keys to module-level lists that every later `Config` shares.
    """
    from recbole.config import Config

    def _init_parameters_category(original: Callable[..., Any], self: Any) -> None:
        original(self)
        self.parameters = {name: list(keys) for name, keys in self.parameters.items()}

    wrap_once(Config, "_init_parameters_category", _init_parameters_category)


def honor_data_path() -> None:
    """Honor `data_path` for `ml-100k`; `Config` replaces it by RecBole's bundled sample."""
    from recbole.config import Config

    def _set_default_parameters(original: Callable[..., Any], self: Any) -> None:
        original(self)
        given = self.external_config_dict.get("data_path")
        if given is not None:
            self.final_config_dict["data_path"] = os.path.join(given, self.dataset)

    wrap_once(Config, "_set_default_parameters", _set_default_parameters)


def respect_device_choice() -> None:
    """Honor `use_gpu` and an existing `CUDA_VISIBLE_DEVICES`.

    `Config._init_device` ignores `use_gpu` and overwrites `CUDA_VISIBLE_DEVICES` by `gpu_id`. With
    this workaround, `use_gpu: False` means the CPU. A `CUDA_VISIBLE_DEVICES` that Ray or SLURM has
    set is kept unless the user gave `gpu_id`; otherwise all parallel trials would use GPU 0. Where
    torchrun started several processes on this machine, as many GPUs stay visible.
    """
    from recbole.config import Config

    def _init_device(original: Callable[..., Any], self: Any) -> None:
        settings = self.final_config_dict
        visible = os.environ.get(_VISIBLE)
        cpu = not settings.get("use_gpu", True)
        if cpu:
            settings["gpu_id"] = ""  # makes RecBole use the CPU
        elif "gpu_id" not in self.external_config_dict:
            together = range(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
            if visible is not None:
                settings["gpu_id"] = visible
            elif len(together) > 1:
                settings["gpu_id"] = ",".join(map(str, together))
        try:
            original(self)
        finally:
            if cpu:  # otherwise every later Config of this process would find no GPU
                os.environ.pop(_VISIBLE, None)
                os.environ.update({} if visible is None else {_VISIBLE: visible})

    wrap_once(Config, "_init_device", _init_device)


def keep_anomaly_detection() -> None:
    """Keep autograd's anomaly detection as the caller set it; RecBole's `sine.py` turns it on.

    Importing any sequential model imports `sine.py`, so every RecBole training would check each
    gradient for NaN, which is slower (results/speed.md). If `sine.py` was imported before this
    package, the setting is left alone, because it may be the caller's.
    """
    import torch

    on, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    import recbole.model.sequential_recommender  # noqa: F401

    torch.autograd.set_detect_anomaly(on, check_nan)


def ignore_foreign_flags() -> None:
    """Ignore the command-line flags of programs such as pytest and Ray workers.

    `Config` reads every `--key=value` in `sys.argv` as a setting, whatever program runs it.
    """
    from recbole.config import Config

    def _load_cmd_line(original: Callable[..., Any], self: Any) -> dict[str, Any]:
        program = Path(sys.argv[0] if sys.argv else "")
        foreign = {program.name, program.parent.name} & FOREIGN_PROGRAMS
        with isolated_argv(() if foreign else sys.argv[1:]):
            settings: dict[str, Any] = original(self)
        return settings

    wrap_once(Config, "_load_cmd_line", _load_cmd_line)


def log_below_the_checkpoints() -> None:
    """Create RecBole's `log` folder in `checkpoint_dir`.

    `init_logger` creates it in the current folder, which may not be writable.
    """
    import recbole.utils

    def init_logger(original: Callable[..., Any], config: Any) -> None:
        folder = Path(config["checkpoint_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        before = Path.cwd()
        os.chdir(folder)
        try:
            original(config)
        finally:
            os.chdir(before)

    wrap_once(recbole.utils, "init_logger", init_logger)
    quick_start = sys.modules.get("recbole.quick_start.quick_start")  # imported the name directly
    if quick_start is not None:
        quick_start.init_logger = recbole.utils.init_logger  # type: ignore[attr-defined]


WORKAROUNDS: tuple[Callable[[], None], ...] = (
    require_installed,
    lend_numpy_names,
    set_numpy_names_for_received_configs,
    silence_known_warnings,
    restore_dok_update,
    keep_anomaly_detection,
    copy_argument_lists,
    honor_data_path,
    respect_device_choice,
    ignore_foreign_flags,
    log_below_the_checkpoints,
)


@contextlib.contextmanager
def isolated_argv(arguments: Sequence[str] = ()) -> Iterator[None]:
    """Show a RecBole `Config` built in the block only `arguments` as its command line.

    `Config` reads every `--key=value` in `sys.argv`, including those of pytest or of a Ray worker.
    """
    before = sys.argv
    sys.argv = [*(before[:1] or [""]), *arguments]
    try:
        yield
    finally:
        sys.argv = before


def after_import(name: str, action: Callable[[Any], None]) -> None:
    """Call `action(module)` when a module is imported, now if it is already; once per action."""
    module = sys.modules.get(name)
    if module is not None:
        _apply(module, action)
        return
    hooks = [each for each in sys.meta_path if isinstance(each, _AfterImport) and each.name == name]
    if not hooks:
        hooks = [_AfterImport(name)]
        sys.meta_path.insert(0, hooks[0])
    hooks[0].actions.append(action)


def _apply(module: ModuleType, action: Callable[[Any], None]) -> None:
    """Call the action, unless an equal one was called for this module before."""
    marks: frozenset[str] = getattr(module, _MARK, frozenset())
    mark = f"{action.__module__}.{action.__qualname__}"
    if mark not in marks:
        action(module)
        setattr(module, _MARK, marks | {mark})


class _AfterImport(importlib.abc.MetaPathFinder):
    """Import hook for one module; all others are left to Python's own finders."""

    def __init__(self, name: str):
        self.name = name
        self.actions: list[Callable[[Any], None]] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name == self.name else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            sys.meta_path.remove(self)
            for action in self.actions:
                _apply(module, action)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def wrap_once(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace the method `name` of `owner` by `around(method, *arguments)`, but only once."""
    original = getattr(owner, name)
    marks: frozenset[str] = getattr(original, _MARK, frozenset())
    mark = f"{around.__module__}.{around.__qualname__}"
    if mark in marks:
        return

    @functools.wraps(original)
    def wrapped(*args: Any, **named: Any) -> Any:
        return around(original, *args, **named)

    setattr(wrapped, _MARK, marks | {mark})
    setattr(owner, name, wrapped)
