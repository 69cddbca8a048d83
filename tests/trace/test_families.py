"""Every kind of block and of position: the file is the eager model, at every batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests import families, tiny
from tests.families import FAMILIES
from tests.sampling import sampled
from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.lowering import census, lower
from tofu_export.options import BatchRange, Precision, Reduction, Target
from tofu_export.system.ort import open_session
from tofu_export.trace.export import save, trace
from tofu_export.verification.eager import Checks, verify

SOME = Reduction(r=(3, 2, 4), pattern="PTM")
FOR_ONNXRUNTIME = ("diff", "parallel", "eva-rope-mixed", "beit", "relpos-shared", "cait")
"""Families whose file for onnxruntime is checked, too."""
BATCHES = BatchRange(1, 2, 7)


def canonical(name: str) -> ir.Model:
    return trace(families.reduced(name, SOME), tiny.SHAPE, batch=BATCHES)


def companions(graph: ir.Model) -> list[list[str]]:
    return [list(FuseNode.companions_of(node)) for node in graph.graph if node.op_type == "Fuse"]


def check(name: str, graph: ir.Model, folder: Path, target: Target) -> None:
    path = folder / "model.onnx"
    save(lower(graph, target, Precision.FP32), path, {})
    model = families.reduced(name, SOME)
    pixels = tiny.pixels(10, seed=1)
    result = verify(
        path, model, pixels, precision=Precision.FP32, batch=BATCHES, source="random", checks=Checks(layers=True)
    )
    assert result.passed, result.failure()
    assert [entry.layer for entry in result.layers] == [0, 1, 2]
    for entry in result.layers:  # the file tells what each block gives, whatever its kind
        assert entry.values is not None, entry
        assert entry.values.within(result.tolerance), entry
    assert result.batches == (1, 2, 3, 7)
    assert result.decisions.compared > 0
    # Decisions of an unlucky seed may flip, and then only the replay above can compare. This seed has none.
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels[:7])).numpy()
    got = open_session(path).run({"input": pixels[:7]})["logits"]
    assert np.abs(got - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.e2e
@pytest.mark.parametrize(
    "name",
    sampled(
        FAMILIES,
        ("post-norm", "parallel", "diff-scaling", "eva", "eva-rope-mixed", "dinov3", "beit", "relpos-shared", "cait"),
    ),
)
def test_the_file_is_the_eager_model(name: str, tmp_path: Path) -> None:
    graph = canonical(name)
    counts = census(graph)
    placed = ["positions"] if FAMILIES[name].placed else []
    assert companions(graph) == [["sizes", *placed], ["sizes", *placed], ["sizes"]]  # no positions after the last
    assert not {"Resize", "If", "Loop"} & counts.keys()
    for target in [Target.PORTABLE] + [Target.ONNXRUNTIME] * (name in FOR_ONNXRUNTIME):
        check(name, canonical(name), tmp_path, target)
