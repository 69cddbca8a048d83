"""Models for images of several sizes are traced for one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from timm.layers import pos_embed

from tests import tiny
from tofu_export import patch
from tofu_export.errors import ExportError
from tofu_export.graph_patterns.lowering import census
from tofu_export.options import BatchRange, Reduction
from tofu_export.patch.describe import describe
from tofu_export.planning.plan import make_plan
from tofu_export.trace.export import InputShape, trace
from tofu_export.trace.fixed_sizes import image_size_fixed

SOME = Reduction(r=(1, 1, 1), pattern="PAM")


@pytest.mark.parametrize("height", [tiny.SIDE, 2 * tiny.SIDE])
def test_positions_of_the_traced_size_are_not_resampled(height: int) -> None:
    """vit_intern300m is such a model; TensorRT rejects the Resize that timm exports even where the sizes agree."""
    size = (height, tiny.SIDE)
    model = tiny.build("cls", dynamic_img_size=True, img_size=size)
    plan = make_plan(describe(tiny.build("cls", dynamic_img_size=True, img_size=size).to("meta"), "cls", size), SOME)
    graph = trace(patch.apply(model, plan), InputShape(3, *size), batch=BatchRange(1, 1, 1))
    assert "Resize" not in census(graph)
    positions = graph.graph.initializers["pos_embed"].const_value
    assert isinstance(positions, ir.TensorProtocol)
    assert np.array_equal(positions.numpy(), model.get_parameter("pos_embed").numpy())


def test_timm_is_left_as_it_was() -> None:
    before = dict(vars(pos_embed))
    with pytest.raises(ExportError), image_size_fixed():
        assert torch.equal(pos_embed.resample_abs_pos_embed(torch.ones(1, 5, 2), [2, 2]), torch.ones(1, 5, 2))
        raise ExportError("failed")
    assert vars(pos_embed) == before
