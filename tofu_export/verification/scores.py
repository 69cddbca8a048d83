"""Find the scores in a file: the values that sources are ranked and paired by, per selection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tofu_export.compare.decisions import Scores
from tofu_export.patch.importance import LEAST_IMPORTANCE

__all__ = ["FileScores", "scores_in"]

Array = NDArray[Any]


@dataclass(frozen=True)
class FileScores:
    """Location of the scores of one layer in a file.

    Attributes:
        names: names of the values in the file.
        made: makes scores from these values and the margin.
        margin: margin of the layer for selection by energy; None for others.
    """

    names: tuple[str, ...]
    made: Callable[[list[Array], float | None], Scores]
    margin: float | None = None

    def read(self, values: Mapping[str, Array]) -> Scores:
        """Return the scores from the values of a run, by name."""
        return self.made([values[name] for name in self.names], self.margin)


def _of_two_sets(values: list[Array], _margin: float | None) -> Scores:
    """Make scores from products of keys [B, S, T] over destination norms, and inverse source norms [B, S, 1]."""
    scaled, inverse = values
    return Scores(scaled * inverse)


def _of_energy(values: list[Array], margin: float | None) -> Scores:
    """Make scores from cosines [B, S, S] and energies [B, S]."""
    pairs, energy = values
    return Scores(pairs, energy, margin)


def _of_importance(values: list[Array], _margin: float | None) -> Scores:
    """Make scores from the importance of tokens, [B, S, ...], as `patch.importance` does."""
    unseen = -np.log(values[0].reshape(len(values[0]), -1))
    return Scores(None, unseen / np.maximum(unseen.max(axis=1, keepdims=True), LEAST_IMPORTANCE))


def _of_budget(values: list[Array], _margin: float | None) -> Scores:
    """Make scores from the budgets of tokens, [B, S, ...], as `patch.importance` does."""
    return Scores(None, np.log(values[0].reshape(len(values[0]), -1)) / np.log(LEAST_IMPORTANCE))


_FORMS: tuple[tuple[tuple[str, ...], Callable[[list[Array], float | None], Scores]], ...] = (
    (("scaled", "inverse/sources"), _of_two_sets),
    (("pairs", "energy"), _of_energy),
    (("importance",), _of_importance),
    (("budget",), _of_budget),
)
"""Names of values under `blocks.N/fuse/match/` (`graph_patterns.fuse`), and the function that makes scores of them."""


def scores_in(graph: onnx.GraphProto, layers: Iterable[int]) -> dict[int, FileScores]:
    """Return the location of the scores of these layers in a file; layers without scores are left out."""
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
