"""Notes on times that vary too much."""

from __future__ import annotations

from tofu_export.benchmarking.stability import unstable_note


def test_an_unstable_time_is_said_with_what_to_do() -> None:
    assert unstable_note(2.5) == ()
    assert unstable_note(3.0) == ("latency is unstable, with coefficient of variation = 3% (over 2.5%)",)
    (note,) = unstable_note(3.0, gpu=True, remedy="wait")
    assert note == "GPU compute time is unstable, with coefficient of variation = 3% (over 2.5%): wait"
