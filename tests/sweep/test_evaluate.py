"""Cells of real models: what the files decide is what the eager model decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tofu_export import patch
from tofu_export.errors import UnsupportedModelError, WeightsError
from tofu_export.evaluate.images import demo_source
from tofu_export.options import OutputKind, Precision, Reduction
from tofu_export.planning.plan import make_plan
from tofu_export.report.sweep import SweepFailure
from tofu_export.sweep import evaluate as module
from tofu_export.sweep.evaluate import evaluate, feeds_for
from tofu_export.sweep.grid import Cell, Grid, expand
from tofu_export.sweep.records import Record
from tofu_export.sweep.settings import Settings
from tofu_export.sweep.timing import Stopwatch
from tofu_export.sweep.workers import attempt
from tofu_export.system.ort import open_session
from tofu_export.zoo.create import create_model
from tofu_export.zoo.specs import spec_of
from tofu_export.zoo.weights import WeightsSource

LIMIT = 40
DEMO = Settings(limit=LIMIT, seconds=0)
TINY = Settings(weights=WeightsSource.parse("random"), limit=3)


@pytest.fixture(scope="module")
def cells() -> tuple[Cell, ...]:
    """The full demo model and a strong reduction of it."""
    return expand(Grid(("demo_vit",), r=(48,)))[0]


@pytest.mark.e2e
def test_a_file_decides_as_the_eager_model(cells: tuple[Cell, ...]) -> None:
    record = evaluate(cells[1], DEMO)
    found, outputs = record.result, record.outputs
    assert outputs is not None
    spec = spec_of("demo_vit")
    model = create_model("demo_vit", weights=WeightsSource.parse("pretrained")).model
    patch.apply(model, make_plan(spec, Reduction(r=48)), name="demo_vit")
    with torch.no_grad():
        source = demo_source().limited(LIMIT)
        eager = model(torch.from_numpy(source.all_pixels())).argmax(dim=1).numpy()
    assert outputs.tolist() == eager.tolist()
    assert found.top1 == pytest.approx(float((eager == source.labels).mean()))
    assert found.top1 < 1  # so that it is no accident
    assert (found.source, found.real, found.images) == (
        "40 images, the demo model's 1000 held-out images", True, LIMIT,
    )  # fmt: skip
    assert found.file_gmacs == pytest.approx(cells[1].gmacs, rel=0.15)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("r", "precision"), [(0, Precision.FP32), (4, Precision.FP32), (4, Precision.FP16), (4, Precision.INT8)]
)
def test_every_file_is_verified(r: int, precision: Precision) -> None:
    cell = expand(Grid(("test_vit",), r=(r,), precisions=(precision,)))[0][-1]
    found = evaluate(cell, TINY).result.verification
    assert found is not None
    assert (found.passed, found.batches, found.inputs) == (
        True,
        (1, 3),
        "natural-statistics noise, seed 0",
    )
    assert (found.decisions.compared > 0) == (r > 0)
    assert found.tolerance.name == precision.value


@pytest.mark.e2e
def test_a_file_that_computes_something_else_has_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one with a damaged weight: it runs, and its decisions look like any others."""
    right = module.write_file

    def wrong(cell: Cell, settings: Settings, path: Path) -> float | None:
        gmacs = right(cell, settings, path)
        model = onnx.load(path)
        weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = onnx.numpy_helper.to_array(weight)
        weight.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.5), weight.name))
        onnx.save(model, path)
        return gmacs

    monkeypatch.setattr(module, "write_file", wrong)
    cell = expand(Grid(("test_vit",), r=(4,)))[0][-1]
    outcome = attempt(cell, TINY)
    assert isinstance(outcome, SweepFailure)
    assert (outcome.kind, outcome.exit_code) == ("VerificationError", 4)
    assert outcome.reason.endswith("Its row is left out")
    unverified = attempt(cell, replace(TINY, verify=False))
    assert isinstance(unverified, Record)
    assert unverified.result.verification is None


@pytest.mark.e2e
def test_the_full_and_the_reduced_file_are_timed_together(cells: tuple[Cell, ...]) -> None:
    full, reduced = cells
    told: list[float] = []
    with Stopwatch(DEMO) as stopwatch:
        measured = stopwatch.time(reduced, full, 2, told.append)
        alone = stopwatch.time(full, full, 2)
    assert (measured.batch, measured.artifact, measured.iterations) == (2, "cell", 10)
    assert measured.images_per_sec_full > 0
    assert measured.speedup_vs_full > 1  # 5.7 times less work
    assert told[-1] == 1.0
    assert alone.speedup_vs_full == 1.0
    assert alone.images_per_sec == alone.images_per_sec_full


@pytest.mark.e2e
def test_cells_share_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In half precision, where a trace has weights of its own. `test_export` compares more patterns."""
    traced: list[Any] = []
    real = module.trace

    def trace(model: Any, *args: Any, **kwargs: Any) -> Any:
        traced.append(patch.applied_plan(model))
        return real(model, *args, **kwargs)

    monkeypatch.setattr(module, "trace", trace)
    patterns = ("P3M3", "A6", "T6")
    grid = Grid(("test_vit",), r=(4,), modes=(), patterns=patterns, prop_attn=(False,), precisions=(Precision.FP16,))
    made = expand(grid)[0][1:]
    for cell in made:
        module.write_file(cell, TINY, tmp_path / f"{cell.pattern}.onnx")
    assert len(traced) == 2  # with sizes, for tome, and without
    module.write_file(made[1], TINY, tmp_path / "alone.onnx")
    assert len(traced) == 3
    assert (tmp_path / "alone.onnx").read_bytes() == (tmp_path / "AAAAAA.onnx").read_bytes()
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == len(patterns)


@pytest.mark.e2e
def test_int8_is_calibrated_and_leaves_no_draft(cells: tuple[Cell, ...], tmp_path: Path) -> None:
    full = cells[0]
    int8 = Cell(**{**vars(full), "precision": Precision.INT8})
    module.write_file(int8, DEMO, tmp_path / "cell.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["cell.onnx"]
    session = open_session(tmp_path / "cell.onnx")
    logits = session.run(feeds_for(int8, DEMO, LIMIT))["logits"]
    assert (logits.argmax(axis=1) == demo_source().limited(LIMIT).labels).mean() > 0.9


@pytest.mark.e2e
def test_features_are_kept_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "choose_output", lambda *_: OutputKind.FEATURES)
    settings = Settings(weights=WeightsSource.parse("random"), limit=3)
    record = evaluate(expand(Grid(("test_vit",), r=(4,)))[0][-1], settings)
    found, outputs = record.result, record.outputs
    assert outputs is not None
    assert (found.source, found.top1, found.real) == ("3 images, natural-statistics noise, seed 0", None, False)
    assert (outputs.shape, outputs.dtype) == ((3, 64), np.float32)


def test_feeds_repeat_where_images_are_few(cells: tuple[Cell, ...]) -> None:
    pixels = feeds_for(cells[0], Settings(limit=3), 8)["input"]
    assert pixels.shape == (8, 1, 28, 28)
    assert np.array_equal(pixels[0], pixels[3])


def test_what_cannot_be_made_says_so(cells: tuple[Cell, ...]) -> None:
    nowhere = Cell(**{**vars(cells[0]), "model": "swin_tiny_patch4_window7_224"})
    with pytest.raises(UnsupportedModelError, match="SwinTransformer"):
        evaluate(nowhere, DEMO)
    tiny = Cell(**{**vars(cells[0]), "model": "vit_tiny"})
    with pytest.raises(WeightsError):  # no network: they cannot be downloaded
        evaluate(tiny, DEMO)
