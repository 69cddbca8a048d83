"""Runs that trtexec recorded elsewhere. The stored records have the form of trtexec 10.7; their numbers are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tofu_export.benchmarking.trtexec_log import against, read_log, read_records, read_times
from tofu_export.benchmarking.trtexec_text import summary, verdict
from tofu_export.errors import OptionError
from tofu_export.report.measurement import LatencyMs

DATA = Path(__file__).parent / "data"
LOG, TIMES = DATA / "trtexec.log", DATA / "trtexec_times.json"
TEXT = LOG.read_text(encoding="utf-8")


@pytest.fixture
def log(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "run.log"
        path.write_text(text, encoding="utf-8")
        return path

    return write


class TestLog:
    def test_all_fields(self) -> None:
        found = read_log(LOG, "reduced")
        assert (found.artifact, found.backend, found.device, found.batch) == ("reduced", "trt", "NVIDIA Example", 8)
        assert found.throughput_qps == 112.18
        assert found.images_per_sec == pytest.approx(8 * 112.18)
        assert found.latency_ms == LatencyMs(
            min=9.1394, max=9.97314, mean=9.21046, median=9.19214, p90=9.26416, p95=9.31787, p99=9.71143
        )
        assert (found.enqueue_ms, found.h2d_ms) == (1.19873, 0.474121)
        assert (found.gpu_compute_ms, found.d2h_ms) == (8.70215, 0.0126953)
        assert (found.walltime_s, found.iterations, found.cv_percent) == (3.02193, 339, None)
        assert (found.speedup_vs_full, found.speedup_iqr) == (None, None)
        assert found.notes == ("GPU compute time is unstable, with coefficient of variance = 1.58526%",)

    def test_goes_back_into_trtexecs_words(self) -> None:
        text = summary(read_log(LOG, "reduced"))
        assert "Throughput: 112.18 qps (897.44 images/s)" in text
        line = next(line for line in TEXT.splitlines() if "[I] Latency: " in line)
        assert line.partition("[I] ")[2] in text

    def test_without_times_of_day_and_with_the_words_of_trtexec_8(self, log: Callable[[str], Path]) -> None:
        text = TEXT.replace("[11/20/2025-10:12:05] ", "").replace("Input binding for", "Created input binding for")
        assert read_log(log(text), "a") == read_log(LOG, "a")

    def test_as_powershell_redirects_it(self, tmp_path: Path) -> None:
        path = tmp_path / "run.log"
        path.write_bytes(TEXT.replace("\n", "\r\n").encode("utf-16"))
        assert read_log(path, "a") == read_log(LOG, "a")

    def test_queries_are_counted_where_the_log_does_not_say(self, log: Callable[[str], Path]) -> None:
        text = "\n".join(line for line in TEXT.splitlines() if "Timing trace" not in line)
        assert read_log(log(text), "a").iterations == 339  # 112.18 qps for 3.02193 s

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda text: "", "holds 0 lines '=== Performance summary ==='"),
            (lambda text: text + text, "holds 2 lines"),
            (
                lambda text: text.replace("&&&& PASSED", "&&&& FAILED"),
                "of a trtexec run that failed: it gives no reason",
            ),
            (
                lambda text: f"[11/20/2025-10:12:02] [E] Could not open engine\n{text}&&&& FAILED",
                "run that failed: Could not open engine",
            ),
            (
                lambda text: text.replace(", percentile(90%)", ", percentile(80%)"),
                r"lacks percentile\(90%\).*--percentile",
            ),
            (lambda text: text.replace("Throughput: 112.18 qps", "Throughput: nan qps"), "'Throughput: ... qps'"),
            (lambda text: text.replace("Input binding for", "Binding"), "does not say the shape of an input"),
            (
                lambda text: text[: text.index("[11/20/2025-10:12:05] [I] D2H")],
                "'Total Host Walltime: ... s': it is cut",
            ),
            (lambda text: text.replace("] D2H Latency: min = 0.00976562", "] X"), "'D2H Latency: min = ... ms"),
        ],
    )
    def test_what_cannot_be_used(self, change: Callable[[str], str], words: str, log: Callable[[str], Path]) -> None:
        with pytest.raises(OptionError, match=words):
            read_log(log(change(TEXT)), "a")

    def test_no_such_file(self, tmp_path: Path) -> None:
        for read in (lambda path: read_log(path, "a"), lambda path: read_times(path, "a", 8)):
            with pytest.raises(OptionError, match=r"cannot read .*gone: No such file"):
                read(tmp_path / "gone")


class TestTimes:
    def test_all_fields(self) -> None:
        found = read_times(TIMES, "reduced", 8)
        assert (found.backend, found.batch, found.iterations) == ("trt", 8, 3)
        assert found.walltime_s == pytest.approx(0.030)  # from 203.0 to 233.0
        assert found.throughput_qps == pytest.approx(100)
        assert found.images_per_sec == pytest.approx(800)
        assert found.latency_ms == LatencyMs(
            min=9.1, max=9.8, mean=pytest.approx(9.4), median=9.3, p90=9.8, p95=9.8, p99=9.8
        )
        assert found.enqueue_ms == pytest.approx(1.2)
        assert (found.h2d_ms, found.gpu_compute_ms, found.d2h_ms) == (0.5, 8.7, 0.1)
        assert found.cv_percent == pytest.approx(100 * (((0.1**2 + 0.3**2 + 0.4**2) / 3) ** 0.5) / 9.4)

    def test_says_what_is_wrong_with_the_run(self, tmp_path: Path) -> None:
        assert [note.split(",")[0] for note in read_times(TIMES, "a", 8).notes] == ["latency is unstable"]  # 3.1 %
        (first, *_) = json.loads(TIMES.read_text(encoding="utf-8"))
        late = {**first, "endEnqMs": first["startEnqMs"] + 0.81 * first["computeMs"]}
        (tmp_path / "times.json").write_text(json.dumps([late]), encoding="utf-8")
        (note,) = read_times(tmp_path / "times.json", "a", 8).notes
        assert note.startswith("the host takes 7.05 ms to enqueue what the GPU computes in 8.7 ms")

    @pytest.mark.parametrize("text", ["", "{}", "[1]", "[{}]", "7", "null", '{"a": 1}'])
    def test_something_else(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "times.json").write_text(text, encoding="utf-8")
        with pytest.raises(OptionError, match=r"not what trtexec writes with --exportTimes|holds no query"):
            read_times(tmp_path / "times.json", "a", 1)

    @pytest.mark.parametrize("change", [{"latencyMs": 0}, {"computeMs": "x"}, {"endD2hMs": None}, {"h2dMs": 1e999}])
    def test_queries_that_make_no_sense(self, change: dict[str, Any], tmp_path: Path) -> None:
        (first, *_) = json.loads(TIMES.read_text(encoding="utf-8"))
        (tmp_path / "times.json").write_text(json.dumps([{**first, **change}]), encoding="utf-8")
        with pytest.raises(OptionError, match="not what trtexec writes"):
            read_times(tmp_path / "times.json", "a", 1)

    def test_ends_before_it_begins(self, tmp_path: Path) -> None:
        (first, *_) = json.loads(TIMES.read_text(encoding="utf-8"))
        (tmp_path / "times.json").write_text(json.dumps([{**first, "endD2hMs": 1.0}]), encoding="utf-8")
        with pytest.raises(OptionError, match="ends before it begins"):
            read_times(tmp_path / "times.json", "a", 1)


class TestRecords:
    def test_the_first_one_is_the_baseline(self, log: Callable[[str], Path]) -> None:
        fast = log(TEXT.replace("median = 9.19214 ms", "median = 4.59607 ms"))
        records = read_records([LOG, fast], [])
        assert records.baseline == "trtexec.log"
        assert not records.asked
        assert [row.speedup_vs_full for row in records.rows] == [1, 2]
        assert verdict(records.rows[1], baseline=records.baseline) == (
            "run.log is 2.00x trtexec.log at batch 8 (runs apart from each other, spread unknown)"
        )
        slow = read_records([LOG, fast], [], baseline="run.log")
        assert slow.asked
        line = verdict(slow.rows[0], baseline="run.log")
        assert line is not None
        assert line.endswith(
            "0.50x run.log at batch 8 (runs apart from each other, spread unknown): not worth it at this batch"
        )

    def test_another_one_by_path(self, log: Callable[[str], Path]) -> None:
        path = log(TEXT)
        assert read_records([LOG, path], [], baseline=str(path))[1:] == ("run.log", True)

    def test_another_batch_or_device_has_no_ratio(self) -> None:
        row = read_log(LOG, "a")
        rows = against([row, replace(row, artifact="b", batch=1), replace(row, artifact="c", device="another")], "a")
        assert [found.speedup_vs_full for found in rows] == [1, None, None]

    def test_one_alone_has_no_baseline(self) -> None:
        assert read_records([LOG], []) == ((read_log(LOG, "trtexec.log"),), None, False)
        assert read_records([], []) == ((), None, False)

    def test_times_need_the_batch(self) -> None:
        assert read_records([], [TIMES], batches=(8,)).rows == (read_times(TIMES, "trtexec_times.json", 8),)
        for batches in ((), (1, 8)):
            with pytest.raises(OptionError, match="do not say their batch size: give it with --batch"):
                read_records([], [TIMES], batches=batches)
