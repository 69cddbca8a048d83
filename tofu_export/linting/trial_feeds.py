"""Inputs on which a rewritten file must equal its original, drawn from all that the graph accepts.

They include negative and repeated indices, masks of mixed entries with one fully masked row, both values of a
condition, and infinities if the graph adds them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from tofu_export.artifact.feeds import check_shapes, make_feeds
from tofu_export.linting.graph import DEFAULT_DOMAINS, Axis, attribute_int, infer, walk, written_out
from tofu_export.system.ort import TensorSpec

__all__ = ["Trials"]

Feeds = dict[str, np.ndarray[Any, Any]]
Outputs = Mapping[str, np.ndarray[Any, Any]]

_INDEX = {"Gather": 1, "GatherElements": 1, "GatherND": 1, "ScatterElements": 1, "ScatterND": 1}
"""Input of these operators that holds positions in their first input."""

_CARRY = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice",
     "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)  # fmt: skip
"""Operators that pass their inputs on."""

_COMPARE = frozenset(
    {"Clip", "Equal", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Less", "LessOrEqual", "Max", "Min",
     "Shrink", "ThresholdedRelu"}
)  # fmt: skip
"""Operators with thresholds."""

_WIDE = 8.0
"""Factor of the second draw if the graph has thresholds, so that they are passed in both directions."""

_ANY_NUMBER = 4
"""Upper bound of integers without known meaning."""


@dataclass
class _Role:
    """Use of an input.

    Attributes:
        places: sizes of axes that it holds positions in; one for each coordinate of a position.
        masks: the input is added to the scores of an Attention.
        joins: the input takes part in a scatter that adds up.
    """

    places: list[tuple[Axis, ...]] = field(default_factory=list)
    masks: bool = False
    joins: bool = False


class Trials:
    """Generator of feeds for a file.

    Args:
        graph: the file, its weights may be external.
        label: name in messages.
        inputs: type and shape of its inputs.
        shapes: all sizes of inputs that leave more than the batch open, by name.
        seed: seed of the random numbers.

    Raises:
        OptionError: the file has no input of a name in `shapes`.
    """

    def __init__(
        self,
        graph: onnx.ModelProto,
        label: str,
        inputs: Mapping[str, TensorSpec],
        shapes: Mapping[str, tuple[int, ...]] | None,
        seed: int,
    ) -> None:
        check_shapes(shapes or {}, inputs)
        self._label, self._inputs, self._shapes, self._seed = label, inputs, shapes, seed
        self._named = {
            value.name: [dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in graph.graph.input
        }
        self._compares = False
        self._roles = {name: _Role() for name in inputs}
        self._find_roles(graph)

    def draws(self, batch: int) -> Iterator[list[Feeds]]:
        """Yield feeds of one batch size, from the widest range of values to the narrowest that any file accepts.

        Raises:
            OptionError: sizes of inputs are open, unknown or contradicted.
        """
        plain = make_feeds(self._label, self._inputs, batch, shapes=self._shapes, seed=self._seed)
        sizes = {
            name: size
            for key, feed in plain.items()
            for name, size in zip(self._named.get(key, ()), feed.shape, strict=False)
            if name
        }
        several = self._compares or any(
            role.masks or role.joins or self._inputs[name].dtype.kind in "biu" for name, role in self._roles.items()
        )
        for least in (-1, 0):  # as a factor of the size
            yield [
                {name: self._value(name, feed, sizes, least, number) for name, feed in plain.items()}
                for number in range(1 + several)
            ]
        yield [plain]

    def that_run(self, batch: int, attempt: Callable[[Feeds], Outputs | str]) -> list[tuple[Feeds, Outputs]] | str:
        """Return the widest feeds that a file accepts, with its outputs; or why it accepts none.

        Where outputs have NaN, as those of a logarithm of random numbers, feeds without a sign follow.

        Args:
            batch: batch size.
            attempt: runs the file, and returns its outputs, or why it fails.

        Raises:
            OptionError: as in `draws`.
        """
        reason = ""
        for drawn in self.draws(batch):
            found = [(feeds, attempt(feeds)) for feeds in drawn]
            ran = [(feeds, outputs) for feeds, outputs in found if not isinstance(outputs, str)]
            if not ran:
                reason = str(found[-1][1])
                continue
            if any(_has_nan(outputs) for _, outputs in ran):
                feeds = {name: np.abs(feed) if feed.dtype.kind == "f" else feed for name, feed in ran[0][0].items()}
                outputs = attempt(feeds)
                if not isinstance(outputs, str):
                    ran.append((feeds, outputs))
            return ran
        return reason

    def _value(
        self, name: str, plain: np.ndarray[Any, Any], sizes: Mapping[str, int], least: int, number: int
    ) -> np.ndarray[Any, Any]:
        random = np.random.default_rng([self._seed, number, sorted(self._inputs).index(name)])
        role, kind = self._roles[name], plain.dtype.kind
        if kind == "b":
            return _booleans(random, plain.shape, number)
        if kind in "iu" and (role.places or plain.dtype.itemsize > 1):
            bounds = _bounds(role.places, sizes)
            if kind == "u":
                least = 0
            drawn = [_repeating(random, plain.shape[: plain.ndim - (len(bounds) > 1)], least * size, size)
                     for size in bounds]  # fmt: skip
            return (np.stack(drawn, axis=-1) if len(drawn) > 1 else drawn[0]).reshape(plain.shape).astype(plain.dtype)
        if kind != "f" or number == 0 or not plain.size:
            return plain
        value = (plain * plain.dtype.type(_WIDE)) if self._compares else plain.copy()
        if role.masks:
            value[~_booleans(random, plain.shape, number)] = -np.inf
        elif role.joins:
            value.reshape(-1)[0] = np.inf
        return value

    def _find_roles(self, graph: onnx.ModelProto) -> None:
        """Find the inputs used as a position, a mask, or a summand."""
        origins = {name: {name} for name in self._inputs}
        for node, scope in walk(infer(written_out(graph))):
            if node.domain not in DEFAULT_DOMAINS:
                continue
            self._compares |= node.op_type in _COMPARE
            read = [origins.get(name, set()) for name in node.input]
            shape = scope.shapes.get(node.input[0], ()) if node.input else ()
            slot = _INDEX.get(node.op_type)
            if slot is not None and len(read) > slot and shape:
                depth = scope.shapes.get(node.input[slot], ("?",))[-1:]
                axis = attribute_int(node, "axis") or 0
                skipped = attribute_int(node, "batch_dims") or 0
                whole = "ND" in node.op_type and isinstance(depth[0], int)
                places = shape[skipped : skipped + int(depth[0])] if whole else shape[axis : axis + 1 or None]
                for name in read[slot]:
                    self._roles[name].places.append(tuple(places))
            if node.op_type == "Attention" and len(read) > 3:  # query, key, value, mask
                for name in read[3]:
                    self._roles[name].masks = True
            if node.op_type.startswith("Scatter"):
                for name in set().union(*read[2:3]):
                    self._roles[name].joins = True
            handed = set().union(*(read if node.op_type == "Concat" else read[:1])) if node.op_type in _CARRY else set()
            for name in node.output:
                origins[name] = set(handed)


def _has_nan(outputs: Outputs) -> bool:
    return any(bool(np.isnan(value).any()) for value in outputs.values() if value.dtype.kind == "f")


def _bounds(places: list[tuple[Axis, ...]], sizes: Mapping[str, int]) -> list[int]:
    """Return the smallest axis for each coordinate of a position; one number for all if these differ in kind."""
    known = [[sizes.get(size, 1) if isinstance(size, str) else max(size, 1) for size in row] for row in places if row]
    if not known:
        return [_ANY_NUMBER]
    if len({len(row) for row in known}) == 1:
        return [min(column) for column in zip(*known, strict=True)]
    return [min(min(row) for row in known)]


def _repeating(random: np.random.Generator, shape: tuple[int, ...], low: int, high: int) -> np.ndarray[Any, Any]:
    """Return integers from `low` to `high` - 1, some of which repeat and one of which is the lowest."""
    count = int(np.prod(shape))
    pool = random.integers(low, high, max(1, (count + 1) // 2))
    pool[0] = low
    return random.permutation(np.resize(pool, count)).reshape(shape)


def _booleans(random: np.random.Generator, shape: tuple[int, ...], number: int) -> np.ndarray[Any, Any]:
    """Return mixed entries; the first row is false and the last one true. A single entry alternates between draws."""
    if not shape or int(np.prod(shape)) <= 1:
        return np.full(shape, number % 2 == 0)
    drawn = random.random(shape) < 0.5  # as many of one as of the other
    rows = drawn.reshape(-1, shape[-1])
    if len(rows) > 1:
        rows[0], rows[-1] = False, True
    return drawn
