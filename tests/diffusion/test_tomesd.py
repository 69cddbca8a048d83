"""What becomes of tomesd's own merge when it is exported, and that our baseline is the same reduction."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from tests.diffusion import tiny_unet
from tofu_export.artifact.onnx_file import write
from tofu_export.diffusion.models import create_unet
from tofu_export.diffusion.options import UnetMode, UnetReduction
from tofu_export.system.ort import open_session
from tofu_export.trace.export import trace_form


class MeanMerge(nn.Module):
    """The line by which tomesd merges (tomesd/merge.py, `merge`): sources [B, R, C] into destinations [B, T, C]."""

    def forward(self, destinations: Tensor, sources: Tensor, index: Tensor) -> Tensor:
        expanded = index.expand(-1, -1, destinations.shape[-1])
        return destinations.scatter_reduce(-2, expanded, sources, reduce="mean")


def test_its_mean_is_exported_as_an_overwrite(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    destinations, sources = torch.randn(1, 4, 3, generator=generator), torch.randn(1, 8, 3, generator=generator)
    arguments = (destinations, sources, torch.arange(8).reshape(1, 8, 1) % 4)
    graph = trace_form(
        MeanMerge().eval(), arguments, input_names=["destinations", "sources", "index"], output_names=["merged"],
        dynamic_shapes=None, opset=18,
    )  # fmt: skip
    write(graph, tmp_path / "merge.onnx")
    (scatter,) = (node for node in onnx.load(tmp_path / "merge.onnx").graph.node if node.op_type == "ScatterElements")
    assert [attribute.s for attribute in scatter.attribute if attribute.name == "reduction"] in ([], [b"none"])
    feeds = dict(zip(("destinations", "sources", "index"), (value.numpy() for value in arguments), strict=True))
    got = open_session(tmp_path / "merge.onnx").run(feeds)["merged"]
    np.testing.assert_array_equal(got, sources[:, 4:].numpy())  # the last source of each group, and no mean
    assert np.abs(got - MeanMerge()(*arguments).numpy()).max() > 0.1


def test_tome_mode_is_tomesd() -> None:
    """With its random cells switched off; up to the rounding of another order."""
    tomesd: Any = pytest.importorskip("tomesd")
    feeds = tiny_unet.inputs().random(2, 0)
    unet = create_unet(tiny_unet.SOURCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tomesd.apply_patch(unet, ratio=0.5, use_rand=False)
        expected = tiny_unet.run(unet, feeds)
    got = tiny_unet.run(tiny_unet.build("8", UnetReduction(mode=UnetMode.TOME)), feeds)
    assert (got - expected).norm() / expected.norm() < 1e-5
