"""An analysis of a whole model: what it says, that it leaves the model alone, and how it is drawn."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from tests.evaluate.pictures import picture
from tofu_export import patch
from tofu_export.analyze.figure import draw
from tofu_export.analyze.norms import block_norms
from tofu_export.analyze.request import AnalyzeRequest
from tofu_export.analyze.run import _summary, analyze
from tofu_export.errors import OptionError, OutputError
from tofu_export.evaluate.images import demo_source
from tofu_export.options import Reduction
from tofu_export.report.linearity import AnalysisDocument
from tofu_export.system.typed_json import to_object
from tofu_export.zoo.create import create_model
from tofu_export.zoo.specs import plan_model
from tofu_export.zoo.weights import WeightsSource

RANDOM = WeightsSource.parse("random")


@cache
def demo() -> AnalysisDocument:
    return analyze(AnalyzeRequest("demo_vit", limit=4, batch=3, r=24, steps=4))


def test_every_layer_has_its_numbers() -> None:
    document: Any = to_object(demo())
    json.dumps(document, allow_nan=False)
    assert document["images"] == 4
    assert [row["layer"] for row in document["layers"]] == list(range(12))
    for row in document["layers"]:
        for key in ("mlp", "mlp_residual", "attention", "attention_residual", "similarity"):
            assert row[key]["n"] + row[key]["undefined"] == 4 * 24
            assert 0 < row[key]["q1"] <= row[key]["median"] <= row[key]["q3"] <= 1 + 1e-6
        assert row["mlp"]["mean"] <= row["mlp_residual"]["mean"]  # the residual hides the bend
        assert row["merged_norm"]["mlerp"]["mean"] == pytest.approx(1.0, abs=1e-6)
        assert row["merged_norm"]["average"]["mean"] < 1.0


def test_lengths_are_those_of_the_reduced_model() -> None:
    pixels = torch.from_numpy(demo_source().limited(4).all_pixels())
    model = create_model("demo_vit", weights=WeightsSource.parse("pretrained")).model
    full = [float(rows.mean()) for rows in block_norms(model, pixels, 1)]
    _, plan = plan_model("demo_vit", Reduction(r=24, pattern="A" * 12))
    averaged = [float(rows.mean()) for rows in block_norms(patch.apply(model, plan), pixels, 1)]
    assert demo().token_norms.average == pytest.approx(np.divide(averaged, full), rel=1e-5)
    assert demo().token_norms.average != pytest.approx(demo().token_norms.mlerp, rel=1e-3)


def test_a_folder_of_images(tmp_path: Path) -> None:
    for index in range(2):
        picture(tmp_path / f"{index}.png", seed=index, size=(64, 64))
    found = analyze(AnalyzeRequest("test_vit3", images=tmp_path, weights=RANDOM, r=2, steps=3))
    assert found.images == 2
    assert all(row.mlp.n for row in found.layers)


def test_real_images_are_needed() -> None:
    with pytest.raises(OptionError, match="test_vit needs real images: give a folder with --images DIR"):
        analyze(AnalyzeRequest("test_vit", weights=RANDOM))


@pytest.mark.parametrize("change", [{"limit": 0}, {"batch": 0}, {"r": 0}, {"steps": 1}])
def test_refused(change: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="expected at least"):
        AnalyzeRequest("demo_vit", **change)


def test_pairs_of_equal_outputs_are_counted_apart() -> None:
    assert _summary(np.array([0.5, np.nan, 1.0])).undefined == 1
    assert _summary(np.array([0.5, np.nan, 1.0])).mean == 0.75
    assert _summary(np.array([np.nan])).mean is None


def test_the_figure(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg", "a.png"):
        draw(demo(), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = "".join(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
    for words in ("demo_vit, 4 images", "functional linearity", "MLERP", "attention"):
        assert words in text
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OptionError, match=r"expected a name that ends with one of \.svg"):
        draw(demo(), tmp_path / "a.txt")
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        draw(demo(), tmp_path / "folder.svg")
