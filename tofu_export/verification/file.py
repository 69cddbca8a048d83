"""Verify any file on request: determine its reference, the images, and the tolerance."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.artifact.widened import HALVES, widened
from tofu_export.compare.outputs import Tolerance
from tofu_export.errors import OptionError
from tofu_export.images.inputs import InputSet
from tofu_export.options import BatchRange, OutputKind, Precision
from tofu_export.system.ort import NO_BFLOAT16
from tofu_export.verification.any_pair import verify_any_pair
from tofu_export.verification.eager import Checks, batches_to_verify, verify
from tofu_export.verification.facts import FileFacts
from tofu_export.verification.pair import verify_pair
from tofu_export.verification.pixels import VERIFICATION_IMAGES, pixels_for
from tofu_export.verification.rebuild import rebuild
from tofu_export.verification.request import VerifyRequest
from tofu_export.verification.result import VerificationResult
from tofu_export.verification.subject import OnnxFile, Subject
from tofu_export.verification.two_files import check_inputs, other_plan

__all__ = ["verify_file"]


def verify_file(
    request: VerifyRequest, on_step: Callable[[str], None] = lambda _: None, subject: Subject | None = None
) -> VerificationResult:
    """Verify the file of a request.

    Args:
        request: the file, and what to compare it with.
        on_step: called with the name of each step.
        subject: an engine built from the file, to be compared instead of the file.

    Raises:
        OptionError: the request does not say what to compare the file with, or how to make its inputs.
        VerificationError: the file lacks what must be compared.
        TofuError: a file or model cannot be read, built or run.
    """
    facts = FileFacts.read(request.path)
    precision = _precision(facts, request.precision)
    subject = subject or OnnxFile(request.path)
    if request.reference is not None:
        return _against_file(request, facts, precision, request.reference, on_step, subject)
    _check_no_shapes(request)
    sizes, notes = _sizes(request, facts, facts.fixed_batch)
    on_step(f"rebuilding the model of {request.path.name}")
    rebuilt = rebuild(
        facts,
        name=request.model,
        weights=request.weights,
        seed=request.seed,
        num_classes=request.num_classes,
        output=request.output_kind,
    )
    shape = _filled(facts.image_shape, rebuilt.preprocessing.input_size)
    inputs = _inputs(request, shape, rebuilt.resolved, rebuilt.preprocessing, max(sizes))
    result = verify(
        subject,
        rebuilt.model,
        inputs.pixels,
        precision=precision,
        batch=sizes,
        source=inputs.source,
        output=rebuilt.output,
        token_map=rebuilt.token_map,
        checks=Checks(request.tolerance.of(precision), by_position=not facts.card.is_ours, layers=request.layers),
        on_batch=lambda size: on_step(f"comparing {subject.name} with eager PyTorch, batch {size}"),
    )
    said = rebuilt.contradictions
    return replace(result, notes=(*notes, *rebuilt.notes, *said, *result.notes), contradictions=said)


def _against_file(
    request: VerifyRequest,
    facts: FileFacts,
    precision: Precision,
    reference: Path,
    on_step: Callable[[str], None],
    subject: Subject,
) -> VerificationResult:
    """Compare a file with another file; BF16 files, which onnxruntime cannot run, as copies that compute in FP32."""
    other = FileFacts.read(reference)
    precisions = precision, other.precision or precision
    check_inputs(facts, other)
    tolerance = request.tolerance.of(*precisions)
    with tempfile.TemporaryDirectory(prefix="tofu-export-verify-") as name:
        wide = precisions[0] is Precision.BF16 and isinstance(subject, OnnxFile), precisions[1] is Precision.BF16
        if wide[0]:
            facts = _in_fp32(facts, Path(name) / "file")
            subject = OnnxFile(facts.path)
        if wide[1]:
            other = _in_fp32(other, Path(name) / "reference")
        result = _compare_files(request, facts, other, tolerance, on_step, subject)
        said = other_plan(facts, other)
    result = replace(result, notes=(*said, *result.notes), contradictions=said)
    return result.noted(f"computed in FP32: {NO_BFLOAT16}") if any(wide) else result


def _in_fp32(facts: FileFacts, folder: Path) -> FileFacts:
    folder.mkdir()
    return FileFacts.read(widened(facts.path, folder, HALVES))


def _compare_files(
    request: VerifyRequest,
    facts: FileFacts,
    other: FileFacts,
    tolerance: Tolerance,
    on_step: Callable[[str], None],
    subject: Subject,
) -> VerificationResult:
    def on_batch(size: int) -> None:
        on_step(f"comparing {subject.name} with {other.path.name}, batch {size}")

    if isinstance(subject, OnnxFile) and not _takes_images(facts, other):
        if request.images is not None:
            raise OptionError(f"{facts.path.name} takes other inputs than images of one size: leave out --images")
        result = verify_any_pair(
            facts.path,
            other.path,
            tolerance=tolerance,
            batches=request.batches,
            shapes=request.shapes,
            seed=request.seed,
            on_batch=on_batch,
        )
        return replace(result, outputs=replace(result.outputs, top1_agreement=None))
    _check_no_shapes(request)
    sizes, notes = _sizes(request, facts, facts.fixed_batch or other.fixed_batch)
    preprocessing = facts.card.preprocessing or other.card.preprocessing
    if request.images is not None and preprocessing is None:
        raise OptionError(
            f"neither {facts.path.name} nor {other.path.name} says how images are prepared for it: leave out --images"
        )
    model = facts.card.find("model", str) or other.card.find("model", str)
    inputs = _inputs(request, _filled(facts.image_shape, other.image_shape), model, preprocessing, max(sizes))
    result = verify_pair(
        subject,
        other.path,
        inputs.pixels,
        tolerance=tolerance,
        batches=sizes,
        source=inputs.source,
        layers=request.layers,
        on_batch=on_batch,
    )
    result = replace(result, notes=(*notes, *result.notes))
    return result if _are_logits(facts) else replace(result, outputs=replace(result.outputs, top1_agreement=None))


def _check_no_shapes(request: VerifyRequest) -> None:
    """Refuse sizes that nothing would read.

    Raises:
        OptionError: sizes are given.
    """
    if request.shapes:
        raise OptionError(
            f"{request.path.name} is compared on images of the size that it states: leave out --shape, which is for "
            "two files that leave the sizes of their inputs open"
        )


def _takes_images(facts: FileFacts, other: FileFacts) -> bool:
    """True if both files take only images [B, C, H, W], and one of them states their size."""
    for file in (facts, other):
        specs = list(file.inputs.values())
        if len(specs) != 1 or len(specs[0].shape) != 4 or not np.issubdtype(specs[0].dtype, np.floating):
            return False
    return None not in _filled(facts.image_shape, other.image_shape)


def _are_logits(facts: FileFacts) -> bool:
    """True if the file outputs logits: its metadata say so, or it is foreign and gives one vector per image."""
    output = facts.card.find("output", dict)
    if output is not None:
        return bool(output.get("kind") == OutputKind.LOGITS.value)
    return len(facts.outputs) == 1 and all(len(spec.shape) == 2 for spec in facts.outputs.values())


def _sizes(request: VerifyRequest, facts: FileFacts, fixed: int | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the batch sizes to run, and notes: sizes asked for, the fixed one of a file, or some that it serves."""
    if request.batches or fixed is not None:
        return request.batches or (fixed or 1,), ()
    batch = facts.card.batch
    sizes, notes = batches_to_verify(batch or BatchRange())
    return sizes, () if batch is None else notes


def _filled(shape: Sequence[int | None], other: Sequence[int | None]) -> tuple[int | None, ...]:
    """Fill the open sizes of a shape from another shape."""
    return tuple(size if size is not None else known for size, known in zip(shape, other, strict=True))


def _precision(facts: FileFacts, asked: Precision | None) -> Precision:
    """Return the precision of a file: as asked for, or as the file states."""
    precision = asked or facts.precision
    if precision is None:
        raise OptionError(
            f"{facts.path.name} has no weights that tell its precision: say it with --precision, for example fp32"
        )
    return precision


def _inputs(
    request: VerifyRequest,
    shape: tuple[int | None, ...],
    model: str | None,
    preprocessing: Preprocessing | None,
    largest: int,
) -> InputSet:
    channels, height, width = shape
    if channels is None or height is None or width is None:
        sizes = ", ".join("?" if size is None else str(size) for size in shape)
        raise OptionError(
            f"the input of {request.path.name} leaves its size open ([batch, {sizes}]): compare it with a file of a "
            "fixed image size, or export it with one"
        )
    size = (channels, height, width)
    preprocessing = Preprocessing.uniform(size) if preprocessing is None else preprocessing.with_size(size)
    count = max(VERIFICATION_IMAGES, largest)
    return pixels_for(count, model, preprocessing, images=request.images, seed=request.seed)
