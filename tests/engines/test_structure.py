from __future__ import annotations

import pytest

from tests.engines import models
from tofu_export.engines.describing.kernel_log import KernelLog, KernelRecord
from tofu_export.engines.describing.structure import NodeCost, make_structure, shares


def kernel(*nodes: str, layer_type: str = "kgen") -> KernelRecord:
    return KernelRecord("k", layer_type, "", nodes, (), ())


def test_sums_by_part_and_type():
    costs = [
        NodeCost("/blocks.0/mlp/MatMul", 2, 100, "fp16", 64, 8),
        NodeCost("/blocks.1/mlp/MatMul", 1, 300, "fp32", 32, 8),
        NodeCost("/blocks.1/Add", 1, 0, "", 0, 4),
        NodeCost("", 7, 0, "", 0, 2),
    ]
    kernels = KernelLog((kernel("/blocks.0/mlp/MatMul", "/blocks.1/Add", "/blocks.1/mlp/MatMul"), kernel("nobody"),
                         kernel("/blocks.1/Add", layer_type="shape_call")))  # fmt: skip
    structure = make_structure(models.block().graph, costs, kernels)
    assert structure.macs == {"fp32": 300, "fp16": 100}
    assert structure.heavy_layers == {"fp16": 1, "fp32": 1}
    assert list(structure.parts) == ["mlp", "residual", "other"]
    assert vars(structure.parts["mlp"]) == {
        "layers": 3, "kernels": 1, "macs": 400, "weight_bytes": 96, "output_bytes": 16,
    }  # fmt: skip
    assert (structure.parts["other"].layers, structure.parts["other"].kernels) == (7, 1)
    assert vars(structure.total) == {
        "layers": 11, "kernels": 2, "macs": 400, "weight_bytes": 96, "output_bytes": 22,
    }  # fmt: skip
    document = structure.to_dict()
    assert document["mac_share"] == {"fp32": 0.75, "fp16": 0.25}
    assert document["parts"]["residual"]["layers"] == 1


@pytest.mark.parametrize(
    ("counts", "expected"), [({}, {}), ({"a": 0}, {}), ({"a": 1, "b": 2}, {"a": 0.3333, "b": 0.6667})]
)
def test_shares(counts, expected):
    assert shares(counts) == expected
