"""Workarounds for faults of other packages: one module per package, one function per fault.

A workaround does nothing where its fault is absent.
"""

from __future__ import annotations

from recbole_qbert.compat import ray, recbole

WORKAROUNDS = (*recbole.WORKAROUNDS, ray.silence_known_warnings, ray.let_recbole_report)


def apply() -> None:
    """Apply every workaround that a process needs. Repeated calls change nothing."""
    for workaround in WORKAROUNDS:
        workaround()
