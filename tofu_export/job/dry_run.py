"""Preview a job, after its initial checks; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from tofu_export import patch
from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.bundle import check_folder
from tofu_export.errors import OptionError
from tofu_export.images.inputs import from_folder
from tofu_export.job.capacity import with_capacity
from tofu_export.job.engines import planned_engines, why_no_engine
from tofu_export.job.files import planned_names
from tofu_export.job.model import check_labels, check_skipped, image_count, images_for, load_job_model
from tofu_export.job.page import why_no_token_maps
from tofu_export.job.request import Job
from tofu_export.options import OutputKind
from tofu_export.planning.outputs import names_of_outputs
from tofu_export.planning.plan import ModelSpec, Plan
from tofu_export.system.files import check_writable
from tofu_export.zoo.create import create_meta
from tofu_export.zoo.names import DEMO_MODEL
from tofu_export.zoo.specs import plan_model
from tofu_export.zoo.weights import WeightsKind

__all__ = ["Preview", "preview"]


@dataclass(frozen=True)
class Preview:
    """Preview of a job.

    Attributes:
        spec: the model.
        plan: its reduction.
        outputs: names of what the files output.
        loaded: description of the loaded weights, in one line.
        images: images that the files would be verified on.
        engines: names of the engines.
        no_engine: why no engines are built; empty if some are.
        files: names of all files that the job would publish.
    """

    spec: ModelSpec
    plan: Plan
    outputs: tuple[str, ...]
    loaded: str
    images: str
    engines: tuple[str, ...]
    no_engine: str
    files: tuple[str, ...]


def preview(job: Job) -> Preview:
    """Run the initial checks of a job, and return what it would make.

    Weights are read, except pretrained ones that would have to be downloaded.

    Raises:
        TofuError: the job would fail with this error.
        OptionError: the plan depends on weights that would have to be downloaded.
    """
    if job.bundle is not None:
        check_folder(job.bundle)
    engines = planned_engines(job)
    no_engine = "" if engines else why_no_engine(job)
    check_writable(job.output)
    if _is_downloaded(job):
        return _without_weights(job, engines, no_engine)
    model = load_job_model(job)
    images = images_for(job, model)
    model = with_capacity(model, job.reduction, images)
    structure = model.loaded.model
    files = _files(job, structure, model.output, model.spec, model.plan, engines, real=images.real)
    outputs = names_of_outputs(model.output, model.plan, token_map=job.token_map)
    return Preview(model.spec, model.plan, outputs, model.loaded.summary(), images.source, engines, no_engine, files)


def _files(
    job: Job,
    structure: nn.Module,
    output: OutputKind,
    spec: ModelSpec,
    plan: Plan,
    engines: tuple[str, ...],
    *,
    real: bool,
) -> tuple[str, ...]:
    read = patch.reads_patches(structure, output, token_map=job.token_map)
    reason = why_no_token_maps(spec, plan, job.precisions, real=real, reads_patches=read)
    return planned_names(job, spec.params, engines, token_maps=reason is None)


def _is_downloaded(job: Job) -> bool:
    local = job.model.strip() == DEMO_MODEL or job.model.strip().startswith("local-dir:")
    return job.weights.kind is WeightsKind.PRETRAINED and not local


def _without_weights(job: Job, engines: tuple[str, ...], no_engine: str) -> Preview:
    if job.reduction.capacity is not None:
        raise OptionError(
            "capacity is measured with the weights, which a dry run does not download: leave out --dry-run, or give a "
            "file with --weights PATH"
        )
    spec, plan = plan_model(job.model, job.reduction, job.image_size, job.num_classes)
    check_labels(job, spec)
    check_skipped(job, spec)
    structure = create_meta(job.model, job.image_size, job.num_classes)
    patch.check_plan(structure, plan, spec.name)
    output = patch.choose_output(structure, job.output_kind, spec.name)
    outputs = names_of_outputs(output, plan, token_map=job.token_map)
    images = "generated images"
    if job.images is not None:
        prepared = Preprocessing.uniform((spec.in_chans, *spec.image_size))
        images = from_folder(job.images, prepared, image_count(job)).source  # any preprocessing shows unreadable files
    loaded = "pretrained, not read here: the job downloads what is not in the cache"
    files = _files(job, structure, output, spec, plan, engines, real=job.images is not None)
    return Preview(spec, plan, outputs, loaded, images, engines, no_engine, files)
