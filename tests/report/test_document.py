"""The report as a document: what was written is read again, of early versions too; and what report.md says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.report.html import samples
from tests.system.records import records
from tofu_export.errors import OptionError
from tofu_export.planning.entry import Gmacs, LayerEntry
from tofu_export.report.document import SCHEMA_VERSION, Report, UnetReport, VitReport
from tofu_export.report.measurement import LatencyMs, Measurement

ENTRY = {"precision": "fp8", "target": "portable", "bytes": 2_000_000, "sha256": "0123456789abcdef"}


def again(report: Report) -> Report:
    document = json.loads(report.to_json())
    assert document.pop("schema_version") == SCHEMA_VERSION
    return Report.from_dict(document)


@pytest.mark.parametrize("kind", [VitReport, UnetReport])
def test_a_report_is_read_as_it_was_written(kind: type[Report]) -> None:
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(records(kind))
    def check(report: Report) -> None:
        if isinstance(report, VitReport):
            layers = (LayerEntry(0, "prune", 5, 2, 3), *report.plan.layers)
            report.plan = replace(report.plan, layers=layers, gmacs=Gmacs(2.0, 1.0))
        assert again(report) == report

    check()


def test_an_early_report_gets_what_was_usual_then() -> None:
    report = Report.from_dict(samples.report())
    assert isinstance(report, VitReport)
    (found,) = report.verification
    assert (found.reference, found.layers, found.token_map) == ("the eager model", (), None)
    assert report.model.preprocessing_from is None
    plan = samples.report()["plan"]
    del plan["pruned_sizes"], plan["asked"]
    early = Report.from_dict(samples.report(plan=plan))
    assert isinstance(early, VitReport)
    assert (early.plan.pruned_sizes, early.plan.asked) == ("lost", {})
    assert again(early) == early


def test_a_selection_is_named_beside_the_pattern() -> None:
    usual = samples.report()["plan"]
    trained = {"select": "predictor", "predictor": "spvit"}
    for more, words in (
        ({}, "`PM`, r = "),
        ({"select": "energy"}, "`PM`, chosen by energy, r = "),
        (trained, "`PM`, chosen by the predictors of spvit, r = "),
    ):
        plan = {**usual, "pattern": "PM", **more}
        assert f"pattern {words}" in Report.from_dict(samples.report(plan=plan)).to_markdown()


def test_what_a_later_version_adds_is_passed_over() -> None:
    assert Report.from_dict(samples.report(colour="green")) == Report.from_dict(samples.report())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"artifacts": [{**ENTRY, "kind": "song", "path": "a"}]},
            "kind is 'song', expected one of onnx, engine",
        ),
        (
            {"artifacts": [{**ENTRY, "kind": "onnx", "path": "a", "precision": "fp7"}]},
            "'fp7', expected one of fp32",
        ),
        ({"timings_s": {"total": "long"}}, "timings_s.total is 'long', expected a number"),
        ({"command": True}, "command is True, expected text"),
        ({"plan": {**samples.report()["plan"], "layers": []}}, r"a\.json: plan\.layers is empty"),
        ({"plan": {**samples.report()["plan"], "gmacs": {"full": 1.0, "reduced": -5}}}, "a number that is not above 0"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Report.from_dict(samples.report(**changes), "a.json: ")


def test_times_are_rounded_to_a_nanosecond() -> None:
    times = LatencyMs(*(number + 0.12345678 for number in range(7)))
    row = Measurement(
        "a", "ort-cpu", "a CPU", 1, 3.0, 1 / 3, times, None, None, None, None, 2.0, None, (0.1234567, 1.0), 5, None
    ).rounded()
    assert (row.images_per_sec, row.latency_ms.max, row.speedup_iqr) == (0.333333, 1.123457, (0.123457, 1.0))
    assert (row.batch, row.iterations, row.gpu_compute_ms) == (1, 5, None)


def markdown(**artifact: Any) -> str:
    return Report.from_dict(samples.report(artifacts=[{**ENTRY, **artifact}])).to_markdown()


def counted(in_file: int, in_engine: int) -> dict[str, Any]:
    return {"in_file": in_file, "in_engine": in_engine, "left": []}


def test_what_became_of_products_and_attention() -> None:
    fusions = {"quantized_products": counted(48, 47), "fused_attention": counted(12, 12)}
    text = markdown(kind="engine", path="model.engine", kernels={"kernels": 194}, fusions=fusions)
    assert "`model.engine`: 194 kernels, 47 of 48 products quantised, 12 of 12 attentions fused." in text
    fusions = {"quantized_products": counted(0, 0), "fused_attention": counted(12, 0)}
    text = markdown(kind="engine", path="a.engine", kernels={"kernels": 213}, fusions=fusions)
    assert "`a.engine`: 213 kernels, 0 of 12 attentions fused." in text
    assert "9 kernels" not in markdown(kind="engine", path="b.engine", kernels={"kernels": 9}, fusions=None)


def test_what_is_quantised_and_from_what() -> None:
    calibration = {"images": 32, "source": "seeded", "real": False, "method": "minmax", "products": 48, "left": 45}
    text = markdown(kind="onnx", path="a.onnx", calibration={**calibration, "numbers": "fp8", "rest": "fp16"})
    assert "`a.onnx`: 48 products in fp8 and 45 in fp16; ranges (minmax) from 32 images, seeded, **which are" in text
    assert "48 products in int8 and 45 in fp32" in markdown(kind="onnx", path="old.onnx", calibration=calibration)


def test_a_report_that_holds_what_json_cannot_is_not_written() -> None:
    report = Report.from_dict(samples.report())
    report.timings_s = {"total": float("nan")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.to_json()
