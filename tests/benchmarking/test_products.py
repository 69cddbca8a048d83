"""The products of a file: found with the right sizes, and the file that makes only them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests import tiny
from tests.engines import models
from tofu_export.benchmarking.benchmark import Rules
from tofu_export.benchmarking.products import Alone, measure_alone, products_of, write_products
from tofu_export.errors import OptionError
from tofu_export.graph_patterns.lowering import MACS
from tofu_export.options import Reduction, Target
from tofu_export.system.ort import open_session
from tofu_export.trace.export import INPUT_NAME, save

BATCH = 3


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray], int]:
    """A small reduced model, its input, and the multiply-accumulates for one image by the canonical graph's count."""
    graph = tiny.lowered("cls", Reduction(r=2), Target.ONNXRUNTIME)
    path = tmp_path / "model.onnx"
    save(graph, path, {})
    pixels = np.random.default_rng(0).standard_normal((BATCH, 3, tiny.SIDE, tiny.SIDE), dtype=np.float32)
    return path, {INPUT_NAME: pixels}, graph.meta[MACS]


@pytest.mark.e2e
def test_the_products_are_the_multiply_accumulates_of_the_graph_and_those_of_matching(
    exported: tuple[Path, dict[str, np.ndarray], int],
) -> None:
    path, feeds, macs = exported
    products = products_of(path, feeds)
    reduction = sum(product.macs for product in products if "/fuse/" in product.node.name)
    assert reduction > 0
    assert sum(product.macs for product in products) - reduction == BATCH * macs


def test_the_file_makes_each_product_and_nothing_else(
    exported: tuple[Path, dict[str, np.ndarray], int], tmp_path: Path
) -> None:
    path, feeds, _ = exported
    products = products_of(path, feeds)
    written = tmp_path / "products.onnx"
    inputs = write_products(products, written)
    kinds = [node.op_type for node in onnx.load(written).graph.node]
    assert [kind for kind in kinds if kind not in ("Slice", "Reshape", "Concat")] == [
        product.node.op_type for product in products
    ]
    again = products_of(written, inputs)
    assert [(product.left, product.right, product.output) for product in again] == [
        (product.left, product.right, product.output) for product in products
    ]
    (numbers,) = open_session(written).run(inputs).values()
    assert numbers.shape == (len(products),)
    assert np.isfinite(numbers).all() and len(set(numbers.tolist())) > len(products) // 2


def test_gemm_counts_its_transposed_factor(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((5, 7), dtype=np.float32), "w")
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="head/Gemm", transB=1)
    proto = models.model([node], [models.value("x", [2, 7])], [models.value("y", [2, 5])], [weight])
    (product,) = products_of(models.save(proto, tmp_path), {"x": np.ones((2, 7), dtype=np.float32)})
    assert (product.weight, product.macs) == (True, 2 * 5 * 7)


def test_a_convolution_counts_its_window(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 3, 2, 2), dtype=np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="patch_embed/Conv", strides=[2, 2])
    proto = models.model([node], [models.value("x", [1, 3, 8, 8])], [models.value("y", [1, 4, 4, 4])], [weight])
    (product,) = products_of(models.save(proto, tmp_path), {"x": np.ones((1, 3, 8, 8), dtype=np.float32)})
    assert product.macs == 4 * 4 * 4 * 3 * 2 * 2


def quantised() -> onnx.ModelProto:
    """A product in int8, which would be timed in float32."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w8", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.ones((4, 3), dtype=np.int8), "w8"),
        numpy_helper.from_array(np.float32(0.1), "s"),
    ]
    return models.model(nodes, [models.value("x", ["b", 4])], [models.value("y", ["b", 3])], constants)


@pytest.mark.parametrize(
    ("proto", "word"),
    [
        (models.attention("fp32"), "Attention"),
        (models.one_node("Relu", [models.value("x", [2])], models.value("y", [2])), "no matrix products"),
        (quantised(), "DequantizeLinear"),
    ],
)
def test_a_graph_that_multiplies_otherwise_is_refused(proto: onnx.ModelProto, word: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=word):
        products_of(models.save(proto, tmp_path), {})


def test_nothing_is_left_beside_the_file(exported: tuple[Path, dict[str, np.ndarray], int]) -> None:
    path, feeds, _ = exported
    products_of(path, feeds)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_what_the_products_take_is_a_share_of_the_file(
    exported: tuple[Path, dict[str, np.ndarray], int],
) -> None:
    path, feeds, _ = exported
    found = measure_alone(path, "tiny", feeds, BATCH, threads=1, rules=Rules(min_seconds=0.05))
    assert 0 < found.share_iqr[0] <= found.share <= found.share_iqr[1] < 1.5
    assert found.products == len(products_of(path, feeds))
    assert found.gmacs == pytest.approx(sum(product.macs for product in products_of(path, feeds)) / BATCH / 1e9)
    assert f"its {found.products} matrix products alone take" in str(found)


def test_what_is_left_to_gain_in_words() -> None:
    text = str(Alone("a.onnx", 8, 85, 8.74, 0.8, (0.79, 0.81)))
    assert "take 80.0% of its time (IQR 79.0%-81.0%)" in text
    assert text.endswith("more than 1.25x as fast")
