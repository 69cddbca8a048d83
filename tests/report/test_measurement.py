"""What samples of queries say, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tofu_export.engines.running.gpu_times import QueryTimes
from tofu_export.errors import OptionError
from tofu_export.report.measurement import LatencyMs, Measurement, QuerySamples, percentile


class TestPercentile:
    @pytest.mark.parametrize(
        ("count", "percent", "expected"),
        [
            # Values are 1..count, so the value is its rank. The fourth and fifth need rounding up.
            (100, 99, 99),
            (100, 90, 90),
            (100, 100, 100),
            (10, 95, 10),
            (11, 90, 10),
            (10, 90, 9),
            (10, 99, 10),
            (1, 99, 1),
            (7, 50, 4),
            (5, 0, 1),
            (1000, 95, 950),
        ],
    )
    def test_is_the_nearest_rank(self, count: int, percent: int, expected: int) -> None:
        assert percentile(range(1, count + 1), percent) == expected

    @pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 101), ([1.0], -1)])
    def test_refuses_what_has_no_answer(self, values: list[float], percent: int) -> None:
        with pytest.raises(OptionError, match="of at least one value"):
            percentile(values, percent)

    @given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60), st.integers(1, 100))
    def test_is_the_smallest_value_that_covers_the_share(self, values: list[int], percent: int) -> None:
        found = percentile(sorted(values), percent)
        assert 100 * sum(value <= found for value in values) >= percent * len(values)
        assert 100 * sum(value < found for value in values) < percent * len(values)


class TestLatency:
    def test_by_hand(self) -> None:
        found = LatencyMs.of((5, 1, 4, 2, 3, 6, 7, 8, 9, 105))
        assert found == LatencyMs(min=1, max=105, mean=15, median=5.5, p90=9, p95=105, p99=105)

    @given(st.lists(st.integers(1, 10**10), min_size=1, max_size=50))
    def test_is_ordered(self, samples: list[int]) -> None:
        found = LatencyMs.of(samples)
        assert found.min <= found.median <= found.p90 <= found.p95 <= found.p99 <= found.max
        assert found.min <= found.mean * (1 + 1e-12)
        assert found.mean <= found.max * (1 + 1e-12)


class TestMeasurement:
    def test_of_queries(self) -> None:
        found = Measurement.of_queries(
            "a.onnx",
            "trt",
            "ACME 1",
            4,
            QuerySamples([2.0, 4.0], 4, 0.5, QueryTimes(1, 2, 3, 4), 1.0),
            notes=("quiet",),
        )
        assert (found.throughput_qps, found.images_per_sec, found.iterations) == (8, 32, 4)
        assert (found.enqueue_ms, found.h2d_ms, found.gpu_compute_ms, found.d2h_ms) == (1, 2, 3, 4)
        assert (found.latency_ms.min, found.latency_ms.max) == (2, 4)
        assert found.to_dict()["notes"] == ["quiet"]

    def test_medians_are_taken_of_each_time(self) -> None:
        assert QueryTimes.medians([QueryTimes(1, 9, 3, 4), QueryTimes(2, 8, 3, 5), QueryTimes(3, 7, 3, 6)]) == (
            2,
            8,
            3,
            5,
        )
