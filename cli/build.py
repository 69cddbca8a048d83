"""`tofu-export build`: build a TensorRT engine from any ONNX file, with a receipt."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tofu_export.cli.command import Run, command
from tofu_export.engines.building.builder_options import BuilderOptions
from tofu_export.errors import EngineBuildError, ExportError, OptionError, PrecisionMismatchError, TofuError
from tofu_export.options import BatchRange, Precision, shared
from tofu_export.options.declaration import Section, group, opt, positional

if TYPE_CHECKING:
    from tofu_export.engines.building.build import EngineRequest
    from tofu_export.engines.describing.receipt import EngineReceipt

__all__ = ["build_command", "receipt_text"]


@dataclass(frozen=True)
class BuildWork:
    """Options of a build, from which an `EngineRequest` is made for each engine."""

    file: Path = positional(metavar="FILE.onnx")
    batch: BatchRange | None = shared.served_batch(None, unless="1:8:64, or what the file is fixed to")
    min_shapes: str = opt("", "Smallest sizes of inputs.", Section.FILES, metavar="NAME:1x3x224x224,...")
    opt_shapes: str = opt(
        "", "Preferred sizes; alone, they are the only ones.", Section.FILES, metavar="NAME:...", everyday=True
    )
    max_shapes: str = opt("", "Largest sizes.", Section.FILES, metavar="NAME:...")
    values: tuple[str, ...] = opt(
        (), "Values of an input that decides sizes, such as k=1:5:10 or size=480x640.", Section.FILES,
        metavar="NAME=MIN:OPT:MAX", multiple=True,
    )  # fmt: skip
    flavour: str | None = opt(
        None, "Which TensorRT.", Section.ENGINE, choices=("tensorrt-rtx", "tensorrt"),
        unless="the one that is installed", everyday=True,
    )  # fmt: skip
    capabilities: tuple[str, ...] = shared.capabilities()
    options: BuilderOptions = group(BuilderOptions)
    precision: Precision | None = shared.file_precision("what the file says of itself, or its types")
    least_share: float | None = opt(
        None, "Of the multiply-accumulates that have to be in it, for fp16 or bf16.", Section.CHECK,
        flags=("--min-share",), metavar="SHARE", unless="0.9", minimum=0, maximum=1,
    )  # fmt: skip
    output: str | None = opt(
        None, "The engine, or a folder for it.", Section.OUTPUT, flags=("-o", "--output"), metavar="PATH",
        unless="FILE.FLAVOUR.engine beside the file", everyday=True,
    )  # fmt: skip
    bundle: Path | None = shared.bundle()

    def __post_init__(self) -> None:
        if self.least_share is not None and self.precision not in (Precision.FP16, Precision.BF16):
            raise OptionError("--min-share is a share of fp16 or bf16: give --precision fp16 or bf16 with it")

    def requests(self) -> list[EngineRequest]:
        """Return one request for each engine: SM75 GPUs get a separate one.

        Raises:
            OptionError: a value cannot be used, or the flavour does not have an option.
            BackendMissingError: no TensorRT is usable here.
        """
        from tofu_export.engines.building.build import LEAST_SHARE, EngineRequest, engine_names
        from tofu_export.engines.building.profiles import parse_shape_options, parse_values
        from tofu_export.engines.flavours import pick

        shapes, values = (
            parse_shape_options(self.min_shapes, self.opt_shapes, self.max_shapes),
            parse_values(self.values),
        )
        flavour = pick(self.flavour)
        target = _target(self.file, self.output, f"{self.file.name.removesuffix('.onnx')}.{flavour.name}.engine")
        return [
            EngineRequest(
                onnx_path=self.file,
                engine_path=target.with_name(name),
                flavour=flavour,
                batch=self.batch,
                precision=self.precision,
                compute_capabilities=capabilities,
                shapes=shapes,
                values=values,
                least_share=LEAST_SHARE if self.least_share is None else self.least_share,
                options=self.options,
            )
            for name, capabilities in engine_names(target.name, self.capabilities).items()
        ]


@command(
    "build", short_help="Build a TensorRT engine from any ONNX file.", quiet="Only errors.",
    verbose="layers, kernels, work and bytes by part of the model",
)  # fmt: skip
def build_command(work: BuildWork, run: Run) -> None:
    """Build an engine from FILE.onnx, ours or not, and write what is known of it into a .json beside it.

    What the builder is known to reject is said before it starts, with the node's name. TensorRT-RTX builds without a
    GPU for the capabilities asked for, TensorRT for the GPU of this machine. An option that the chosen one does not
    have is an error.

    \b
    tofu-export build model.onnx -o model.engine
    tofu-export build any.onnx --opt-shapes image:1x3x224x224 --compute-capability SM75,SM89
    """  # fmt: skip
    requests = work.requests()
    if work.bundle is not None:
        from tofu_export.bundle import check_folder

        check_folder(work.bundle)
    try:
        receipts = _build(requests, run)
    except (EngineBuildError, PrecisionMismatchError) as error:
        if work.bundle is None or not work.file.is_file():
            raise
        raise _bundled(work.bundle, requests, error, run) from error
    if run.as_json:
        from tofu_export.engines.describing.sidecar import sidecar_document

        run.document(run.envelope(engines=[sidecar_document(row, {"command": run.command}) for row in receipts]))


def _target(file: Path, output: str | None, default: str) -> Path:
    """Return the path of the engine: beside the file, in the folder (`output` ends with a slash), or the given path."""
    if output is None:
        return file.with_name(default)
    folder = output.endswith(("/", os.sep)) or Path(output).is_dir()
    return Path(output, default) if folder else Path(output)


def _build(requests: list[EngineRequest], run: Run) -> list[EngineReceipt]:
    """Build all engines in a staging folder; they appear together with their sidecars, or none does."""
    from dataclasses import replace

    from tofu_export.engines.building.build import build_engine, check_request
    from tofu_export.engines.describing.sidecar import write_sidecar
    from tofu_export.system.files import staging

    receipts, names = [], []
    for request in requests:  # refuse invalid requests before the first build
        check_request(request)
    with run.listening() as listener, staging(requests[0].engine_path.absolute().parent) as stage:
        for request in requests:
            draft = stage.path(request.engine_path.name)
            listener.step(f"building {draft.name}")
            receipt = build_engine(
                replace(request, engine_path=draft), on_tick=lambda seconds: listener.tick(f"{seconds:.0f} s")
            )
            sidecar = write_sidecar(receipt, draft, {"command": run.command})
            receipts.append(receipt)
            names += [draft.name, sidecar.name]
            listener.done(receipt_text(receipt, verbose=run.verbose))
        stage.publish(*names)
    return receipts


def _bundled(folder: Path, requests: list[EngineRequest], failure: TofuError, run: Run) -> TofuError:
    """Return the failure, with a message about the written bundle; unchanged if the file cannot be read at all."""
    from tofu_export.artifact.feeds import fixed_batch, make_feeds
    from tofu_export.bundle import EngineFailure, bundle_engine_failure
    from tofu_export.engines.building.build import resolve_capabilities
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
    report = run.envelope(error=str(failure))
    wanted = EngineFailure(request.flavour.name, batch, capabilities)
    try:
        return bundle_engine_failure(folder, request.onnx_path, failure, report, wanted, feeds)
    except ExportError as error:
        return type(failure)(f"{failure} (no bundle was written: {error})")


def receipt_text(receipt: EngineReceipt, *, verbose: bool = False) -> str:
    """Summarise an engine in a few lines; with `verbose` also its parts."""
    from tofu_export.engines.describing.structure import shares

    structure = receipt.structure
    where = ", ".join(receipt.compute_capabilities) or receipt.gpu or "the GPU of this machine"
    products = ", ".join(f"{share:.1%} {name}" for name, share in shares(structure.macs).items()) or "no products"
    layers = ", ".join(f"{count} {name}" for name, count in structure.heavy_layers.items())
    kernels = len(receipt.kernels.launched)
    lines = [
        f"{receipt.engine_bytes / 1e6:.1f} MB, {receipt.flavour} {receipt.version}, for {where}",
        f"precision {receipt.precision.value}: {products} of the multiply-accumulates"
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
        lines += ["", f"{'part':<12} {'layers':>7} {'kernels':>8} {'GMACs':>9} {'weights MB':>11} {'results MB':>11}"]
        lines += [
            f"{name:<12} {part.layers:>7} {part.kernels:>8} {part.macs / 1e9:>9.4f} "
            f"{part.weight_bytes / 1e6:>11.2f} {part.output_bytes / 1e6:>11.2f}"
            for name, part in {**structure.parts, "total": structure.total}.items()
        ]
        lines.append("for a batch of one, as the parser's network has it before kernels are fused")
    return "\n".join(lines)
