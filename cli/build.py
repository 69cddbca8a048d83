"""`tofu-export build`: a TensorRT engine from any ONNX file, with a receipt of what came out."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tofu_export.cli.parameters import command_line, parse_names
from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import (
    bundle_option,
    capability_option,
    file_precision_option,
    json_option,
    quiet_option,
    served_batch_option,
    verbose_option,
)
from tofu_export.errors import EngineBuildError, ExportError, OptionError, PrecisionMismatchError, TofuError
from tofu_export.options import BatchRange, Precision

if TYPE_CHECKING:
    from tofu_export.engines.building.build import EngineRequest
    from tofu_export.engines.describing.receipt import EngineReceipt

__all__ = ["build_command", "receipt_text"]

SCHEMA_VERSION = 1


@command("build", short_help="Build a TensorRT engine from any ONNX file.")
@click.argument("file", metavar="FILE.onnx", type=click.Path(path_type=Path))
@served_batch_option(None, unless="1:8:64, or what the file is fixed to")
@option(Section.FILES, "--min-shapes", default="", metavar="NAME:1x3x224x224,...", help="Smallest sizes of inputs.")
@option(Section.FILES, "--opt-shapes", default="", metavar="NAME:...",
        help="Preferred sizes; alone, they are the only ones.")  # fmt: skip
@option(Section.FILES, "--max-shapes", default="", metavar="NAME:...", help="Largest sizes.")
@option(Section.FILES, "--values", multiple=True, metavar="NAME=MIN:OPT:MAX",
        help="Values of an input that decides sizes, such as k=1:5:10 or size=480x640.")  # fmt: skip
@option(Section.ENGINE, "--flavour", type=click.Choice(["tensorrt-rtx", "tensorrt"]), default=None,
        help="Which TensorRT.  [default: the one that is installed]")  # fmt: skip
@capability_option()
@option(Section.ENGINE, "--workspace", default=None, metavar="SIZE", help="Limit for scratch memory, such as 2G.")
@option(Section.ENGINE, "--builder-opt-level", type=int, default=None, metavar="0..5",
        help="Build fast (0) or run fast (5).")  # fmt: skip
@option(Section.ENGINE, "--timing-cache", type=click.Path(path_type=Path), default=None, metavar="FILE",
        help="Kernel times to keep; one file per GPU, version and ONNX file, named after it.")  # fmt: skip
@option(Section.ENGINE, "--version-compatible", is_flag=True, help="The engine loads in later versions too.")
@option(Section.ENGINE, "--hw-compat", default=None, metavar="ampere+|same-compute-capability",
        help="The engine runs on other GPUs too.")  # fmt: skip
@option(Section.ENGINE, "--strip-weights", is_flag=True, help="Leave the weights out, to be put in before use.")
@option(Section.ENGINE, "--refit", is_flag=True, help="Weights can be replaced later.")
@file_precision_option("what the file says of itself, or its types")
@option(Section.CHECK, "--min-share", type=click.FloatRange(0, 1), default=None, metavar="SHARE",
        help="Of the multiply-accumulates that have to be in it, for fp16 or bf16.  [default: 0.9]")  # fmt: skip
@option(Section.OUTPUT, "-o", "--output", type=click.Path(), default=None, metavar="PATH",
        help="The engine, or a folder for it.  [default: FILE.FLAVOUR.engine beside the file]")  # fmt: skip
@bundle_option()
@json_option()
@quiet_option()
@verbose_option("layers, kernels, work and bytes by part of the model")
def build_command(
    file: Path,
    flavour: str | None,
    batch: str | None,
    min_shapes: str,
    opt_shapes: str,
    max_shapes: str,
    values: tuple[str, ...],
    precision: str | None,
    min_share: float | None,
    compute_capability: str,
    workspace: str | None,
    builder_opt_level: int | None,
    timing_cache: Path | None,
    version_compatible: bool,
    hw_compat: str | None,
    strip_weights: bool,
    refit: bool,
    output: str | None,
    bundle: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Build an engine from FILE.onnx, ours or not, and write what is known of it into a .json beside it.

    What the builder is known to reject is said before it starts, with the node's name. TensorRT-RTX builds without a
    GPU for the capabilities asked for, TensorRT for the GPU of this machine. An option that the chosen one does not
    have is an error.

    \b
    tofu-export build model.onnx -o model.engine
    tofu-export build any.onnx --opt-shapes image:1x3x224x224 --compute-capability SM75,SM89
    """  # fmt: skip
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    from tofu_export.engines.building.build import LEAST_SHARE, EngineRequest, engine_names
    from tofu_export.engines.building.builder_options import BuilderOptions, parse_size
    from tofu_export.engines.building.profiles import parse_shape_options, parse_values
    from tofu_export.engines.flavours import pick

    options = BuilderOptions(
        workspace_bytes=None if workspace is None else parse_size(workspace),
        level=builder_opt_level,
        timing_cache=timing_cache,
        version_compatible=version_compatible,
        hardware=hw_compat,
        strip_weights=strip_weights,
        refit=refit,
    )
    shapes, sized = parse_shape_options(min_shapes, opt_shapes, max_shapes), parse_values(values)
    batches = None if batch is None else BatchRange.parse(batch)
    if min_share is not None and precision not in ("fp16", "bf16"):
        raise OptionError("--min-share is a share of fp16 or bf16: give --precision fp16 or bf16 with it")
    chosen = pick(flavour)
    default = f"{file.name.removesuffix('.onnx')}.{chosen.name}.engine"
    target = _target(file, output, default)
    requests = [
        EngineRequest(
            onnx_path=file,
            engine_path=target.with_name(name),
            flavour=chosen,
            batch=batches,
            precision=None if precision is None else Precision(precision),
            compute_capabilities=capabilities,
            shapes=shapes,
            values=sized,
            least_share=LEAST_SHARE if min_share is None else min_share,
            options=options,
        )
        for name, capabilities in engine_names(target.name, parse_names(compute_capability)).items()
    ]
    if bundle is not None:
        from tofu_export.bundle import check_folder

        check_folder(bundle)
    try:
        receipts = _build(requests, quiet=quiet, verbose=verbose)
    except (EngineBuildError, PrecisionMismatchError) as error:
        if bundle is None or not file.is_file():
            raise
        raise _bundled(bundle, requests, error) from error
    if as_json:
        from tofu_export.engines.describing.sidecar import sidecar_document
        from tofu_export.system import environment

        document = {
            "schema_version": SCHEMA_VERSION,
            "command": command_line(),
            "environment": environment.collect(),
            "engines": [sidecar_document(receipt, {"command": command_line()}) for receipt in receipts],
        }
        click.echo(json.dumps(document, indent=2, allow_nan=False))


def _target(file: Path, output: str | None, default: str) -> Path:
    """Where the engine goes: beside the file, into the folder (what ends with a slash is one), or to the very path."""
    if output is None:
        return file.with_name(default)
    folder = output.endswith(("/", os.sep)) or Path(output).is_dir()
    return Path(output, default) if folder else Path(output)


def _build(requests: list[EngineRequest], *, quiet: bool, verbose: bool) -> list[EngineReceipt]:
    """Build all engines in a staging folder; they appear together with their sidecars, or none does."""
    from dataclasses import replace

    from tofu_export.cli.console import listening
    from tofu_export.engines.building.build import build_engine, check_request
    from tofu_export.engines.describing.sidecar import write_sidecar
    from tofu_export.system.files import staging

    receipts, names = [], []
    for request in requests:  # what cannot be built is said before the first build
        check_request(request)
    with listening(quiet=quiet) as listener, staging(requests[0].engine_path.absolute().parent) as stage:
        for request in requests:
            draft = stage.path(request.engine_path.name)
            listener.step(f"building {draft.name}")
            receipt = build_engine(
                replace(request, engine_path=draft), on_tick=lambda seconds: listener.tick(f"{seconds:.0f} s")
            )
            sidecar = write_sidecar(receipt, draft, {"command": command_line()})
            receipts.append(receipt)
            names += [draft.name, sidecar.name]
            listener.done(receipt_text(receipt, verbose=verbose))
        stage.publish(*names)
    return receipts


def _bundled(folder: Path, requests: list[EngineRequest], failure: TofuError) -> TofuError:
    """The failure, with a word about the bundle that was written; as it is if the file cannot be read at all."""
    from tofu_export.artifact.feeds import fixed_batch, make_feeds
    from tofu_export.bundle import EngineFailure, bundle_engine_failure
    from tofu_export.engines.building.build import resolve_capabilities
    from tofu_export.system import environment
    from tofu_export.system.ort import open_session

    request = requests[0]
    batch = request.batch or BatchRange()
    capabilities = tuple(dict.fromkeys(name for entry in requests for name in resolve_capabilities(entry)))
    feeds = {}
    with contextlib.suppress(TofuError):  # a file that onnxruntime does not load has no inputs to show
        inputs = open_session(request.onnx_path).inputs
        shapes = {name: optimum for name, (_, optimum, _) in request.shapes.items()}
        sizes = fixed_batch(inputs) or next((shape[0] for shape in shapes.values()), batch.optimum)
        feeds = make_feeds(request.onnx_path.name, inputs, sizes, shapes=shapes)
    report = {
        "schema_version": SCHEMA_VERSION,
        "command": command_line(),
        "environment": environment.collect(),
        "error": str(failure),
    }
    wanted = EngineFailure(request.flavour.name, batch, capabilities)
    try:
        return bundle_engine_failure(folder, request.onnx_path, failure, report, wanted, feeds)
    except ExportError as error:
        return type(failure)(f"{failure} (no bundle was written: {error})")


def receipt_text(receipt: EngineReceipt, *, verbose: bool = False) -> str:
    """What a person wants to know of an engine, in a few lines; with `verbose` also its parts."""
    structure = receipt.structure.to_dict()
    where = ", ".join(receipt.compute_capabilities) or receipt.gpu or "the GPU of this machine"
    shares = ", ".join(f"{share:.1%} {name}" for name, share in structure["mac_share"].items()) or "no products"
    layers = ", ".join(f"{count} {name}" for name, count in structure["compute_layers"].items())
    kernels = len(receipt.kernels.launched)
    lines = [
        f"{receipt.engine_bytes / 1e6:.1f} MB, {receipt.flavour} {receipt.version}, for {where}",
        f"precision {receipt.precision.value}: {shares} of the multiply-accumulates"
        + (f" ({layers} layers)" * bool(layers)),
        (f"{kernels} kernels" if kernels else "kernels: the builder printed no list")
        + (f": {receipt.fusions}" if receipt.fusions is not None and str(receipt.fusions) else ""),
        *(
            f"shapes of {name}: {' | '.join('x'.join(map(str, s)) for s in sizes)}"
            for name, sizes in receipt.profiles.items()
        ),
        *(f"note: {note}" for note in receipt.notes),
    ]
    if verbose:
        total = receipt.structure.total
        lines += ["", f"{'part':<12} {'layers':>7} {'kernels':>8} {'GMACs':>9} {'weights MB':>11} {'results MB':>11}"]
        lines += [
            f"{name:<12} {part.layers:>7} {part.kernels:>8} {part.macs / 1e9:>9.4f} "
            f"{part.weight_bytes / 1e6:>11.2f} {part.output_bytes / 1e6:>11.2f}"
            for name, part in {**receipt.structure.parts, "total": total}.items()
        ]
        lines.append("for a batch of one, as the parser's network has it before kernels are fused")
    return "\n".join(lines)
