"""Use an ONNX file as a source of token maps.

The decisions are named values (`graph_patterns.canonical`), which a copy of the file outputs. A file exported with
`--token-map` also has the final row of each patch as an output, which must agree with the decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from tofu_export.artifact.card import ModelCard
from tofu_export.artifact.onnx_file import load_without_weights
from tofu_export.benchmarking.options import CPU
from tofu_export.compare.decisions import Decisions
from tofu_export.compare.groups import GroupState, follow_layers, from_patches
from tofu_export.errors import VerificationError
from tofu_export.graph_patterns.canonical import DECISIONS, decision_name
from tofu_export.options import PATCH_GROUPS
from tofu_export.system.ort import open_copy
from tofu_export.tokens.source import Array, TokenRun, TokenSource, in_batches

__all__ = ["TokenFile"]


class TokenFile(TokenSource):
    """An ONNX file of this project."""

    @classmethod
    def read(cls, path: Path) -> TokenFile:
        """Read the metadata of a file.

        Raises:
            OptionError: the file does not exist, does not state what it removes, or removes nothing.
            ExportError: the file is not a complete ONNX file.
        """
        model = load_without_weights(path)
        return cls.parsed(path, ModelCard.of_model(model, path.name), _size(model))

    def run(self, pixels: NDArray[np.float32]) -> TokenRun:
        """Run the file in onnxruntime on images [B, C, H, W], normalised, and follow its decisions.

        Raises:
            VerificationError: the file does not show its decisions, they are impossible, or an output contradicts
                them.
            TofuError: the file cannot be run.
        """
        model = load_without_weights(self.path)
        kinds, notes = self._decisions_in(model)
        if not kinds:
            raise VerificationError(f"{self.path.name} does not show its decisions: export it again")
        outputs = {value.name for value in model.graph.output}
        for name in (name for of_layer in kinds.values() for name in of_layer.values()):
            if name not in outputs:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
        seen = in_batches(open_copy(model, self.path), pixels)
        decided = {
            step.layer: Decisions.read(
                {kind: seen[name] for kind, name in kinds[step.layer].items()},
                len(pixels),
                len(step.roles(self.prefix).sources),
            )
            for step in self.steps
            if step.layer in kinds
        }
        start = np.tile(np.arange(self.tokens), (len(pixels), 1))
        states = follow_layers(start, self.steps, decided, self.prefix)
        if PATCH_GROUPS not in outputs:
            return TokenRun(tuple(states), notes, CPU)
        self._check_map(states, seen[PATCH_GROUPS])
        notes += (f"the last map is the file's own output {PATCH_GROUPS}; its decisions give the same",)
        return TokenRun(tuple(states), notes, CPU, PATCH_GROUPS)

    def _check_map(self, states: Sequence[GroupState], given: Array) -> None:
        """Check that the map in the file's output, [B, patches], equals the last one that its decisions give."""
        mapped = from_patches(given, self.prefix, self.steps[-1].tokens_out)
        if mapped is None or states[-1].step != self.steps[-1] or not np.array_equal(mapped, states[-1].groups):
            raise VerificationError(
                f"output {PATCH_GROUPS} of {self.path.name} is not what its decisions make: `tofu-export verify` looks "
                "closer"
            )

    def _decisions_in(self, model: onnx.ModelProto) -> tuple[dict[int, dict[str, str]], tuple[str, ...]]:
        """Return the names of the decisions by layer and kind, and a note if the last block has none."""
        produced = {name for node in model.graph.node for name in node.output}
        kinds: dict[int, dict[str, str]] = {}
        for step in self.steps:
            names = {kind: decision_name(step.layer, kind) for kind in DECISIONS}
            found = {kind: name for kind, name in names.items() if name in produced}
            if found or (step.method == "prune" and step.removed == len(step.roles(self.prefix).sources)):
                kinds[step.layer] = found  # where all sources are pruned nothing is left to decide
            elif step is not self.steps[-1]:
                raise VerificationError(
                    f"{self.path.name} does not show what layer {step.layer} decides (no value {names['kept']}): "
                    "export it again"
                )
        if kinds and self.steps[-1].layer not in kinds:
            return kinds, (
                f"the output does not depend on the reduction in block {self.steps[-1].layer}: the file has none, "
                f"so the map ends after block {max(kinds)}",
            )
        return kinds, ()


def _size(model: onnx.ModelProto) -> tuple[int | None, ...]:
    """Return channels, height and width of the images that a model takes, None if open; () for other inputs."""
    shapes = [[size.dim_value or None for size in value.type.tensor_type.shape.dim] for value in model.graph.input]
    return tuple(shapes[0][1:]) if len(shapes) == 1 and len(shapes[0]) == 4 else ()
