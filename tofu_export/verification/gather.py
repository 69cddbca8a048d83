"""Accumulate the results of the batches of a verification, for any reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.compare.decisions import DecisionReport
from tofu_export.compare.outputs import OutputComparison, Tally, Tolerance, compare_outputs
from tofu_export.errors import VerificationError
from tofu_export.report.verification import EAGER
from tofu_export.verification.block_ends import Candidates, choose_end
from tofu_export.verification.noise import excess
from tofu_export.verification.replay import Judge
from tofu_export.verification.result import Evidence, LayerResult, VerificationResult, worst

__all__ = ["Gathered"]

Array = NDArray[Any]


class Gathered:
    """Accumulated results of a comparison.

    Args:
        file: name of the file, for messages and the result.
        tolerance: the differences that are allowed.

    Attributes:
        excess: largest error of an output as a multiple of what rounding explains; None if not measured.
    """

    def __init__(self, file: str, tolerance: Tolerance) -> None:
        self._file = file
        self.tolerance = tolerance
        self.excess: float | None = None
        self._tally = Tally(file)
        self._layers: dict[int, DecisionReport] = {}
        self._ends: dict[int, OutputComparison] = {}
        self._excess: dict[int, float] = {}
        self._flipped = self._undecided = 0
        self._evidence: Evidence | None = None
        self._worst: OutputComparison | None = None
        self._batches = self._worst_batch = 0

    def add(
        self,
        feeds: Mapping[str, Array],
        got: Mapping[str, Array],
        expected: Mapping[str, Array],
        judged: Judge,
        rows: NDArray[np.bool_] | None = None,
    ) -> None:
        """Compare the outputs of one batch, and add its decisions.

        Args:
            feeds: inputs of the file.
            got: outputs of the file.
            expected: outputs of the reference, by the same names.
            judged: the judged decisions.
            rows: for each image, whether its outputs were made with these decisions; None for all. Outputs of other
                images are not compared, but counted.

        Raises:
            VerificationError: an output has another shape than it should, or integers in place of real numbers.
        """
        batch = self._tally.add(*((got, expected) if rows is None else _of_rows(got, expected, rows)))
        for layer, report in judged.by_layer.items():
            self._layers[layer] = self._layers.get(layer, DecisionReport()) + report
        self._flipped += len(judged.flipped_images)
        self._undecided += 0 if rows is None else int((~rows).sum())
        self._batches += 1
        if batch:
            now = worst(batch, self.tolerance)
            if self._worst is None or worst((self._worst, now), self.tolerance) is now:
                self._worst, self._worst_batch = now, self._batches - 1
                self._evidence = Evidence(feeds, got, expected)
        elif self._evidence is None:
            self._evidence = Evidence(feeds, got, expected)

    def add_blocks(
        self,
        batch: int,
        ends: Candidates,
        seen: Mapping[str, Array],
        blocks: Mapping[int, Array],
        rounded: Mapping[int, Array] | None = None,
        moved: Mapping[str, Array] | None = None,
    ) -> None:
        """Compare the block outputs of a batch that was added.

        Args:
            batch: number of the batch, from 0.
            ends: names of values that may be the output of each block of the file.
            seen: these values, by name.
            blocks: [B, N, C], output of each block of the reference, under the decisions among `seen`.
            rounded: `blocks` with `noise.rounded_activations`, if measured.
            moved: `seen` with derived constants changed by their rounding, if there are any.
        """
        inside: dict[str, Array] = {}
        for layer, right in blocks.items():
            name = choose_end(ends.get(layer, ()), seen, right.shape)
            if name is not None:
                inside[name] = right[:, : seen[name].shape[1]]
                found = compare_outputs(seen[name], inside[name])
                self._ends[layer] = self._ends[layer].joined(found) if layer in self._ends else found
                if rounded and found.finite:
                    changed = rounded[layer][:, : seen[name].shape[1]]
                    times = excess(seen[name], inside[name], changed, (moved or {}).get(name))
                    self._excess[layer] = max(self._excess.get(layer, 0.0), times)
        if self._evidence is not None and batch == self._worst_batch:
            expected = {**inside, **self._evidence.expected}
            self._evidence = Evidence(self._evidence.feeds, self._evidence.got, expected)

    def result(
        self,
        sizes: tuple[int, ...],
        source: str,
        output: str,
        notes: tuple[str, ...],
        *,
        reference: str = EAGER,
    ) -> VerificationResult:
        """Return the result of all batches.

        Args:
            sizes: batch sizes run.
            source: where the inputs came from.
            output: the kind of output, in a word.
            notes: what a reader must know.
            reference: what the file was compared with.

        Raises:
            VerificationError: no output was compared.
        """
        if not self._tally.outputs and self._undecided:
            raise VerificationError(
                f"{self._file}: nothing was compared: for no image do its outputs agree with those of the copy that "
                "gives out its decisions"
            )
        compared = tuple(self._tally.outputs.values())
        if not compared and self._tally.integers:
            compared = (OutputComparison(0.0, 1.0, 1.0, None, True, sum(sizes)),)  # its integers decide
        if not compared:
            raise VerificationError(f"{self._file}: nothing was compared, its outputs are empty")
        layers = tuple(
            LayerResult(
                layer, self._layers.get(layer, DecisionReport()), self._ends.get(layer), self._excess.get(layer)
            )
            for layer in sorted({*self._layers, *self._ends})
        )
        return VerificationResult(
            artifact=self._file,
            batches=sizes,
            inputs=source,
            output=output,
            outputs=worst(compared, self.tolerance),
            mapped=self._tally.integers or None,
            mismapped=self._tally.wrong_integers,
            images_with_flips=self._flipped,
            undecided=self._undecided,
            decisions=sum(self._layers.values(), DecisionReport()),
            tolerance=self.tolerance,
            notes=notes,
            layers=layers,
            excess=self.excess,
            reference=reference,
            evidence=self._evidence,
        )


def _of_rows(
    got: Mapping[str, Array], expected: Mapping[str, Array], rows: NDArray[np.bool_]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return outputs of these images of a batch only; an output without any is dropped."""
    mine, right = dict(got), dict(expected)
    for name, value in expected.items():
        if len(got[name]) == len(value) == len(rows):
            mine[name], right[name] = got[name][rows], value[rows]
            if not len(right[name]):
                del mine[name], right[name]
    return mine, right
