"""Compare two files with any inputs, in onnxruntime alone: several inputs, token rows, integers, open sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tofu_export.artifact.feeds import as_asked, fixed_batch
from tofu_export.artifact.onnx_file import load_without_weights
from tofu_export.compare.outputs import Tolerance, only_nan, settled
from tofu_export.errors import ExportError, VerificationError
from tofu_export.linting.trial_feeds import Trials
from tofu_export.system.ort import OrtSession, TensorSpec, exact_threads, open_session
from tofu_export.verification.gather import Gathered
from tofu_export.verification.replay import Judge
from tofu_export.verification.result import VerificationResult
from tofu_export.verification.two_files import counterparts

__all__ = ["verify_any_pair"]

Feeds = Mapping[str, np.ndarray[Any, Any]]

BATCHES = (1, 3)
"""Batch sizes for files that leave the batch open."""

_IMAGE = (3, 224, 224)
"""Sizes of an image [B, C, H, W], used for axes that a file leaves open."""

_OPEN = 16
"""Size of any other axis that a file leaves open."""


def verify_any_pair(
    path: Path,
    reference: Path,
    *,
    tolerance: Tolerance,
    batches: tuple[int, ...] = (),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> VerificationResult:
    """Compare a file with a reference file on generated inputs.

    Inputs and outputs are matched by name, or by their order where names differ. Equal infinities and NaN are equal.

    Args:
        path: the file to judge.
        reference: the file that defines correct outputs.
        tolerance: the differences to allow.
        batches: batch sizes to run; empty for 1 and 3, or what the files are fixed to. Sizes that the
            reference rejects are left out, and noted.
        shapes: all sizes of inputs that leave more than the batch open, by name; others are guessed.
        seed: seed of the inputs.
        on_batch: called with each batch size before it runs.

    Raises:
        OptionError: a size contradicts the file.
        VerificationError: inputs or outputs have no counterpart, or nothing can be compared.
        ExportError: a file cannot be loaded, or the file fails where the reference runs.
    """
    graph, other = load_without_weights(path), load_without_weights(reference)
    mine = open_session(path, threads=exact_threads(graph))
    right = open_session(reference, threads=exact_threads(other))
    inputs, outputs = _twins(mine, right, "inputs"), _twins(mine, right, "outputs")
    given = {name: _guess(spec) for name, spec in mine.inputs.items()} | dict(shapes or {})
    trials = Trials(graph, path.name, mine.inputs, given, seed)
    fixed = fixed_batch(mine.inputs) or fixed_batch(right.inputs)
    gathered = Gathered(path.name, tolerance)
    ran, notes, references = [], [], list[Feeds]()
    for batch in batches or ((fixed,) if fixed is not None else BATCHES):
        if on_batch is not None:
            on_batch(batch)
        found = trials.that_run(batch, lambda feeds: _attempt(right, feeds, inputs))
        if isinstance(found, str):
            notes.append(f"{reference.name} does not run at batch {batch}, which was not compared: {found}")
            continue
        ran.append(batch)
        references += [expected for _, expected in found]
        for feeds, expected in found:
            got, wanted = settled(mine.run(feeds), {name: expected[twin] for name, twin in outputs.items()})
            gathered.add(feeds, got, wanted, Judge(tolerance))
    if not ran:
        shown = ", ".join(f"{name}:{'x'.join(map(str, sizes))}" for name, sizes in given.items() if sizes)
        raise VerificationError(f"nothing was compared: {'; '.join(notes)}. Say sizes with --shape, now {shown}")
    if silent := only_nan(references):
        raise VerificationError(
            f"nothing was compared of {', '.join(silent)}: on all generated inputs {reference.name} gives NaN alone"
        )
    source = f"generated inputs, seed {seed}"
    return gathered.result(tuple(ran), source, ", ".join(outputs), tuple(notes), reference=reference.name)


def _twins(mine: OrtSession, right: OrtSession, what: str) -> dict[str, str]:
    """Map each input or output of the file to its name in the reference.

    Raises:
        VerificationError: the two files have different numbers of them.
    """
    names, others = (list(getattr(session, what)) for session in (mine, right))
    found = counterparts(names, others)
    if found is None:
        raise VerificationError(
            f"{mine.label} has the {what} {', '.join(names)} and {right.label} has {', '.join(others)}: each needs one "
            "to be compared with"
        )
    return found


def _guess(spec: TensorSpec) -> tuple[int, ...]:
    """Return the sizes of an input: as stated by the file, else those of an image or small ones."""
    usual: Sequence[int] = (1, *_IMAGE) if len(spec.shape) == len(_IMAGE) + 1 else (1, *[_OPEN] * len(spec.shape))
    return tuple(known if size is None else size for size, known in zip(spec.shape, usual, strict=False))


def _attempt(reference: OrtSession, feeds: Feeds, inputs: Mapping[str, str]) -> Feeds | str:
    try:
        return reference.run(as_asked({inputs[name]: feed for name, feed in feeds.items()}, reference.inputs))
    except ExportError as error:
        return str(error)
