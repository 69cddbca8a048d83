"""`tofu-export verify`: check whether a file computes what it should."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tofu_export.cli.command import Run, command
from tofu_export.errors import OptionError, VerificationError
from tofu_export.options import PLAN_SUFFIXES, shared
from tofu_export.verification.request import VerifyRequest

if TYPE_CHECKING:
    from tofu_export.verification.result import VerificationResult

__all__ = ["verify_command"]


@dataclass(frozen=True)
class VerifyOutput:
    """Options for what is written about a wrong file."""

    bundle: Path | None = shared.bundle()


@command(
    "verify", short_help="Compare an ONNX file or an engine with the eager model, or with another file.",
    quiet="Only errors.", verbose="decisions and errors block by block",
)  # fmt: skip
def verify_command(request: VerifyRequest, written: VerifyOutput, run: Run) -> None:
    """Compare FILE with the eager model that it was made from, or with another file, in onnxruntime.

    A file of this project says which model, weights and reduction it holds. A foreign one needs --model and --weights,
    or --reference. Matching decisions are compared apart from arithmetic. Exit code 4: it is wrong.

    A TensorRT engine is run on the GPU, and compared with the eager model and with the ONNX file beside it that it was
    built from, or with --reference alone. Exit code 5: there is no GPU, or no TensorRT, to run it.

    \b
    tofu-export verify out/model.fp16.onnx -v
    tofu-export verify out/model.fp32.onnx --weights vit_base.pth
    tofu-export verify lowered.onnx --reference original.onnx --atol 1e-4
    tofu-export verify out/model.fp16.tensorrt-rtx.engine
    """  # fmt: skip
    from tofu_export.bundle import check_folder
    from tofu_export.verification.bundling import bundle_failure

    file, bundle = request.path, written.bundle
    request = replace(request, layers=run.verbose or bundle is not None)
    if bundle is not None:
        check_folder(bundle)
    engine = file.suffix in PLAN_SUFFIXES
    if engine and bundle is not None:
        raise OptionError(
            "--bundle holds an ONNX file: leave it out, or verify the file that the engine was built from"
        )
    results: tuple[VerificationResult, ...] = ()
    failure = None
    try:
        results = _verify(request, run, engine=engine)
    except VerificationError as error:  # it lacks what must be compared: also in the document
        failure = error
    wrong = next((result for result in results if not result.passed), None)
    if wrong is not None:
        advice = "Run again with -v to see it block by block"
        if engine:
            advice = "Verify its ONNX file too, to see which of the two is wrong"
        failure = wrong.failure("" if request.layers else advice)
    document = run.envelope(
        verification=[result.to_dict() for result in results], error=None if failure is None else str(failure)
    )
    if failure is not None and bundle is not None and file.is_file():
        failure = bundle_failure(bundle, file, failure, document, wrong, request.reference)
    run.document(document)
    if failure is not None:
        raise failure


def _verify(request: VerifyRequest, run: Run, *, engine: bool) -> tuple[VerificationResult, ...]:
    from tofu_export.cli.verify_text import show
    from tofu_export.verification.engines import verify_engine
    from tofu_export.verification.file import verify_file

    console = run.console()
    with run.listening(f"reading {request.path.name}", console) as listener:
        results = verify_engine(request, listener.step) if engine else (verify_file(request, listener.step),)
    for result in () if run.quiet else results:
        show(console, result, verbose=run.verbose)
    return results
