"""The text of a benchmark: trtexec's words, and verdicts that do not flatter."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofu_export.benchmarking.trtexec_text import render, summary, verdict
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


class TestSummary:
    def test_on_a_cpu(self) -> None:
        assert summary(FULL).splitlines() == [
            "=== Performance summary ===",
            "Model: full, batch 8, ort-cpu on ACME 9000",
            "Throughput: 5.00125 qps (40.01 images/s)",
            "Latency: min = 190 ms, max = 230.25 ms, mean = 200.125 ms, median = 199.5 ms, "
            "percentile(90%) = 210 ms, percentile(95%) = 220 ms, percentile(99%) = 230.123 ms",
            "Total Host Walltime: 3.00012 s (15 queries)",
            "Not measured on ort-cpu: Enqueue Time, H2D Latency, GPU Compute Time, D2H Latency",
        ]

    def test_on_a_gpu(self) -> None:
        text = summary(replace(FULL, enqueue_ms=0.5, h2d_ms=0.0, gpu_compute_ms=198.0, d2h_ms=0.25))
        assert "GPU Compute Time: median = 198 ms" in text
        assert "H2D Latency: median = 0 ms" in text
        assert "Not measured" not in text

    def test_says_the_notes(self) -> None:
        assert "* latency is unstable" in summary(replace(FULL, notes=("latency is unstable",)))


class TestVerdict:
    def test_a_gain(self) -> None:
        assert verdict(REDUCED) == "reduced is 1.98x the full model at batch 8 (IQR 1.96-2.01)"

    def test_names_the_baseline(self) -> None:
        line = verdict(REDUCED, baseline="r=0")
        assert line is not None
        assert "1.98x the r=0 model" in line

    def test_a_file_as_baseline(self) -> None:
        assert verdict(REDUCED, baseline="a.onnx") == "reduced is 1.98x a.onnx at batch 8 (IQR 1.96-2.01)"

    @pytest.mark.parametrize("speedup", [1.0, 1.02, 1.044])
    def test_a_gain_too_small(self, speedup: float) -> None:
        line = verdict(replace(REDUCED, speedup_vs_full=speedup, speedup_iqr=(0.99, 1.06)))
        assert line is not None
        assert line.endswith("not worth it at this batch")
        assert "slower" not in line

    def test_a_loss(self) -> None:
        line = verdict(replace(REDUCED, batch=1, speedup_vs_full=0.87, speedup_iqr=(0.8, 0.9)))
        assert line == (
            "reduced is 0.87x, slower than the full model at batch 1 (IQR 0.80-0.90): not worth it at this batch"
        )

    def test_a_loss_that_many_rounds_do_not_show(self) -> None:
        line = verdict(replace(REDUCED, speedup_vs_full=0.93, speedup_iqr=(0.41, 1.35)))
        assert line == (
            "reduced is 0.93x the full model at batch 8 (IQR 0.41-1.35): not worth it at this batch, "
            "but the rounds disagree; measure longer"
        )

    def test_a_gain_that_many_rounds_do_not_show(self) -> None:
        line = verdict(replace(REDUCED, speedup_vs_full=1.3, speedup_iqr=(0.9, 1.9)))
        assert line is not None
        assert "uncertain" in line

    def test_nothing_on_the_baseline_or_without_one(self) -> None:
        assert verdict(FULL, baseline="full") is None
        assert verdict(replace(REDUCED, speedup_vs_full=None, speedup_iqr=None)) is None

    @given(st.floats(0.01, 100))
    def test_words_fit_the_number_that_is_printed(self, speedup: float) -> None:
        line = verdict(replace(REDUCED, speedup_vs_full=speedup, speedup_iqr=(speedup, speedup)))
        assert line is not None
        shown = float(line.split("is ")[1].split("x")[0])
        assert ("slower" in line) == (shown < 1)
        assert ("not worth it" in line) == (shown < 1.05)


class TestRender:
    def test_summaries_then_verdicts(self) -> None:
        text = render([FULL, REDUCED], baseline="full")
        assert text.count("=== Performance summary ===") == 2
        assert text.splitlines()[-2:] == ["=== Verdict ===", verdict(REDUCED, baseline="full")]

    def test_no_verdict_without_a_baseline(self) -> None:
        alone = replace(FULL, speedup_vs_full=None, speedup_iqr=None)
        assert render([alone]) == summary(alone)
