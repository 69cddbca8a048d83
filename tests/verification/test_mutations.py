"""Files that are wrong in the ways that exporters and rewriters go wrong: each is caught, its right twin passes.

Every mutation is made in a lowered file, and compared with the eager model and with the right file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from tests import exported, tiny
from tests.cli.running import run
from tests.verification.edits import Array, change, corrupted_weight, node, not_normalised, shifted_kept, write
from tofu_export.compare.outputs import TOLERANCES
from tofu_export.options import Precision, Reduction
from tofu_export.verification.eager import verify
from tofu_export.verification.pair import verify_pair
from tofu_export.verification.result import VerificationResult

Mutation = Callable[[onnx.ModelProto], None]

MERGING = Reduction(r=(3, 2, 4), pattern="MPA")
"""Merges by norm where everything behind it sees it."""
BATCHES = (3,)
HEAD = 24 // tiny.HEADS


def swapped_blocks(proto: onnx.ModelProto) -> None:
    """Blocks 0 and 1 take each other's weights."""
    real = [tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    shapes = {tensor.name: list(tensor.dims) for tensor in real}  # not what says where tokens are
    nodes = {entry.name: entry for entry in proto.graph.node}
    for name, first in nodes.items():
        second = nodes.get(name.replace("blocks.0.", "blocks.1.", 1))
        if name.startswith("blocks.0.") and second is not None:
            for index, (one, other) in enumerate(zip(first.input, second.input, strict=True)):
                if one in shapes and shapes.get(other) == shapes[one]:
                    first.input[index], second.input[index] = other, one


def mean_for_mlerp(proto: onnx.ModelProto) -> None:
    mlerp = node(proto, "blocks.0/fuse/merge/mlerp")
    mlerp.CopyFrom(helper.make_node("Identity", ["blocks.0/fuse/merge/mean"], mlerp.output, name=mlerp.name))


def own_norm_left_out(proto: onnx.ModelProto) -> None:
    """The longest of the group without the destination itself, as some public codes have it."""
    longest = node(proto, "blocks.0/fuse/merge/longest")
    longest.CopyFrom(helper.make_node("Identity", [longest.input[1]], longest.output, name=longest.name))


def dropped_layer_scale(proto: onnx.ModelProto) -> None:
    scale = node(proto, "blocks.1.ls2/Mul")
    scale.CopyFrom(helper.make_node("Identity", scale.input[:1], scale.output, name=scale.name))


def epsilon(value: float) -> Mutation:
    def mutate(proto: onnx.ModelProto) -> None:
        for entry in proto.graph.node:
            for attribute in entry.attribute:
                if attribute.name == "epsilon":
                    attribute.f = value

    return mutate


def duplicate_kept(*, stated: bool) -> Mutation:
    """The first kept source twice, in place of the last; `stated`: also where the file says what it decided."""

    def mutate(proto: onnx.ModelProto) -> None:
        name = "blocks.0/fuse/match/kept"
        if stated:
            made = node(proto, "blocks.0/fuse/match/kept/sorted")
            made.output[list(made.output).index(name)] = "unique"
            source, twice = "unique", name
        else:
            source, twice = name, "twice"
            for entry in proto.graph.node:
                if entry.name.startswith("blocks.0/fuse/tokens"):
                    entry.input[:] = [twice if value == name else value for value in entry.input]
        bounds = [numpy_helper.from_array(np.array([at]), f"twice/{at}") for at in (-1, 0, 1)]
        proto.graph.initializer.extend(bounds)
        first = helper.make_node("Slice", [source, "twice/0", "twice/1", "twice/1"], ["twice/first"], name="first")
        others = helper.make_node("Slice", [source, "twice/0", "twice/-1", "twice/1"], ["twice/others"], name="others")
        both = helper.make_node("Concat", ["twice/first", "twice/others"], [twice], name="both", axis=1)
        producer = next(i for i, entry in enumerate(proto.graph.node) if source in entry.output)
        for offset, entry in enumerate((first, others, both)):
            proto.graph.node.insert(producer + 1 + offset, entry)

    return mutate


def heads_interleaved(proto: onnx.ModelProto) -> None:
    """The heads are put side by side in the wrong order: [D, H] in place of [H, D]."""

    def edit(value: Array) -> Array:
        return value.reshape(tiny.HEADS, HEAD, -1).transpose(1, 0, 2).reshape(value.shape)

    change(proto, "blocks.0.attn.proj/MatMul", 1, edit)


def wrong_scale(proto: onnx.ModelProto) -> None:
    """Attention scores divided by the square root of the width, not of a head's."""
    change(proto, "blocks.1.attn/BiasedAttention/queries", 1, lambda value: value * np.float32(tiny.HEADS**-0.5))


def sizes_left_out(proto: onnx.ModelProto) -> None:
    """Attention as if every token stood for one patch."""
    biased = node(proto, "blocks.1.attn/BiasedAttention/biased")
    biased.CopyFrom(helper.make_node("Identity", biased.input[:1], biased.output, name=biased.name))


def lost_sizes(proto: onnx.ModelProto) -> None:
    """The pruning layer forgets what its destinations stand for from then on."""
    sizes = node(proto, "blocks.1/fuse/merge/sizes")
    sizes.CopyFrom(helper.make_node("Identity", sizes.input[:1], sizes.output, name=sizes.name))


def no_residual(proto: onnx.ModelProto) -> None:
    total = node(proto, "blocks.0/Add_1")
    total.CopyFrom(helper.make_node("Identity", total.input[1:], total.output, name=total.name))


def overflow(proto: onnx.ModelProto) -> None:
    """Activations beyond 65,504, which is infinity in half precision and nothing unusual in single."""
    change(proto, "blocks.1.mlp.fc1/Add", 1, lambda value: np.full_like(value, 6e4))


@cache
def lowered(name: str, precision: Precision) -> bytes:
    return bytes(ir.to_proto(tiny.lowered(name, MERGING, precision=precision)).SerializeToString())


def files(folder: Path, name: str, mutation: Mutation, precision: Precision = Precision.FP32) -> tuple[Path, Path]:
    """The right file, and the same with `mutation`."""
    proto = onnx.ModelProto.FromString(lowered(name, precision))
    right = write(folder, proto, "right.onnx")
    mutation(proto)
    assert proto.SerializeToString() != right.read_bytes()
    return right, write(folder, proto, "wrong.onnx")


def against_model(path: Path, name: str, precision: Precision = Precision.FP32) -> VerificationResult:
    model = tiny.reduced(name, MERGING)
    return verify(path, model, tiny.pixels(4), precision=precision, batch=BATCHES, source="noise")


def against_file(path: Path, reference: Path, precision: Precision = Precision.FP32) -> VerificationResult:
    tolerance = TOLERANCES[precision]
    return verify_pair(path, reference, tiny.pixels(4), tolerance=tolerance, batches=BATCHES, source="noise")


MUTATIONS: dict[str, tuple[str, Mutation]] = {
    "corrupted weight": ("cls", corrupted_weight),
    "swapped blocks": ("cls", swapped_blocks),
    "off-by-one gather": ("cls", shifted_kept),
    "mean instead of mlerp": ("cls", mean_for_mlerp),
    "mlerp without the destination's own norm": ("cls", own_norm_left_out),
    "dropped LayerScale": ("registers", dropped_layer_scale),
    "wrong epsilon": ("cls", epsilon(1e-3)),
    "similarity not normalised": ("cls", not_normalised),
    "duplicated kept index": ("cls", duplicate_kept(stated=True)),
    "duplicated kept index, where nobody says it": ("cls", duplicate_kept(stated=False)),
    "heads in another order": ("cls", heads_interleaved),
    "wrong attention scale": ("cls", wrong_scale),
    "no residual": ("cls", no_residual),
    "token sizes left out of the attention": ("cls", sizes_left_out),
    "sizes of pruned tokens lost": ("cls", lost_sizes),
}


@pytest.mark.e2e
@pytest.mark.parametrize(("name", "mutation"), MUTATIONS.values(), ids=MUTATIONS)
def test_a_wrong_file_is_caught(name: str, mutation: Mutation, tmp_path: Path) -> None:
    right, wrong = files(tmp_path, name, mutation)
    assert not against_model(wrong, name).passed
    assert not against_file(wrong, right).passed


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["cls", "registers"])
def test_their_right_twins_pass(name: str, tmp_path: Path) -> None:
    right = write(tmp_path, onnx.ModelProto.FromString(lowered(name, Precision.FP32)), "right.onnx")
    assert {name for name, _ in MUTATIONS.values()} == {"cls", "registers"}
    assert against_model(right, name).passed
    assert against_file(right, right).passed


@pytest.mark.e2e
def test_infinity_in_half_precision_is_caught(tmp_path: Path) -> None:
    """With the same numbers the file in single precision is merely wrong."""
    right, wrong = files(tmp_path, "cls", overflow, Precision.FP16)
    assert against_model(right, "cls", Precision.FP16).passed
    for result in (against_model(wrong, "cls", Precision.FP16), against_file(wrong, right, Precision.FP16)):
        assert not result.passed
        assert not result.outputs.finite
        assert "NaN or infinity" in str(result.failure())
    (tmp_path / "single").mkdir()
    result = against_model(files(tmp_path / "single", "cls", overflow)[1], "cls")
    assert result.outputs.finite
    assert not result.passed


@pytest.mark.e2e
def test_the_epsilon_of_another_library_is_caught(tmp_path: Path) -> None:
    """timm's 1e-6 against the 1e-5 of PyTorch's default: it shows where tokens are small, as those of new weights."""
    wrong = exported.changed(tmp_path / "wrong.onnx", edit=epsilon(1e-5))
    assert run("verify", str(exported.folder() / "model.fp32.onnx"), "--batch", "1,2", "-q") == 0
    assert run("verify", str(wrong), "--batch", "1,2", "-q") == 4
