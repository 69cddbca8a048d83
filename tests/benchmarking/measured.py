"""Measurements of a full and a reduced model."""

from __future__ import annotations

from dataclasses import replace

from tofu_export.benchmarking.ort_profile import Kernel, Profile
from tofu_export.engines.describing.stages import Kind, Located, Place
from tofu_export.report.measurement import LatencyMs, Measurement

FULL = Measurement(
    artifact="full",
    backend="ort-cpu",
    device="ACME 9000",
    batch=8,
    throughput_qps=5.00125,
    images_per_sec=40.01,
    latency_ms=LatencyMs(min=190, max=230.25, mean=200.125, median=199.5, p90=210, p95=220, p99=230.123456789),
    enqueue_ms=None,
    h2d_ms=None,
    gpu_compute_ms=None,
    d2h_ms=None,
    walltime_s=3.00012345,
    speedup_vs_full=1.0,
    speedup_iqr=(1.0, 1.0),
    iterations=15,
    cv_percent=1.5,
)

REDUCED = replace(FULL, artifact="reduced", speedup_vs_full=1.981, speedup_iqr=(1.958, 2.012))

PROFILE = Profile(
    artifact="a.onnx",
    batch=8,
    runs=5,
    query_ms=9.0,
    plain_ms=6.0,
    kernels=(Kernel("n0", "A", 4.0), Kernel("n1", "A", 1.0), Kernel("n2", "B", 2.0), Kernel("n3", "C", 1.0)),
    located=(
        Located(Place("blocks.0", Kind.MLP)),
        Located(Place("blocks.0", Kind.MATCHING)),
        Located(Place("blocks.1", Kind.MERGING), inferred=True),
        Located(Place("", Kind.OTHER)),
    ),
)
