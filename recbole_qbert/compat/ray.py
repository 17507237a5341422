"""What Ray needs: 2.6.3, the newest that RecBole allows, and versions from 2.45 on.

`import ray` in here is Ray itself. Nothing here imports it before it must.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import packaging.version


def is_old() -> bool:
    """Whether the Ray that is installed is 2.6.3."""
    try:
        installed = packaging.version.Version(importlib.metadata.version("ray"))
    except importlib.metadata.PackageNotFoundError:
        return False
    return installed < packaging.version.Version("2.45")


def silence_known_warnings() -> None:
    """Ray calls deprecated names of setuptools and NumPy (Ray 2.6.3).

    A filter names the message and the module that raises it, as in `recbole`.
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
    """Ray Data takes packaging from where setuptools had it before version 71 (Ray 2.6.3)."""
    vendored = "pkg_resources._vendor"
    if is_old() and importlib.util.find_spec(vendored) is None:
        sys.modules.setdefault(f"{vendored}.packaging.version", packaging.version)


def restore_pandas_formatter() -> None:
    """Ray Data takes a class of pandas by a name that pandas 2.2 changed (Ray 2.6.3)."""
    if not is_old():
        return
    import pandas.io.formats.format as pandas_format

    name = "ExtensionArrayFormatter"
    if not hasattr(pandas_format, name):
        setattr(pandas_format, name, getattr(pandas_format, f"_{name}"))


@contextlib.contextmanager
def memory_costs_a_trial() -> Iterator[None]:
    """Ray Tune ends the sweep where Ray ends a trial for want of memory (2.6.3 and 2.45 to 2.60).

    In the block such a process counts as one that died.
    """
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import OutOfMemoryError, RayActorError

    class EndedForMemory(RayActorError):
        """The death of a process that Ray ended."""

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
