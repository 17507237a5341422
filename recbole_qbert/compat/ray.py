"""Workarounds for Ray 2.6.3, the newest version that RecBole allows, and for 2.45 and later.

`import ray` in this module is Ray itself. It is imported only inside functions, because it is slow.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import packaging.version

from recbole_qbert.compat.recbole import after_import


def is_old() -> bool:
    """Return whether the installed Ray is older than 2.45, in practice 2.6.3."""
    try:
        installed = packaging.version.Version(importlib.metadata.version("ray"))
    except importlib.metadata.PackageNotFoundError:
        return False
    return installed < packaging.version.Version("2.45")


def silence_known_warnings() -> None:
    """Silence Ray's calls of deprecated names of setuptools and NumPy (Ray 2.6.3).

    Each filter names the message and the module that raises it, as in `recbole`.
    """
    if not is_old():
        return
    known: tuple[tuple[str, type[Warning]], ...] = (
        (r"pkg_resources is deprecated as an API", UserWarning),
        (r"pkg_resources is deprecated as an API", DeprecationWarning),
        (r"`np\.bool8` is a deprecated alias", DeprecationWarning),
    )
    for message, category in known:
        warnings.filterwarnings("ignore", message, category, r"ray\.")


def lend_packaging() -> None:
    """Provide `pkg_resources._vendor.packaging`, which Ray Data imports (Ray 2.6.3).

    setuptools removed it in version 71.
    """
    vendored = "pkg_resources._vendor"
    if is_old() and importlib.util.find_spec(vendored) is None:
        sys.modules.setdefault(f"{vendored}.packaging.version", packaging.version)


def restore_pandas_formatter() -> None:
    """Restore the pandas name `ExtensionArrayFormatter`, which Ray Data imports (Ray 2.6.3).

    pandas 2.2 renamed the class to `_ExtensionArrayFormatter`.
    """
    if not is_old():
        return
    import pandas.io.formats.format as pandas_format

    name = "ExtensionArrayFormatter"
    if not hasattr(pandas_format, name):
        setattr(pandas_format, name, getattr(pandas_format, f"_{name}"))


def let_recbole_report() -> None:
    """Let RecBole's `objective_function` report metrics to Ray (2.45 and later).

    It passes them as keyword arguments, which `ray.tune.report` no longer takes.
    """
    if not is_old():
        after_import("recbole.quick_start.quick_start", report_keywords)


def report_keywords(quick_start: Any) -> None:
    """Replace the `tune` of RecBole's module by one whose `report` takes keyword arguments."""
    tune = quick_start.tune
    quick_start.tune = SimpleNamespace(report=lambda **metrics: tune.report(metrics))


@contextlib.contextmanager
def memory_costs_a_trial() -> Iterator[None]:
    """Make an out-of-memory kill fail one trial, not the whole sweep (Ray 2.6.3 and 2.45 to 2.60).

    Ray Tune ends the sweep when Ray kills a trial's process for lack of memory. In the block, such
    a process counts as one that died.
    """
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import OutOfMemoryError, RayActorError

    class EndedForMemory(RayActorError):
        """Death of a process that Ray killed for lack of memory."""

        def __init__(self, fault: Exception) -> None:
            super().__init__()
            self.error_msg = str(fault)

    manager: Any = RayActorManager
    original = manager._actor_task_failed

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = EndedForMemory(exception)
        original(self, tracked_actor_task, exception)

    manager._actor_task_failed = failed
    try:
        yield
    finally:
        manager._actor_task_failed = original
