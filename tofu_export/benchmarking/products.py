"""Time the matrix products of a file by themselves: the least time that its arithmetic can take in a runtime.

Everything else in a graph (norms, softmax, layout, the reduction of tokens) is what export can save. A second file
shows its share: it makes the same products of the same sizes, each with its own weights (so that they come from memory
as in the model), and nothing else.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tofu_export.benchmarking.backends import open_contender
from tofu_export.benchmarking.benchmark import DEFAULT_RULES, Contender, Feeds, Rules, run_benchmark
from tofu_export.engines.building.preflight import read_graph_file
from tofu_export.errors import OptionError, OutputError
from tofu_export.system.ort import open_copy

__all__ = ["PRODUCTS", "Alone", "Product", "measure_alone", "products_of", "write_products"]

PRODUCTS = ("MatMul", "Gemm", "Conv")
"""Operators that are products. Files with other operators that multiply matrices are refused."""

_OTHER_PRODUCTS = frozenset(
    {
        "Attention", "ConvInteger", "ConvTranspose", "DequantizeLinear", "Einsum", "MatMulInteger", "QLinearConv",
        "QLinearMatMul",
    }
)  # fmt: skip
_ALONE = "(its products alone)"
_MAX_BYTES = 1_900_000_000
"""Largest size of weights in one protobuf file."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Product:
    """Product of a graph at one batch size.

    Attributes:
        node: the node, with its attributes.
        left: shape of the first factor, an activation.
        right: shape of the second factor.
        weight: the second factor is a constant.
        output: shape of the result.
    """

    node: onnx.NodeProto
    left: tuple[int, ...]
    right: tuple[int, ...]
    weight: bool
    output: tuple[int, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for the whole batch."""
        if self.node.op_type == "Conv":
            return math.prod(self.output) * math.prod(self.right[1:])
        attributes = {entry.name: entry.i for entry in self.node.attribute}
        inner = self.left[0 if attributes.get("transA") else -1]
        return math.prod(self.output) * inner


@dataclass(frozen=True)
class Alone:
    """Time of a file's products by themselves, relative to the file.

    Attributes:
        artifact: name of the file.
        batch: images per query.
        products: number of products.
        gmacs: their multiply-accumulates for one image, in 10^9, those of the reduction included.
        share: share of the file's time that they take, median over the rounds.
        share_iqr: first and third quartile of that share.
    """

    artifact: str
    batch: int
    products: int
    gmacs: float
    share: float
    share_iqr: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.share_iqr
        return (
            f"{self.artifact} at batch {self.batch}: its {self.products} matrix products alone take {self.share:.1%} "
            f"of its time (IQR {low:.1%}-{high:.1%}), so that nothing done to the rest makes it more than "
            f"{1 / self.share:.2f}x as fast"
        )


def measure_alone(
    path: Path,
    name: str,
    feeds: Feeds,
    batch: int,
    *,
    threads: int | None = None,
    rules: Rules = DEFAULT_RULES,
) -> Alone:
    """Time the products of a file against the file, alternately, in onnxruntime on the CPU.

    Args:
        path: the file.
        name: name in the result.
        feeds: its inputs, in the types that it needs.
        batch: images per query.
        threads: threads inside an operator; None for the default.
        rules: when warming up and measuring end.

    Raises:
        OptionError: as in `products_of` and `write_products`.
        EngineBuildError: the file is not an ONNX file.
        ExportError: onnxruntime cannot run it.
    """
    products = products_of(path, feeds)
    with tempfile.TemporaryDirectory(prefix="tofu-export-products-") as folder:
        alone = Path(folder, "products.onnx")
        inputs = {name: feeds, _ALONE: write_products(products, alone)}
        _, row = run_benchmark(
            [Contender(_ALONE, alone), Contender(name, path)],
            batches=(batch,),
            make_feeds={who: lambda _, own=own: own for who, own in inputs.items()},  # type: ignore[misc]
            open_runner=open_contender,
            rules=rules,
            threads=threads,
            baseline=_ALONE,
        )
    assert row.speedup_vs_full is not None and row.speedup_iqr is not None  # the products are the baseline
    macs = sum(product.macs for product in products)
    return Alone(name, batch, len(products), macs / batch / 1e9, row.speedup_vs_full, row.speedup_iqr)


def products_of(path: Path, feeds: Mapping[str, Array]) -> tuple[Product, ...]:
    """Return the products of a file, with their shapes for `feeds`, found by running it once.

    Raises:
        OptionError: the file has none, or multiplies matrices by other operators than `PRODUCTS`.
        EngineBuildError: the file is not an ONNX file.
        ExportError: onnxruntime cannot run it.
    """
    model = read_graph_file(path)
    other = sorted({node.op_type for node in model.graph.node} & _OTHER_PRODUCTS)
    nodes = [node for node in model.graph.node if node.op_type in PRODUCTS and node.domain in ("", "ai.onnx")]
    if other or not nodes:
        raise OptionError(
            f"{path} has {', '.join(other) or 'no matrix products'}: what its products alone would take is known only "
            f"for graphs of {', '.join(PRODUCTS)}"
        )
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    shapes = _shapes(model, path, {name for node in nodes for name in (*node.input[:2], node.output[0])}, feeds)
    return tuple(
        Product(
            node,
            shapes[node.input[0]],
            shapes[node.input[1]],
            node.input[1] in constants,
            shapes[node.output[0]],
        )
        for node in nodes
    )


def write_products(products: tuple[Product, ...], path: Path) -> dict[str, Array]:
    """Write a float32 file that computes only these products; return its feeds.

    Each activation factor is an input, shared by all factors of that shape. One number of each result is an output, so
    that no product can be optimised away.

    Raises:
        OptionError: the weights do not fit one file.
        OutputError: the file cannot be written.
    """
    weights = sum(math.prod(product.right) for product in products if product.weight)
    if weights * 4 > _MAX_BYTES:
        raise OptionError(f"{weights * 4 / 1e9:.1f} GB of weights do not fit the one file that this writes")
    random = np.random.default_rng(0)
    feeds: dict[str, Array] = {}

    def activation(shape: tuple[int, ...]) -> str:
        name = f"x_{'_'.join(map(str, shape))}"
        if name not in feeds:
            feeds[name] = random.standard_normal(shape, dtype=np.float32)
        return name

    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    for index, product in enumerate(products):
        left = activation(product.left)
        if product.weight:
            right = f"w_{index}"
            tensors.append(numpy_helper.from_array(random.standard_normal(product.right, dtype=np.float32), right))
        else:
            right = activation(product.right)
        result = f"y_{index}"
        nodes.append(helper.make_node(product.node.op_type, [left, right], [result], name=product.node.name))
        nodes[-1].attribute.extend(product.node.attribute)
        rank = len(product.output)
        tensors += [
            numpy_helper.from_array(np.full(rank, value, dtype=np.int64), f"{result}/{name}")
            for name, value in (("start", 0), ("stop", 1))
        ]
        tensors.append(numpy_helper.from_array(np.array([1], dtype=np.int64), f"{result}/shape"))
        nodes.append(helper.make_node("Slice", [result, f"{result}/start", f"{result}/stop"], [f"{result}/one"]))
        nodes.append(helper.make_node("Reshape", [f"{result}/one", f"{result}/shape"], [f"{result}/number"]))
    numbers = [f"y_{index}/number" for index in range(len(products))]
    nodes.append(helper.make_node("Concat", numbers, ["numbers"], axis=0))
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, feed.shape) for name, feed in feeds.items()],
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [len(products)])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    try:
        onnx.save(model, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}") from error
    return feeds


def _shapes(
    model: onnx.ModelProto, path: Path, names: set[str], feeds: Mapping[str, Array]
) -> dict[str, tuple[int, ...]]:
    """Return shapes of values of a model, from one run with these values as the only outputs."""
    constant = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    asked = sorted(names - constant.keys())
    for number, name in enumerate(asked):
        model.graph.node.append(helper.make_node("Shape", [name], [f"shape_{number}"]))
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(f"shape_{number}", TensorProto.INT64, None) for number in range(len(asked))
    )
    found = open_copy(model, path).run(feeds)
    run = {name: tuple(int(size) for size in found[f"shape_{number}"]) for number, name in enumerate(asked)}
    return {**constant, **run}
