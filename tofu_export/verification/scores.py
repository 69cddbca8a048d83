"""What a file decides by: the values in it that sources are ranked and paired by, by selection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tofu_export.compare.decisions import Scores

__all__ = ["FileScores", "scores_in"]

Array = NDArray[Any]


@dataclass(frozen=True)
class FileScores:
    """Where the scores of one layer are in a file.

    Attributes:
        names: values in it.
        made: scores from these, and from the layer's margin.
        margin: of the selection by energy; None for others.
    """

    names: tuple[str, ...]
    made: Callable[[list[Array], float | None], Scores]
    margin: float | None = None

    def read(self, values: Mapping[str, Array]) -> Scores:
        """The scores among the values of a run, by name."""
        return self.made([values[name] for name in self.names], self.margin)


def _of_two_sets(values: list[Array], _margin: float | None) -> Scores:
    """From products of keys [B, S, T] over the norms of destinations, and one over those of sources [B, S, 1]."""
    scaled, inverse = values
    return Scores(scaled * inverse)


def _of_energy(values: list[Array], margin: float | None) -> Scores:
    """From cosines [B, S, S] and energies [B, S]."""
    pairs, energy = values
    return Scores(pairs, energy, margin)


def _of_attention(values: list[Array], _margin: float | None) -> Scores:
    """From what the class token attends to, [B, S, ...]; as `patch.class_attention` has it."""
    unseen = -np.log(values[0].reshape(len(values[0]), -1))
    return Scores(None, unseen / unseen.max(axis=1, keepdims=True))


_FORMS: tuple[tuple[tuple[str, ...], Callable[[list[Array], float | None], Scores]], ...] = (
    (("scaled", "inverse/sources"), _of_two_sets),
    (("pairs", "energy"), _of_energy),
    (("attention",), _of_attention),
)
"""Values behind `blocks.N/fuse/match/` (`graph_patterns.fuse`), and what they make."""


def scores_in(graph: onnx.GraphProto, layers: Iterable[int]) -> dict[int, FileScores]:
    """Where the scores of these layers are in a file; layers without any are left out."""
    produced = {name for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[int, FileScores] = {}
    for layer in layers:
        stage = f"blocks.{layer}/fuse/match"
        margin = constants.get(f"{stage}/margin")
        for parts, made in _FORMS:
            names = tuple(f"{stage}/{part}" for part in parts)
            if produced.issuperset(names):
                number = None if margin is None else float(numpy_helper.to_array(margin))
                found[layer] = FileScores(names, made, number)
                break
    return found
