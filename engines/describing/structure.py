"""Structure of an engine, part by part: layers, kernels, multiply-accumulates and bytes; and their types.

The parser's network gives the arithmetic and type of every layer, the builder's log the resulting kernels. Both name
their ONNX nodes, which determine the part of the model (`engines.stages`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from tofu_export.engines.describing.kernel_log import KernelLog
from tofu_export.engines.describing.stages import Kind, Place, places
from tofu_export.system.typed_json import JsonObject, to_object

__all__ = ["NodeCost", "Part", "Structure", "make_structure", "shares"]


@dataclass(frozen=True)
class NodeCost:
    """Cost of one ONNX node in the network, for a batch of one.

    Attributes:
        node: name of the ONNX node.
        layers: layers that the parser made of it.
        macs: multiply-accumulates of its products and convolutions.
        dtype: result type of those; empty if it has none.
        weight_bytes: bytes of the constants that those read.
        output_bytes: bytes of the outputs of its layers.
    """

    node: str
    layers: int
    macs: int
    dtype: str
    weight_bytes: int
    output_bytes: int


@dataclass
class Part:
    """Part of the model (`engines.stages.Kind`): sums over its nodes, in the units of `NodeCost`."""

    layers: int = 0
    kernels: int = 0
    macs: int = 0
    weight_bytes: int = 0
    output_bytes: int = 0


@dataclass(frozen=True)
class Structure:
    """Parts of an engine.

    Attributes:
        parts: parts that occur, by kind (`attention`, `matching`, …), in the order of tables.
        macs: multiply-accumulates by type.
        heavy_layers: number of layers with multiply-accumulates, by type.
    """

    parts: Mapping[str, Part] = field(default_factory=dict)
    macs: Mapping[str, int] = field(default_factory=dict)
    heavy_layers: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> Part:
        """Sum of all parts."""
        whole = Part()
        for part in self.parts.values():
            for name, value in vars(part).items():
                setattr(whole, name, getattr(whole, name) + value)
        return whole

    def to_dict(self) -> JsonObject:
        """Return the structure as plain values."""
        return to_object(
            {
                "counted_for": "a batch of one; other open axes count as one",
                "macs": self.macs,
                "mac_share": shares(self.macs),
                "compute_layers": self.heavy_layers,
                "compute_layer_share": shares(self.heavy_layers),
                "parts": self.parts,
            }
        )


def make_structure(graph: onnx.GraphProto, costs: Iterable[NodeCost], kernels: KernelLog) -> Structure:
    """Sort layers and kernels by part of the model; a kernel belongs to the part of most of its nodes."""
    known = {node.name: place for node, place in zip(graph.node, places(graph), strict=True)}
    parts: defaultdict[Kind, Part] = defaultdict(Part)
    macs: Counter[str] = Counter()
    heavy: Counter[str] = Counter()
    for cost in costs:
        part = parts[_kind(known, [cost.node])]
        part.layers += cost.layers
        part.macs += cost.macs
        part.weight_bytes += cost.weight_bytes
        part.output_bytes += cost.output_bytes
        if cost.macs:
            macs[cost.dtype] += cost.macs
            heavy[cost.dtype] += 1
    for record in kernels.launched:
        parts[_kind(known, record.onnx_nodes)].kernels += 1
    ordered = {kind.value: parts[kind] for kind in Kind if kind in parts}
    return Structure(ordered, dict(macs.most_common()), dict(heavy.most_common()))


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Return each count as a share of the total, rounded to four places; empty if the total is zero."""
    total = sum(counts.values())
    return {name: round(count / total, 4) for name, count in counts.items()} if total else {}


def _kind(known: Mapping[str, Place], nodes: Sequence[str]) -> Kind:
    kinds = Counter(known[node].kind for node in nodes if node in known)
    return kinds.most_common(1)[0][0] if kinds else Kind.OTHER
