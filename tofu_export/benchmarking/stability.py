"""Detect and report measured times that vary too much to be compared."""

from __future__ import annotations

from tofu_export.engines.running.gpu_times import UNSTABLE_CV_PERCENT

__all__ = ["UNSTABLE", "UNSTABLE_GPU", "unstable_note"]

UNSTABLE = "latency is unstable"
"""Beginning of the note on an unstable latency."""

UNSTABLE_GPU = "GPU compute time is unstable"
"""Beginning of the note on an unstable time of kernels."""


def unstable_note(cv_percent: float, *, gpu: bool = False, remedy: str = "") -> tuple[str, ...]:
    """Return the note on a time that varies too much; empty for a stable time.

    Args:
        cv_percent: coefficient of variation.
        gpu: the time is that of kernels.
        remedy: advice.
    """
    if cv_percent <= UNSTABLE_CV_PERCENT:
        return ()
    what = UNSTABLE_GPU if gpu else UNSTABLE
    advice = f": {remedy}" if remedy else ""
    return (f"{what}, with coefficient of variation = {cv_percent:.3g}% (over {UNSTABLE_CV_PERCENT}%){advice}",)
