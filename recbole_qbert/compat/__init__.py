"""Workarounds for faults of other packages: one module for each package, one function a fault.

A workaround does nothing where the fault is not there.
"""

from __future__ import annotations

from recbole_qbert.compat import ray, recbole

WORKAROUNDS = (*recbole.WORKAROUNDS, ray.silence_known_warnings)


def apply() -> None:
    """Put in place every workaround that a process needs; to do it again changes nothing."""
    for workaround in WORKAROUNDS:
        workaround()
