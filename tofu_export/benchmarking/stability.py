"""When a measured time varies too much to be compared with another, and how a note says so."""

from __future__ import annotations

from tofu_export.engines.running.gpu_times import UNSTABLE_CV_PERCENT

__all__ = ["UNSTABLE", "UNSTABLE_GPU", "unstable_note"]

UNSTABLE = "latency is unstable"
"""How the note begins that says so."""

UNSTABLE_GPU = "GPU compute time is unstable"
"""The same of a contender whose kernels were timed."""


def unstable_note(cv_percent: float, *, gpu: bool = False, remedy: str = "") -> tuple[str, ...]:
    """The note of a time that varies too much; none of one that does not.

    Args:
        cv_percent: coefficient of variation.
        gpu: it is that of kernels.
        remedy: what to do.
    """
    if cv_percent <= UNSTABLE_CV_PERCENT:
        return ()
    what = UNSTABLE_GPU if gpu else UNSTABLE
    advice = f": {remedy}" if remedy else ""
    return (f"{what}, with coefficient of variation = {cv_percent:.3g}% (over {UNSTABLE_CV_PERCENT}%){advice}",)
