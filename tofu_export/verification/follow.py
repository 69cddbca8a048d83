"""Make a file follow the decisions of another file: run a copy whose decisions are inputs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tofu_export.artifact.onnx_file import load_without_weights
from tofu_export.compare.decisions import Decisions
from tofu_export.errors import VerificationError
from tofu_export.graph_patterns.canonical import DECISIONS
from tofu_export.system.ort import OrtSession, open_copy
from tofu_export.verification.block_ends import Candidates, block_ends
from tofu_export.verification.replay import DecisionNames, Judge
from tofu_export.verification.scores import FileScores, scores_in
from tofu_export.verification.watch import mark_as_outputs

__all__ = ["Follower", "Inside", "form"]

Array = NDArray[Any]

_DECISION = re.compile(rf"blocks\.(\d+)/fuse/match/({'|'.join(DECISIONS)})")
_OWN = "/own"
"""Suffix of the copy's own decisions, whose original names are inputs."""


@dataclass(frozen=True)
class Inside:
    """Values inside a file that a comparison needs.

    Attributes:
        path: the file.
        decisions: names of its decisions, by layer and kind.
        ends: values that may be the output of each block; empty if not asked for.
    """

    path: Path
    decisions: DecisionNames
    ends: Candidates

    @classmethod
    def find(cls, path: Path, *, layers: bool) -> Inside:
        """Find the values of a file by their names.

        Raises:
            ExportError: the file cannot be read.
        """
        graph = load_without_weights(path).graph
        names: dict[int, dict[str, str]] = defaultdict(dict)
        for node in graph.node:
            for name in node.output:
                if found := _DECISION.fullmatch(name):
                    names[int(found[1])][found[2]] = name
        return cls(path, dict(sorted(names.items())), block_ends(graph) if layers else {})

    def followable(self) -> Inside:
        """Return only the decisions that a `Follower` can judge: if all sources leave, none are ranked."""
        judged = scores_in(load_without_weights(self.path).graph, self.decisions)
        decisions = {
            layer: {kind: name for kind, name in self.decisions[layer].items() if kind in DECISIONS} for layer in judged
        }
        return replace(self, decisions=decisions)

    @property
    def names(self) -> list[str]:
        """Names of all of these values."""
        decisions = [name for kinds in self.decisions.values() for name in kinds.values()]
        return decisions + [name for names in self.ends.values() for name in names]


class Follower:
    """Reference file of a comparison: runs under given decisions, and judges them.

    Args:
        inside: values of the reference, with only the layers to follow.
    """

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._forced: OrtSession | None = None
        self._free: OrtSession | None = None
        self._scores: dict[int, FileScores] = {}
        self._sizes: dict[int, tuple[int, int]] | None = None

    def follow(
        self, names: DecisionNames, seen: Mapping[str, Array], feeds: Mapping[str, Array], judged: Judge
    ) -> dict[str, Array]:
        """Run the reference under the decisions of the file, judging them; return its outputs and block outputs.

        If a decision is impossible, the reference cannot follow it and decides by itself.

        Args:
            names: the file's decisions.
            seen: their values, by name.
            feeds: inputs of the reference.
            judged: receives the verdicts.
        """
        batch = len(next(iter(feeds.values())))
        if self._sizes is None:
            values = self._run_free(feeds)
            self._sizes = {layer: self._sizes_of(layer, values) for layer in self._inside.decisions}
        given: dict[int, Decisions] = {}
        faulty = False
        for layer, (sources, joinable) in self._sizes.items():
            found = {kind: seen[name] for kind, name in names[layer].items()}
            given[layer] = Decisions.read(found, batch, sources)
            faulty |= given[layer].fault(sources, joinable) is not None
        values = self._run_free(feeds) if faulty else self._run_forced(feeds, given, self._sizes)
        suffix = "" if faulty else _OWN
        for layer, got in given.items():
            kinds = self._inside.decisions[layer]
            own = {kind: values[name + suffix] for kind, name in kinds.items()}
            judged.judge(
                layer, got, self._scores[layer].read(values), Decisions.read(own, batch, self._sizes[layer][0])
            )
        return values

    def _sizes_of(self, layer: int, values: Mapping[str, Array]) -> tuple[int, int]:
        """Return the number of sources of a layer, and of tokens that can be joined."""
        scores, kinds = self._scores[layer].read(values), self._inside.decisions[layer]
        pooled = scores.order is not None
        joinable = values[kinds["kept"]].shape[1] if pooled or scores.pairs is None else scores.pairs.shape[2]
        return scores.ranked().shape[1], joinable

    def _run_free(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if self._free is None:
            model = load_without_weights(self._inside.path)
            mark_as_outputs(model, [*self._inside.names, *self._score_names(model)])
            self._free = open_copy(model, self._inside.path)
        return self._free.run(feeds)

    def _run_forced(
        self, feeds: Mapping[str, Array], given: Mapping[int, Decisions], sizes: Mapping[int, tuple[int, int]]
    ) -> dict[str, Array]:
        if self._forced is None:
            model = load_without_weights(self._inside.path)
            scores = self._score_names(model)
            for layer, kinds in self._inside.decisions.items():
                for name in kinds.values():
                    _cut(model.graph, layer, name)
            own = [name + _OWN for kinds in self._inside.decisions.values() for name in kinds.values()]
            mark_as_outputs(model, [*own, *(name for names in self._inside.ends.values() for name in names), *scores])
            self._forced = open_copy(model, self._inside.path)
        decided = {
            name: _encoded(kind, given[layer], sizes[layer][0])
            for layer, kinds in self._inside.decisions.items()
            for kind, name in kinds.items()
        }
        return self._forced.run({**feeds, **decided})

    def _score_names(self, model: onnx.ModelProto) -> list[str]:
        """Return the names of the scores that decisions are made by, for `_scores`."""
        self._scores = scores_in(model.graph, self._inside.decisions)
        if missing := [layer for layer in self._inside.decisions if layer not in self._scores]:
            raise VerificationError(
                f"{self._inside.path.name} does not say what layer {missing[0]} decides by: its decisions cannot be "
                "followed, export it again"
            )
        return [name for found in self._scores.values() for name in found.names]


def form(kinds: Mapping[str, str]) -> tuple[bool, bool]:
    """Return whether decisions of these kinds have targets, and whether these are partners in a pool."""
    return "target" in kinds or "assigned" in kinds, "partners" in kinds


def _cut(graph: onnx.GraphProto, layer: int, name: str) -> None:
    """Make the value `name` an input for all its readers after the matching; the original value gets a suffix."""
    matching = f"blocks.{layer}/fuse/match/"
    for node in graph.node:
        for index, made in enumerate(node.output):
            if made == name:
                node.output[index] = name + _OWN
        if node.name.startswith(matching):
            for index, read in enumerate(node.input):
                if read == name:
                    node.input[index] = name + _OWN
    graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None))


def _encoded(kind: str, decisions: Decisions, sources: int) -> Array:
    """Return one kind of decisions in the encoding of a file (`graph_patterns.canonical.decision_name`)."""
    if kind == "kept":
        return decisions.kept
    if kind == "matched":
        return decisions.matched
    assert decisions.target is not None  # the layers merge alike
    if kind == "target":
        return decisions.target
    if kind == "partners":
        assert decisions.partners is not None  # the layers select alike
        return decisions.partners
    assigned = np.full((len(decisions.matched), sources), -1, dtype=np.int64)
    np.put_along_axis(assigned, decisions.matched, decisions.target, axis=1)
    return assigned
