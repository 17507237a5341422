"""What RecBole 1.2.1 needs before it runs with present-day libraries and inside other programs.

Every workaround answers one upstream fault, stated in its docstring with the versions of other
packages that bring it about; where none are named, RecBole 1.2.1 has it whatever is beside it. When
RecBole mends a fault, delete the function and its line in `WORKAROUNDS`. Nothing here imports ray
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
# Names of scripts, or of the packages that hold their __main__.py.
FOREIGN_PROGRAMS = frozenset({"pytest", "py.test", "default_worker.py"})
_VISIBLE = "CUDA_VISIBLE_DEVICES"
INSTALL = "pip install --no-deps recbole==1.2.1"


def missing() -> str:
    """What to do where RecBole is not installed, in a line; empty where it is."""
    if importlib.util.find_spec("recbole") is not None:
        return ""
    return f"RecBole is not installed; run: {INSTALL}"


def require_installed() -> None:
    """RecBole's own pins cannot be met, so that pip leaves it out (Python 3.12 and later).

    Raises:
        ImportError: RecBole is not installed; with the command that installs it.
    """
    if line := missing():
        raise ImportError(line)


def lend_numpy_names() -> None:
    """`Config.compatibility_settings` reads names that NumPy 2 removed (NumPy 2 and later).

    NumPy has them while that method runs, and no longer.
    """
    import numpy
    from recbole.config import Config

    names = {"float_": "float64", "complex_": "complex128", "unicode_": "str_"}
    lent = {old: getattr(numpy, new) for old, new in names.items() if not hasattr(numpy, old)}
    if not lent:
        return

    def make(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def compatibility_settings(self: Any) -> None:
            vars(numpy).update(lent)
            try:
                original(self)
            finally:
                for name in lent:
                    delattr(numpy, name)

        return compatibility_settings

    _wrap_once(Config, "compatibility_settings", make)


def silence_known_warnings() -> None:
    """RecBole uses deprecated calls of PyTorch (2.4 and later) and pandas (2.1 and later).

    They show on every run and nobody but upstream can act on them. A filter names the message and
    the module that raises it, so that the same warning from anywhere else is still seen.
    """
    known: tuple[tuple[str, str], ...] = (
        (r"`torch\.cuda\.amp\.(GradScaler|autocast)\(", r"recbole\.trainer\."),
        (r"A value is trying .* chained assignment", r"recbole\.data\."),
        (r"using <built-in function len> in Series\.agg", r"recbole\.data\."),
    )
    for message, module in known:
        warnings.filterwarnings("ignore", message, FutureWarning, module)


def restore_dok_update() -> None:
    """LightGCN and six other models call `dok_matrix._update` (removed in SciPy 1.13)."""
    from scipy.sparse import dok_matrix

    if hasattr(dok_matrix, "_update"):
        return

    def _update(self: Any, data: Mapping[tuple[int, int], Any]) -> None:
        self._dict.update(data)

    dok_matrix._update = _update


def copy_argument_lists() -> None:
    """`Config` appends a dataset's keys to module-level lists that every later Config shares."""
    from recbole.config import Config

    def make(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def _init_parameters_category(self: Any) -> None:
            original(self)
            self.parameters = {name: list(keys) for name, keys in self.parameters.items()}

        return _init_parameters_category

    _wrap_once(Config, "_init_parameters_category", make)


def honor_data_path() -> None:
    """For `ml-100k`, `Config` replaces any `data_path` by the sample that RecBole ships."""
    from recbole.config import Config

    def make(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def _set_default_parameters(self: Any) -> None:
            original(self)
            given = self.external_config_dict.get("data_path")
            if given is not None:
                self.final_config_dict["data_path"] = os.path.join(given, self.dataset)

        return _set_default_parameters

    _wrap_once(Config, "_set_default_parameters", make)


def respect_device_choice() -> None:
    """`Config._init_device` ignores `use_gpu` and overwrites `CUDA_VISIBLE_DEVICES` by `gpu_id`.

    `use_gpu: False` now means the CPU. A `CUDA_VISIBLE_DEVICES` that is already set, as by Ray or
    SLURM, is kept unless the user gave `gpu_id`; without this all parallel trials use GPU 0. Where
    torchrun started several processes on this machine, as many GPUs stay visible.
    """
    from recbole.config import Config

    def make(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def _init_device(self: Any) -> None:
            settings = self.final_config_dict
            visible = os.environ.get(_VISIBLE)
            cpu = not settings.get("use_gpu", True)
            if cpu:
                settings["gpu_id"] = ""  # RecBole's own way to ask for the CPU
            elif "gpu_id" not in self.external_config_dict:
                together = range(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
                if visible is not None:
                    settings["gpu_id"] = visible
                elif len(together) > 1:
                    settings["gpu_id"] = ",".join(map(str, together))
            try:
                original(self)
            finally:
                if cpu:  # or every later Config of this process would find no GPU
                    _restore_environment(_VISIBLE, visible)

        return _init_device

    _wrap_once(Config, "_init_device", make)


def keep_anomaly_detection() -> None:
    """RecBole's `sine.py` turns autograd's anomaly detection on for the whole process.

    Looking any sequential model up by name imports it, so every RecBole training would check each
    gradient for NaN and train more slowly for it (results/speed.md). A caller who turned it on
    keeps it; where the file was imported before, nobody knows who did, and it stays as it is.
    """
    import torch

    @contextlib.contextmanager
    def kept(_: ModuleType) -> Iterator[None]:
        on, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
        yield
        torch.autograd.set_detect_anomaly(on, check_nan)

    around_import("recbole.model.sequential_recommender.sine", kept)


def ignore_foreign_flags() -> None:
    """`Config` takes every `--key=value` in `sys.argv` for a setting, whatever program runs it.

    Under pytest or in a Ray worker they are that program's own flags.
    """
    from recbole.config import Config

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _load_cmd_line(self: Any) -> dict[str, Any]:
            program = Path(sys.argv[0] if sys.argv else "")
            foreign = {program.name, program.parent.name} & FOREIGN_PROGRAMS
            with isolated_argv(() if foreign else sys.argv[1:]):
                settings: dict[str, Any] = original(self)
            return settings

        return _load_cmd_line

    _wrap_once(Config, "_load_cmd_line", make)


def log_below_the_checkpoints() -> None:
    """`init_logger` makes a folder `log` in the current folder, which may not be writable."""
    import recbole.utils

    def make(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def init_logger(config: Any) -> None:
            folder = Path(config["checkpoint_dir"])
            folder.mkdir(parents=True, exist_ok=True)
            before = Path.cwd()
            os.chdir(folder)
            try:
                original(config)
            finally:
                os.chdir(before)

        return init_logger

    _wrap_once(recbole.utils, "init_logger", make)
    quick_start = sys.modules.get("recbole.quick_start.quick_start")  # has a name of its own for it
    if quick_start is not None:
        quick_start.init_logger = recbole.utils.init_logger  # type: ignore[attr-defined]


WORKAROUNDS: tuple[Callable[[], None], ...] = (
    require_installed,
    lend_numpy_names,
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
    """Let a RecBole `Config` built in the block see only `arguments` as its command line.

    `Config` reads every `--key=value` in `sys.argv`, also those of pytest or of a Ray worker.
    """
    before = sys.argv
    sys.argv = [*(before[:1] or [""]), *arguments]
    try:
        yield
    finally:
        sys.argv = before


Around = Callable[[ModuleType], contextlib.AbstractContextManager[None]]


def around_import(name: str, around: Around) -> None:
    """Import a module within `around(module)`, whoever imports it and whenever.

    Where it is imported already, the block is empty. Doing it again changes nothing.
    """
    if name in _IMPORTER.waiting or getattr(sys.modules.get(name), _MARK, False):
        return
    module = sys.modules.get(name)
    if module is not None:
        with around(module):
            setattr(module, _MARK, True)
        return
    _IMPORTER.waiting[name] = around
    if _IMPORTER not in sys.meta_path:
        sys.meta_path.insert(0, _IMPORTER)


class _Importer(importlib.abc.MetaPathFinder):
    """Finds the modules that something waits for as Python does, and leaves all others to it."""

    def __init__(self) -> None:
        self.waiting: dict[str, Around] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        around = self.waiting.get(name)
        spec = around and importlib.machinery.PathFinder.find_spec(name, path, target)
        if not around or not spec or not spec.loader:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with around(module):
                execute(module)
            setattr(module, _MARK, True)
            del self.waiting[name]
            if not self.waiting:
                sys.meta_path.remove(self)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_IMPORTER = _Importer()


def _wrap_once(
    owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Replace the method `name` by `make(method)`, unless that was done before."""
    original = getattr(owner, name)
    if getattr(original, _MARK, False):
        return
    wrapped = functools.wraps(original)(make(original))
    setattr(wrapped, _MARK, True)
    setattr(owner, name, wrapped)


def _restore_environment(name: str, value: str | None) -> None:
    """Set an environment variable back to what it was, absence included."""
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
