"""Compare a file with another file, in onnxruntime alone: decisions separately from arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.compare.outputs import Tolerance, is_real, settled
from tofu_export.errors import ExportError, VerificationError
from tofu_export.verification.follow import Follower, Inside, form
from tofu_export.verification.gather import Gathered
from tofu_export.verification.replay import Judge
from tofu_export.verification.result import VerificationResult
from tofu_export.verification.subject import OnnxFile, Runnable, Subject
from tofu_export.verification.two_files import counterparts
from tofu_export.verification.watch import batched, feed

__all__ = ["verify_pair"]

Array = NDArray[Any]


def verify_pair(
    subject: Subject | Path,
    reference: Path,
    pixels: NDArray[np.float32],
    *,
    tolerance: Tolerance,
    batches: tuple[int, ...],
    source: str,
    layers: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> VerificationResult:
    """Compare a file with a reference file.

    Outputs are matched by name, or by their order if names differ. In layers in which both files decide alike, the
    reference follows the file's decisions, which are judged by its similarities. Infinities that both have, as those of
    masks, are equal.

    Args:
        subject: the file to judge, or an engine.
        reference: the file that defines correct outputs.
        pixels: [n, C, H, W] float32, normalised images; reused in turn where a batch needs more.
        tolerance: the differences to allow.
        batches: batch sizes to run.
        source: where the images came from, for the report.
        layers: also compare the output of each block, if it can be found in both files.
        on_batch: called with each batch size before it runs.

    Raises:
        VerificationError: an output has no counterpart, or nothing can be compared.
        ExportError: a file cannot be loaded or run.
    """
    subject = OnnxFile(subject) if isinstance(subject, Path) else subject
    own = Inside.find(subject.graph_path, layers=layers)
    tested, right, notes = _comparable(own, Inside.find(reference, layers=layers))
    if layers and not tested.ends:
        notes += ("the files do not both tell their blocks apart: what each of them gives is not compared",)
    images = batched(pixels, batches)
    other = _Ran(OnnxFile(reference), images, skip=True)
    notes += tuple(
        f"{reference.name} does not run at batch {batches[index]}, which was not compared: {reason}"
        for index, reason in other.failed.items()
    )
    images = [entry for index, entry in enumerate(images) if index not in other.failed]
    batches = tuple(entry for index, entry in enumerate(batches) if index not in other.failed)
    mine = _Ran(subject, images)
    pairs = _matched(mine, other)
    decisions = replace(tested, ends={}), replace(right, ends={})
    wanted = decisions[0].names
    watched = subject.watch(mine.feeds, wanted) if wanted else [{} for _ in images]
    follower = Follower(decisions[1])
    gathered = Gathered(subject.name, tolerance)
    for index, (got, seen) in enumerate(zip(mine.given, watched, strict=True)):
        if on_batch is not None:
            on_batch(batches[index])
        rows = None
        if seen and all(np.isfinite(value).all() for value in got.values()):
            rows = subject.same(seen, got, tolerance)
        judged = Judge(tolerance)
        theirs = other.feeds[index]
        values = follower.follow(tested.decisions, seen, theirs, judged) if wanted else other.given[index]
        compared = settled(got, {name: values[twin] for name, twin in pairs.items()}, nan=False)
        gathered.add(mine.feeds[index], *compared, judged, rows)
    if tested.ends:  # in separate copies: see `eager`
        follower = Follower(right)
        for index, seen in enumerate(subject.watch(mine.feeds, tested.names)):
            values = follower.follow(tested.decisions, seen, other.feeds[index], Judge(tolerance))
            gathered.add_blocks(index, tested.ends, seen, _blocks(right, values))
    return gathered.result(batches, source, ", ".join(pairs), notes, reference=reference.name)


class _Ran:
    """File with its inputs and outputs for each batch of images.

    Args:
        subject: the file.
        images: the batches.
        skip: pass over batches that the file rejects, unless it rejects all; `failed` gives the reasons by batch.

    Raises:
        ExportError: the file does not run.
    """

    def __init__(self, subject: Subject, images: Sequence[Array], *, skip: bool = False) -> None:
        session = subject.open()
        self.name = subject.name
        self.outputs = tuple(session.outputs)
        self.feeds: list[dict[str, Array]] = []
        self.given: list[dict[str, Array]] = []
        self.failed: dict[int, str] = {}
        for index, batch in enumerate(images):
            self._run(session, index, feed(session, batch), skip=skip)
        if not self.given:
            raise ExportError("; ".join(self.failed.values()))

    def _run(self, session: Runnable, index: int, feeds: dict[str, Array], *, skip: bool) -> None:
        try:
            given = session.run(feeds)
        except ExportError as error:
            if not skip:
                raise
            self.failed[index] = str(error)
        else:
            self.feeds.append(feeds)
            self.given.append(given)


def _matched(file: _Ran, reference: _Ran) -> dict[str, str]:
    """Map each output of the file to its name in the reference.

    Raises:
        VerificationError: the two files have different numbers of outputs.
    """
    found = counterparts(file.outputs, reference.outputs)
    if found is None:
        raise VerificationError(
            f"{file.name} gives {', '.join(file.outputs)} and {reference.name} gives {', '.join(reference.outputs)}: "
            "every output needs one to be compared with"
        )
    return found


def _comparable(tested: Inside, right: Inside) -> tuple[Inside, Inside, tuple[str, ...]]:
    """Return the layers in which both decide alike, blocks only if both have them, and notes on what is left out."""
    common = {
        layer
        for layer in tested.decisions.keys() & right.decisions.keys()
        if form(tested.decisions[layer]) == form(right.decisions[layer])
    }
    either = sorted({*tested.decisions, *right.decisions} - common)
    notes: tuple[str, ...] = ()
    if either:
        blocks = f"block{'s' * (len(either) > 1)} {', '.join(map(str, either))}"
        notes = (f"the files do not decide alike in {blocks}: decisions are not compared there",)
    ends = tested.ends.keys() & right.ends.keys()

    def narrowed(inside: Inside) -> Inside:
        return replace(
            inside,
            decisions={layer: kinds for layer, kinds in inside.decisions.items() if layer in common},
            ends={layer: names for layer, names in inside.ends.items() if layer in ends},
        )

    return narrowed(tested), narrowed(right), notes


def _blocks(right: Inside, values: Mapping[str, Array]) -> dict[int, Array]:
    """Return the block outputs of the reference, [B, N, C]: the value that leaves a block and is shaped as tokens."""
    blocks = {}
    for layer, names in right.ends.items():
        tokens = [name for name in names if is_real(values[name]) and values[name].ndim == 3]
        tokens = [name for name in tokens if values[name].shape[2] > 1]  # sizes have one number for a token
        if len(tokens) == 1:
            blocks[layer] = values[tokens[0]]
    return blocks
