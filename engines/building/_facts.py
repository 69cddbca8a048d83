"""Facts about a build that the build worker hands to its parent, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tofu_export.engines.describing.kernel_log import KernelLog
from tofu_export.engines.describing.structure import NodeCost
from tofu_export.options import Precision

__all__ = ["BuildFacts"]


@dataclass(frozen=True)
class BuildFacts:
    """Facts about a build that only its process knows.

    Attributes:
        version: version of TensorRT.
        precision: precision of the network.
        layers: for each network layer type, the number of layer outputs of each data type.
        costs: cost of each ONNX node.
        decomposable_attention: names of the attention layers that may run as several kernels.
        kernels: the compiled kernels, as far as log or inspector tell.
        build_seconds: time in the builder.
    """

    version: str
    precision: Precision
    layers: Mapping[str, Mapping[str, int]]
    costs: tuple[NodeCost, ...]
    decomposable_attention: tuple[str, ...]
    kernels: KernelLog
    build_seconds: float
