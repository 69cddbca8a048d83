"""Load the model of a job with its weights, its planned reduction, and the images to verify on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from tofu_export import patch
from tofu_export.errors import OptionError
from tofu_export.images.inputs import InputSet
from tofu_export.job.request import Job
from tofu_export.options import OutputKind
from tofu_export.options.quantization import calibration_images
from tofu_export.patch.describe import describe
from tofu_export.planning.plan import ModelSpec, Plan, make_plan
from tofu_export.verification.eager import batches_to_verify
from tofu_export.verification.pixels import VERIFICATION_IMAGES, pixels_for
from tofu_export.zoo.create import LoadedModel, create_model
from tofu_export.zoo.live import load_live, name_of, on_meta
from tofu_export.zoo.specs import spec_as_loaded, spec_of
from tofu_export.zoo.weights import WeightsKind

__all__ = [
    "CAPACITY_IMAGES",
    "JobModel",
    "calibration_count",
    "check_labels",
    "check_skipped",
    "image_count",
    "images_for",
    "load_job_model",
]

CAPACITY_IMAGES = 256
"""Number of images that places for tokens are measured on, if as many are available."""


@dataclass(frozen=True)
class JobModel:
    """Model that a job exports, with its plan.

    Attributes:
        loaded: the untouched model with its weights.
        spec: its structure, as loaded.
        plan: the reduction.
        output: what the files output.
    """

    loaded: LoadedModel
    spec: ModelSpec
    plan: Plan
    output: OutputKind


def load_job_model(job: Job, live: nn.Module | None = None) -> JobModel:
    """Load the model of a job; options that do not fit are refused before weights are read, if possible.

    Args:
        job: the request that names the model.
        live: a model to copy instead, without its plan.

    Raises:
        TofuError: the model is unknown or unsupported, the weights cannot be used, or the options do not fit it.
    """
    spec, loaded = _named(job) if live is None else _given(job, live)
    plan = make_plan(spec, job.reduction.unmeasured)
    patch.check_plan(loaded.model, plan, spec.name)
    output = patch.choose_output(loaded.model, job.output_kind, spec.name)
    check_labels(job, spec)
    check_skipped(job, spec)
    return JobModel(loaded, spec, plan, output)


def _named(job: Job) -> tuple[ModelSpec, LoadedModel]:
    """Load the model that a job names."""
    spec = spec_of(job.model, job.image_size, job.num_classes)
    if not job.reduction.select.has_predictors:  # else the weights say where tokens leave
        make_plan(spec, job.reduction.unmeasured)
    if job.weights.kind is not WeightsKind.PATH:  # a file decides on the classifier
        OutputKind.choose(job.output_kind, spec.num_classes, spec.name)
    loaded = create_model(
        job.model,
        weights=job.weights,
        seed=job.seed,
        image_size=job.image_size,
        num_classes=job.num_classes,
        preprocessing=job.preprocessing,
    )
    return spec_as_loaded(spec, loaded), loaded


def _given(job: Job, model: nn.Module) -> tuple[ModelSpec, LoadedModel]:
    """Copy a live model."""
    spec = describe(on_meta(model), name_of(model), job.image_size)
    return spec, load_live(model, spec, job.preprocessing)


def check_labels(job: Job, spec: ModelSpec) -> None:
    """Check the number of class names.

    Raises:
        OptionError: there are more or fewer names than classes.
    """
    if job.labels and len(job.labels) != spec.num_classes:
        raise OptionError(f"{len(job.labels)} labels for {spec.num_classes} classes: give one line per class")


def check_skipped(job: Job, spec: ModelSpec) -> None:
    """Check the blocks that are not quantised; names of modules are checked when the graph is there.

    Raises:
        OptionError: the model has no block of such a number.
    """
    for part in job.quantization.skip:
        number = part.split(".")[0]
        if number.isdecimal() and int(number) >= spec.depth:
            raise OptionError(
                f"--quantize-skip names block {number}, but {spec.name} has blocks 0 to {spec.depth - 1}: leave it out"
            )


def images_for(job: Job, model: JobModel) -> InputSet:
    """Return real images if there are any, else seeded noise with the statistics of natural images.

    Raises:
        OptionError: the folder of the job has no images that can be read.
    """
    loaded = model.loaded
    return pixels_for(image_count(job), loaded.resolved, loaded.preprocessing, images=job.images, seed=job.seed)


def image_count(job: Job) -> int:
    """Return the largest number of images that a job reads."""
    count = max(VERIFICATION_IMAGES, sum(batches_to_verify(job.batch)[0]))
    # The last ones calibrate, so that verification has others.
    calibrating = calibration_count(job) if any(precision.calibrated for precision in job.precisions) else 0
    return count + max(calibrating, 0 if job.reduction.capacity is None else CAPACITY_IMAGES)


def calibration_count(job: Job) -> int:
    """Return the number of calibration images of a quantised file, if as many are available."""
    return job.quantization.images or calibration_images(given=job.images is not None)
