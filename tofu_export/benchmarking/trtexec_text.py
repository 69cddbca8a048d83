"""Measurements as text, in the words of trtexec's performance summary, with verdicts for the user."""

from __future__ import annotations

from collections.abc import Sequence

from tofu_export.report.measurement import LatencyMs, Measurement

__all__ = ["WORTHWHILE_SPEEDUP", "render", "summary", "verdict"]

WORTHWHILE_SPEEDUP = 1.05
"""Speed-up below which a reduction is not worth its loss of accuracy."""


def render(measurements: Sequence[Measurement], *, baseline: str | None = None) -> str:
    """Return summaries of all measurements, then a verdict on each that has a baseline."""
    verdicts = [line for line in (verdict(item, baseline=baseline) for item in measurements) if line is not None]
    blocks = [summary(item) for item in measurements]
    if verdicts:
        blocks.append("\n".join(["=== Verdict ===", *verdicts]))
    return "\n\n".join(blocks)


def summary(measurement: Measurement) -> str:
    """Return one measurement in trtexec's layout; figures that the backend does not measure are left out, and named."""
    device_only = {
        "Enqueue Time": measurement.enqueue_ms,
        "H2D Latency": measurement.h2d_ms,
        "GPU Compute Time": measurement.gpu_compute_ms,
        "D2H Latency": measurement.d2h_ms,
    }
    unmeasured = [label for label, value in device_only.items() if value is None]
    lines = [
        "=== Performance summary ===",
        f"Model: {measurement.artifact}, batch {measurement.batch}, {measurement.backend} on {measurement.device}",
        f"Throughput: {measurement.throughput_qps:.6g} qps ({measurement.images_per_sec:.6g} images/s)",
        f"Latency: {_distribution(measurement.latency_ms)}",
        *(f"{label}: median = {value:.6g} ms" for label, value in device_only.items() if value is not None),
        f"Total Host Walltime: {measurement.walltime_s:.6g} s ({measurement.iterations} queries)",
        *(f"* {note}" for note in measurement.notes),
    ]
    if unmeasured:
        lines.append(f"Not measured on {measurement.backend}: {', '.join(unmeasured)}")
    return "\n".join(lines)


def verdict(measurement: Measurement, *, baseline: str | None = None) -> str | None:
    """Return a verdict on the speed-up in one line; None for the baseline itself and without a baseline.

    A gain under `WORTHWHILE_SPEEDUP` is called not worth it, and a loss only where three quarters of the rounds show
    it. A gain that more than a quarter of the rounds do not show (first quartile below 1) is called uncertain. If
    there were no rounds, because runs were recorded separately, the line says so.
    """
    speedup, quartiles = measurement.speedup_vs_full, measurement.speedup_iqr
    if speedup is None or measurement.artifact == baseline:
        return None
    name, place = measurement.artifact, f"at batch {measurement.batch}"
    full = baseline if baseline and "." in baseline else f"the {baseline or 'full'} model"
    ratio = f"{speedup:.2f}x"
    shown = round(speedup, 2)  # so that the words never contradict the number beside them
    if quartiles is None:
        worth = ": not worth it at this batch" if shown < WORTHWHILE_SPEEDUP else ""
        return f"{name} is {ratio} {full} {place} (runs apart from each other, spread unknown){worth}"
    low, high = quartiles
    spread = f"(IQR {low:.2f}-{high:.2f})"
    if shown < WORTHWHILE_SPEEDUP:
        slower = ", slower than" if shown < 1 and high < 1 else ""
        divided = low < 1 / WORTHWHILE_SPEEDUP and high >= WORTHWHILE_SPEEDUP
        doubt = ", but the rounds disagree; measure longer" if divided else ""
        return f"{name} is {ratio}{slower} {full} {place} {spread}: not worth it at this batch{doubt}"
    if low < 1:
        return f"{name} is {ratio} {full} {place} {spread}: uncertain, the rounds disagree; measure longer"
    return f"{name} is {ratio} {full} {place} {spread}"


def _distribution(latency: LatencyMs) -> str:
    named = {"min": latency.min, "max": latency.max, "mean": latency.mean, "median": latency.median}
    ranks = {90: latency.p90, 95: latency.p95, 99: latency.p99}
    parts = [f"{label} = {value:.6g} ms" for label, value in named.items()]
    parts += [f"percentile({rank}%) = {value:.6g} ms" for rank, value in ranks.items()]
    return ", ".join(parts)
