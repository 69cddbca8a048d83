"""Files against each other: names, feeds, baselines, ratios, what is refused before anything is measured."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import TensorProto

from tests.benchmarking.graphs import affine
from tests.benchmarking.measured import FULL, REDUCED
from tests.engines import models
from tofu_export.benchmarking.bench_csv import csv_text
from tofu_export.benchmarking.comparison import BenchFile, BenchResult, Realised, compare_files, short_names
from tofu_export.benchmarking.options import BenchOptions
from tofu_export.errors import ExportError, OptionError

QUICK = BenchOptions(warmup_ms=0, min_seconds=0, min_iterations=3, threads=1)


class TestNames:
    @pytest.mark.parametrize(
        ("paths", "names"),
        [
            (["a.onnx"], ["a.onnx"]),
            (["out/a.onnx", "b.onnx"], ["a.onnx", "b.onnx"]),
            (["one/model.onnx", "two/model.onnx", "x/other.onnx"], ["one/model.onnx", "two/model.onnx", "other.onnx"]),
            (["a/x/model.onnx", "b/x/model.onnx"], ["a/x/model.onnx", "b/x/model.onnx"]),
            (["model.onnx", "full/model.onnx"], ["here/model.onnx", "full/model.onnx"]),
        ],
    )
    def test_are_as_short_as_they_can_be(
        self, paths: list[str], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        assert short_names([Path(path) for path in paths]) == tuple(names)

    def test_the_same_file_twice(self) -> None:
        with pytest.raises(OptionError, match=r"given twice: give each file once"):
            short_names([Path("a.onnx"), Path("x/../a.onnx")])


class TestCompare:
    def test_each_file_is_fed_what_it_asks_for(self, tmp_path: Path) -> None:
        files = [
            affine(tmp_path / "a.onnx", gmacs="2.0"),
            affine(tmp_path / "b.onnx", name="pixels", dtype=TensorProto.FLOAT16, gmacs="0.5"),
            affine(tmp_path / "c.onnx", name="ids", dtype=TensorProto.INT64),
        ]
        result = compare_files(files, replace(QUICK, batches=(1, 3)))
        assert [(row.artifact, row.batch) for row in result.measurements] == [
            (name, batch) for batch in (1, 3) for name in ("a.onnx", "b.onnx", "c.onnx")
        ]
        assert result.baseline == "a.onnx"
        assert [entry.gmacs for entry in result.files] == [2.0, 0.5, None]
        assert result.files[1].inputs == {"pixels": "float16[?, 3]"}
        assert result.files[1].outputs == {"y": (1, 3)}
        assert result.warnings == ()
        assert result.profiles == ()
        assert [(row.artifact, row.batch, row.gmacs_ratio) for row in result.realised] == [
            ("b.onnx", 1, 4.0),
            ("b.onnx", 3, 4.0),
        ]
        assert json.loads(json.dumps(result.to_dict())) == result.to_dict()

    def test_one_file_has_no_baseline(self, tmp_path: Path) -> None:
        result = compare_files([affine(tmp_path / "a.onnx", gmacs="1")], QUICK)
        assert result.baseline is None
        assert result.measurements[0].speedup_vs_full is None
        assert result.realised == ()

    @pytest.mark.parametrize("asked", ["b.onnx", "sub/b.onnx"])
    def test_a_baseline_by_name_or_path(self, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        affine(Path("a.onnx"))
        affine(Path("sub/b.onnx"))
        result = compare_files([Path("a.onnx"), Path("sub/b.onnx")], replace(QUICK, baseline=asked))
        assert result.baseline == "b.onnx"
        assert result.measurements[1].speedup_vs_full == 1

    def test_an_unknown_baseline(self, tmp_path: Path) -> None:
        files = [affine(tmp_path / "a.onnx"), affine(tmp_path / "b.onnx")]
        with pytest.raises(OptionError, match=r"--baseline 'c\.onnx' is not among .* expected one of a\.onnx, b\.onnx"):
            compare_files(files, replace(QUICK, baseline="c.onnx"))

    def test_the_batch_that_files_are_fixed_to(self, tmp_path: Path) -> None:
        files = [affine(tmp_path / "a.onnx"), affine(tmp_path / "b.onnx", shape=(4, 3))]
        assert {row.batch for row in compare_files(files, QUICK).measurements} == {4}
        told: list[object] = []
        with pytest.raises(OptionError, match="is fixed to batch 4, 8 was asked for"):
            compare_files(files, replace(QUICK, batches=(4, 8)), on_progress=told.append)
        assert told == []  # not even batch 4 was measured

    def test_files_fixed_to_different_batches(self, tmp_path: Path) -> None:
        files = [affine(tmp_path / "a.onnx", shape=(2, 3)), affine(tmp_path / "b.onnx", shape=(4, 3))]
        with pytest.raises(OptionError, match=r"a\.onnx to 2, b\.onnx to 4"):
            compare_files(files, QUICK)

    def test_outputs_of_other_shapes_are_a_warning(self, tmp_path: Path) -> None:
        files = [affine(tmp_path / "a.onnx"), affine(tmp_path / "b.onnx", shape=("batch", 5))]
        assert compare_files(files, QUICK).warnings == (
            "b.onnx gives y [1, 5], a.onnx gives y [1, 3]: they do not do the same",
        )

    def test_a_shape_for_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="--shape names 'z', which no file has; inputs are x"):
            compare_files([affine(tmp_path / "a.onnx")], replace(QUICK, shapes={"z": (1, 3)}))

    def test_open_sizes(self, tmp_path: Path) -> None:
        file = affine(tmp_path / "a.onnx", shape=("batch", "width"))
        assert compare_files([file], replace(QUICK, shapes={"x": (1, 9)})).files[0].outputs == {"y": (1, 9)}
        with pytest.raises(OptionError, match="leaves more than the batch open"):
            compare_files([file], QUICK)

    def test_no_file(self) -> None:
        with pytest.raises(OptionError, match="no file given"):
            compare_files([], QUICK)

    def test_a_file_that_fails_does_so_before_anything_is_measured(self, tmp_path: Path) -> None:
        told: list[object] = []
        (tmp_path / "b.onnx").write_text("no model")
        with pytest.raises(ExportError, match=r"b\.onnx"):
            compare_files([affine(tmp_path / "a.onnx"), tmp_path / "b.onnx"], QUICK, on_progress=told.append)
        assert told == []

    @pytest.mark.parametrize("text", ["", "nan", "inf", "-1", "0", "many"])
    def test_gmacs_that_are_no_number(self, text: str, tmp_path: Path) -> None:
        assert compare_files([affine(tmp_path / "a.onnx", gmacs=text)], QUICK).files[0].gmacs is None

    def test_profiles(self, tmp_path: Path) -> None:
        told: list[tuple[str, int]] = []
        files = [affine(tmp_path / "a.onnx"), models.save(models.block(), tmp_path, "b.onnx")]
        result = compare_files(
            files, replace(QUICK, batches=(1, 2), profile=True), on_profile=lambda *at: told.append(at)
        )
        assert told == [("a.onnx", 1), ("a.onnx", 2), ("b.onnx", 1), ("b.onnx", 2)]
        assert [(entry.artifact, entry.batch) for entry in result.profiles] == told
        assert [kernel.op_type for kernel in result.profiles[0].kernels] == ["Add"]
        assert "Softmax" in {kernel.op_type for kernel in result.profiles[2].kernels}

    def test_timed_sessions_are_not_profiled(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import onnxruntime

        opened: list[bool] = []
        genuine = onnxruntime.InferenceSession

        def spy(source: object, options: onnxruntime.SessionOptions, **kwargs: object) -> object:
            opened.append(options.enable_profiling)
            return genuine(source, options, **kwargs)

        monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
        compare_files([affine(tmp_path / "a.onnx")], QUICK)
        assert opened == [False]
        compare_files([affine(tmp_path / "a.onnx")], replace(QUICK, profile=True))
        assert opened == [False, False, True, False]

    def test_profiles_are_of_the_cpu(self) -> None:
        with pytest.raises(OptionError, match="--profile reads onnxruntime's CPU kernels, not ort-cuda"):
            BenchOptions(backends=("ort-cuda",), profile=True)


class TestRealised:
    @pytest.mark.parametrize(
        ("speedup", "ratio", "text"),
        [
            (1.89, 2.0, "a at batch 8: 1.89x full for 2.00x fewer GMACs (94 %)"),
            (2.1, 2.0, "a at batch 8: 2.10x full for 2.00x fewer GMACs (105 %)"),
            (1.02, 1.001, "a at batch 8: 1.02x full for the same GMACs"),
            (0.6, 0.5, "a at batch 8: 0.60x full for 2.00x more GMACs"),
        ],
    )
    def test_in_words(self, speedup: float, ratio: float, text: str) -> None:
        assert str(Realised("a", "full", 8, speedup, ratio)) == text

    @staticmethod
    def result(**gmacs: float | None) -> BenchResult:
        files = tuple(BenchFile(name, Path(name), own, {}, {}) for name, own in gmacs.items())
        slow, fast = (replace(REDUCED.latency_ms, median=median) for median in (399.0, 99.75))
        third = replace(REDUCED, artifact="third", latency_ms=slow, speedup_vs_full=0.51)
        half = replace(REDUCED, latency_ms=fast, speedup_vs_full=2.05)
        return BenchResult(files, "full", (FULL, half, third), (), (), ())

    def test_against_the_baseline(self) -> None:
        result = self.result(full=2.0, reduced=0.8, third=4.0)
        assert result.realised == (Realised("reduced", "full", 8, 2.05, 2.5), Realised("third", "full", 8, 0.51, 0.5))
        assert result.to_dict()["realised"][0]["share"] == 0.82

    def test_or_the_file_with_the_most_work(self) -> None:
        result = self.result(full=None, reduced=0.5, third=4.0)
        assert result.realised == (Realised("reduced", "third", 8, 4.0, 8.0),)

    def test_or_not_at_all(self) -> None:
        assert self.result(full=None, reduced=None, third=4.0).realised == ()
        assert self.result(full=None, reduced=None, third=None).realised == ()

    def test_not_between_backends(self) -> None:
        result = self.result(full=2.0, reduced=0.8)
        elsewhere = replace(result.measurements[1], backend="ort-cuda")
        assert replace(result, measurements=(FULL, elsewhere)).realised == ()


class TestCsv:
    def test_a_line_each_with_the_names_of_the_report(self) -> None:
        rows = list(csv.DictReader(io.StringIO(csv_text([FULL, replace(REDUCED, notes=("a, b", "c"))]))))
        assert [row["artifact"] for row in rows] == ["full", "reduced"]
        assert float(rows[1]["latency_ms.p99"]) == 230.123457
        assert (rows[1]["speedup_vs_full"], rows[1]["speedup_q1"], rows[1]["speedup_q3"]) == ("1.981", "1.958", "2.012")
        assert rows[1]["notes"] == "a, b; c"
        assert rows[0]["gpu_compute_ms"] == ""
        named = {name.partition(".")[0] for name in rows[0]} - {"speedup_q1", "speedup_q3"}
        assert named | {"speedup_iqr"} == set(FULL.to_dict())

    def test_without_a_baseline(self) -> None:
        (row,) = csv.DictReader(io.StringIO(csv_text([replace(FULL, speedup_vs_full=None, speedup_iqr=None)])))
        assert (row["speedup_vs_full"], row["speedup_q1"], row["speedup_q3"]) == ("", "", "")
