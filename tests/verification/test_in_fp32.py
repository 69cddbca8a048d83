"""FP16 files compared once more in FP32: what the tolerance of half precision lets pass is seen there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tests import exported
from tofu_export.verification import VerifyRequest, verify_file
from tofu_export.verification.in_fp32 import IN_FP32, compare_in_fp32


def test_a_small_shift_of_the_logits_is_seen_and_weights_come_back(tmp_path: Path) -> None:
    source = exported.folder() / "model.fp16.onnx"
    right = verify_file(VerifyRequest(source, batches=(2,)))
    assert right.passed
    assert right.in_fp32 is not None
    assert right.in_fp32.outputs.max_abs < 0.2 * IN_FP32.allowed(right.in_fp32.outputs.scale)
    proto = onnx.load(source)
    output = proto.graph.output[0].name
    last = next(node for node in proto.graph.node if output in node.output)
    last.output[0] = "before"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(5e-3, np.float32), "shift"))
    proto.graph.node.append(onnx.helper.make_node("Add", ["before", "shift"], [output], name="head/Shift"))
    onnx.save(proto, tmp_path / "model.fp16.onnx")
    wrong = verify_file(VerifyRequest(tmp_path / "model.fp16.onnx", batches=(2,)))
    assert wrong.outputs.within(wrong.tolerance)
    assert not wrong.passed
    assert "computed in FP32, where rounding hides nothing" in str(wrong.failure())


def test_weights_are_rounded_meanwhile_and_as_they_were_afterwards(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    seen: list[torch.Tensor] = []

    class StopError(Exception):
        pass

    def compare(path: Path, allowed: object) -> None:
        seen.append(model.weight.detach().clone())
        raise StopError

    with pytest.raises(StopError):
        compare_in_fp32(exported.folder() / "model.fp16.onnx", model, compare)  # type: ignore[arg-type]
    assert torch.equal(seen[0], before.half().float())
    assert torch.equal(model.weight, before)
