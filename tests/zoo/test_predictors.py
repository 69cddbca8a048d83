"""Checkpoints with trained predictors, in the formats of their repositories: loaded whole, or refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.zoo.checkpoints import filled, load
from tests.zoo.jax_arrays import State, make
from tofu_export.errors import OptionError, UnsupportedModelError, WeightsError
from tofu_export.job.model import load_job_model
from tofu_export.job.request import Job
from tofu_export.options import Reduction, Selection
from tofu_export.patch.predictors import PredictorShape, attach
from tofu_export.planning.trained import PredictorKind
from tofu_export.zoo.specs import spec_as_loaded, spec_of
from tofu_export.zoo.weights import WeightsSource

SHAPES = [PredictorShape(PredictorKind.DYNAMICVIT, 3), PredictorShape(PredictorKind.SPVIT, 3, 2)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kind.value)


def with_predictors(shape: PredictorShape) -> nn.Module:
    model: nn.Module = filled(attach(make(), shape))
    return model


def written(folder: Path, state: State) -> Path:
    """As the repositories' training scripts write it."""
    path = folder / "checkpoint-best.pth"
    torch.save({"model": state, "epoch": 29, "args": {"arch": "deit_small", "base_rate": 0.7}}, path)
    return path


@shapes
def test_predictors_are_loaded_with_the_model(tmp_path: Path, shape: PredictorShape) -> None:
    state = with_predictors(shape).state_dict()
    loaded = load(written(tmp_path, state))
    assert loaded.predictors == shape
    assert loaded.weights.dropped == loaded.weights.set == ()
    found = loaded.model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    spec = spec_as_loaded(spec_of("test_vit"), loaded)
    assert spec.predictors is not None
    assert (spec.predictors.kind, spec.predictors.count) == (shape.kind, 3)


@shapes
def test_nothing_trained_is_left_out_unasked(tmp_path: Path, shape: PredictorShape) -> None:
    path = written(tmp_path, with_predictors(shape).state_dict())
    with pytest.raises(OptionError, match=rf"3 trained predictors .*{shape.kind.value}.*add --select predictor"):
        load_job_model(Job("test_vit", tmp_path / "out", weights=WeightsSource.parse(str(path))))
    loaded = load(path, allow=True)
    assert loaded.predictors is None
    assert len(loaded.weights.dropped) == sum("score_predictor" in name for name in with_predictors(shape).state_dict())


def test_weights_without_predictors_are_refused_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, make().state_dict())
    asked = Reduction(select=Selection.PREDICTOR)
    for weights in (str(path), "random"):
        with pytest.raises(OptionError, match="test_vit has no trained predictors, which --select predictor needs"):
            load_job_model(Job("test_vit", tmp_path / "out", weights=WeightsSource.parse(weights), reduction=asked))


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("score_predictor.1.out_conv.2.weight", lambda value: value[:, :8], "shape: score_predictor.1.out_conv.2"),
        ("score_predictor.2.in_conv.0.bias", None, "1 missing in the file: score_predictor.2.in_conv.0.bias"),
        ("score_predictor.0.out_conv.4.weight", lambda value: value.repeat(2, 1), "of another shape"),
        ("score_predictor.0.more.weight", torch.ones(3), "1 unknown to the model: score_predictor.0.more.weight"),
    ],
)  # fmt: skip
def test_predictors_of_another_form_are_refused(tmp_path: Path, name: str, edit: Any, message: str) -> None:
    state = with_predictors(SHAPES[0]).state_dict()
    value = state.pop(name, None)
    if edit is not None:
        state[name] = edit(value) if callable(edit) else edit
    advice = "fits test_vit but for its trained predictors.*use another checkpoint, or pass --allow-dropped"
    with pytest.raises(WeightsError, match=message) as caught:
        load(written(tmp_path, state))
    assert re.search(advice, str(caught.value))
    assert len(load(written(tmp_path, state), allow=True).weights.dropped) == sum("score_pred" in key for key in state)


def test_another_width_or_model_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, with_predictors(SHAPES[0]).state_dict())
    with pytest.raises(WeightsError, match=r"does not fit deit_tiny_patch16_224"):
        load(path, "deit_tiny_patch16_224")
    with pytest.raises(
        UnsupportedModelError, match=r"beit_base_patch16_224\S* cannot have the predictors of dynamicvit"
    ):
        load(path, "beit_base_patch16_224")
