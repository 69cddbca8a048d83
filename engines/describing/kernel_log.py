"""Read the kernels of an engine from the builder's log, which needs no GPU.

With `ProfilingVerbosity.DETAILED` and a logger that keeps VERBOSE messages, the builder prints one line per kernel.
This is log text of an undocumented form (read here as TensorRT-RTX 1.7.1 writes it), so reading it is best effort:
what cannot be read is counted, never an error. Remove when the engine inspector works without a driver.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tofu_export.report.artifacts import KernelSummary

__all__ = ["NO_STAGE", "KernelLog", "KernelRecord", "parse_kernel_log", "stage_of"]

NO_STAGE = "(none)"
"""Stage of kernels without ONNX nodes, or whose nodes carry no path in their names."""

HOST_TYPES = frozenset({"shape_call"})
"""Records that compute shapes on the host and launch nothing."""

_DTYPES = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16"}
_FIELDS = ("LayerType", "Inputs", "Constants", "Outputs", "TacticName", "StreamId", "Metadata")
_SPLIT = re.compile(rf", ({'|'.join(_FIELDS)}): ")
_DTYPE = re.compile(r"Datatype: (\w+)")
_ONNX = re.compile(r"\[ONNX Layer: (.*?)\](?=[\s\x1e\x1f]*(?:\[ONNX Layer: |$))")
_MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")


@dataclass(frozen=True)
class KernelRecord:
    """Kernel of an engine.

    Attributes:
        name: name that the compiler gave it.
        layer_type: `kgen`, `gemm`, `runtime_fusion`, `correlation`, `shape_call`, …
        tactic: implementation that was chosen; empty when none is printed.
        onnx_nodes: names of the ONNX nodes that it computes (in part).
        input_dtypes: data types of its inputs, without constants.
        output_dtypes: data types of its outputs.
    """

    name: str
    layer_type: str
    tactic: str
    onnx_nodes: tuple[str, ...]
    input_dtypes: tuple[str, ...]
    output_dtypes: tuple[str, ...]

    @property
    def stage(self) -> str:
        """Stage that most of its ONNX nodes belong to, the first one named on a tie."""
        stages = Counter(stage_of(node) for node in self.onnx_nodes)
        return stages.most_common(1)[0][0] if stages else NO_STAGE


@dataclass(frozen=True)
class KernelLog:
    """Kernels of one engine.

    Attributes:
        records: kernels and host-side shape calls in the order of execution.
        unparsed: lines of the kernel list that could not be read.
        activation_bytes: memory for activations at the largest batch of the profile; None when not printed.
        weight_bytes: memory for weights; None when not printed.
    """

    records: tuple[KernelRecord, ...] = ()
    unparsed: int = 0
    activation_bytes: int | None = None
    weight_bytes: int | None = None

    @property
    def launched(self) -> tuple[KernelRecord, ...]:
        """Records that run on the GPU."""
        return tuple(record for record in self.records if record.layer_type not in HOST_TYPES)

    def summary(self) -> KernelSummary:
        """Return counts for reports: kernels in total, by type, by ONNX stage, and their share per output data type."""
        launched = self.launched
        dtypes = Counter(record.output_dtypes[0] for record in launched if record.output_dtypes)
        typed = sum(dtypes.values())
        return KernelSummary(
            kernels=len(launched),
            host_calls=len(self.records) - len(launched),
            by_type=dict(Counter(record.layer_type for record in launched).most_common()),
            by_stage=Counter(record.stage for record in launched),
            output_dtype_share={name: round(count / typed, 4) for name, count in dtypes.most_common()},
            unparsed_lines=self.unparsed,
            activation_bytes=self.activation_bytes,
            weight_bytes=self.weight_bytes,
        )


def parse_kernel_log(messages: Iterable[str]) -> KernelLog:
    """Read the kernels and memory figures from the builder's messages; the result is empty if there are none."""
    records: list[KernelRecord] = []
    unparsed = 0
    memory: dict[str, int] = {}
    for message in messages:
        memory |= {kind: int(size) for kind, size in _MEMORY.findall(message)}
        if not message.startswith("Layers:"):
            continue
        for line in message.splitlines()[1:]:
            if not line.strip():  # the tensors and metadata of the engine follow
                break
            record = _parse_line(line)
            if record is None:
                unparsed += 1
            else:
                records.append(record)
    return KernelLog(tuple(records), unparsed, memory.get("Activation"), memory.get("Weights"))


def stage_of(node: str) -> str:
    """Return the part of the model that an ONNX node belongs to: what precedes the second slash of its name.

    `/blocks.3/mlp/fc1/MatMul` gives `/blocks.3`, `head/MatMul` gives `head`, `MatMul_7` gives `NO_STAGE`.
    """
    first, *rest = node.split("/")
    if not rest or (not first and len(rest) == 1):
        return NO_STAGE
    return f"{first}/{rest[0]}" if len(rest) > 1 else first


def _parse_line(line: str) -> KernelRecord | None:
    head, *pairs = _SPLIT.split(line)
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    if not head.startswith("Name: ") or not {"LayerType", "Inputs", "Outputs"} <= fields.keys():
        return None
    return KernelRecord(
        name=head.removeprefix("Name: "),
        layer_type=fields["LayerType"],
        tactic=fields.get("TacticName", ""),
        onnx_nodes=tuple(_ONNX.findall(fields.get("Metadata", ""))),
        input_dtypes=_dtypes(fields["Inputs"]),
        output_dtypes=_dtypes(fields["Outputs"]),
    )


def _dtypes(text: str) -> tuple[str, ...]:
    return tuple(_DTYPES.get(name, name.lower()) for name in _DTYPE.findall(text))
