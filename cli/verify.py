"""`tofu-export verify`: does this file compute what it should?"""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofu_export.cli.parameters import parse_batches
from tofu_export.errors import VerificationError
from tofu_export.options import OutputKind, Precision

if TYPE_CHECKING:
    from tofu_export.verify import VerificationResult, VerifyRequest

__all__ = ["verify_command"]

SCHEMA_VERSION = 1
_WIDTH = 200


@click.command("verify", short_help="Compare an ONNX file with the eager model, or with another file.")
@click.argument("file", metavar="FILE.onnx", type=click.Path(path_type=Path))
@click.option("--model", default=None, metavar="NAME", help="timm name of the model.  [default: what the file says]")
@click.option(
    "--weights",
    default=None,
    metavar="pretrained|random|PATH",
    help="Where the model's weights come from.  [default: what the file says]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of --weights random, and of generated images.")  # fmt: skip
@click.option("--num-classes", type=click.IntRange(min=0), default=None, metavar="N",
              help="Width of the classifier.  [default: what the file says, or the model's own]")  # fmt: skip
@click.option("--output-kind", type=click.Choice([kind.value for kind in OutputKind]), default=None,
              help="What the file gives.  [default: what the file says, or logits]")  # fmt: skip
@click.option("--reference", type=click.Path(path_type=Path), default=None, metavar="OTHER.onnx",
              help="Compare with this file, and with no model.")  # fmt: skip
@click.option("--images", type=click.Path(path_type=Path), default=None, metavar="DIR",
              help="Real images to compare on.")  # fmt: skip
@click.option("--batch", default="", metavar="LIST",
              help="Batch sizes, such as 1,8.  [default: some of those that the file serves]")  # fmt: skip
@click.option("--precision", type=click.Choice([precision.value for precision in Precision]), default=None,
              help="Of the file.  [default: what it says, or the type of its weights]")  # fmt: skip
@click.option("--tolerance", default=None, metavar="NAME",
              help="Tolerance of another precision.  [default: the file's; of two files the wider one]")  # fmt: skip
@click.option("--atol", type=float, default=None, metavar="X", help="Largest difference, in place of the tolerance's.")
@click.option("--rtol", type=float, default=None, metavar="X",
              help="The same as a share of the largest value, or of 1; adds to --atol.")  # fmt: skip
@click.option("--cosine", type=float, default=None, metavar="X", help="Smallest cosine of two outputs.")
@click.option("--bundle", type=click.Path(path_type=Path), default=None, metavar="DIR",
              help="If it fails, write all that is needed to look closer to this new folder.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors.")
@click.option("-v", "--verbose", is_flag=True, help="Also decisions and errors block by block.")
def verify_command(
    file: Path,
    model: str | None,
    weights: str | None,
    seed: int,
    num_classes: int | None,
    output_kind: str | None,
    reference: Path | None,
    images: Path | None,
    batch: str,
    precision: str | None,
    tolerance: str | None,
    atol: float | None,
    rtol: float | None,
    cosine: float | None,
    bundle: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Compare FILE.onnx with the eager model that it was made from, or with another file, in onnxruntime.

    A file of this project says which model, weights and reduction it holds. A foreign one needs --model and --weights,
    or --reference. Matching decisions are compared apart from arithmetic. Exit code 4: it is wrong.

    \b
    tofu-export verify out/model.fp16.onnx -v
    tofu-export verify out/model.fp32.onnx --weights vit_base.pth
    tofu-export verify lowered.onnx --reference original.onnx --atol 1e-4
    """  # fmt: skip
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    batches = parse_batches(batch, "--batch")
    from tofu_export.bundle import check_folder
    from tofu_export.verify import ToleranceChoice, VerifyRequest  # imports torch: only after the cheap checks
    from tofu_export.verify.bundling import bundle_failure
    from tofu_export.zoo.weights import WeightsSource

    request = VerifyRequest(
        path=file,
        model=model,
        weights=None if weights is None else WeightsSource.parse(weights),
        seed=seed,
        num_classes=num_classes,
        output_kind=None if output_kind is None else OutputKind(output_kind),
        reference=reference,
        images=images,
        batches=batches,
        precision=None if precision is None else Precision(precision),
        tolerance=ToleranceChoice(tolerance, atol, rtol, cosine),
        layers=verbose or bundle is not None,
    )
    if bundle is not None:
        check_folder(bundle)
    result = failure = None
    try:
        result = _run(request, quiet=quiet, verbose=verbose)
    except VerificationError as error:  # it lacks what must be compared: the document says so as well
        failure = error
    if result is not None and not result.passed:
        failure = result.failure("" if request.layers else "Run again with -v to see it block by block")
    document = _document([] if result is None else [result.to_dict()], failure)
    if failure is not None and bundle is not None and file.is_file():
        failure = bundle_failure(bundle, file, failure, document, result, reference)
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    if failure is not None:
        raise failure


def _run(request: VerifyRequest, *, quiet: bool, verbose: bool) -> VerificationResult:
    from rich.console import Console

    from tofu_export.cli.console import ConsoleListener
    from tofu_export.cli.verify_text import show
    from tofu_export.verify import verify_file

    # Off a terminal rich would squeeze tables into 80 columns.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH)
    listener = ConsoleListener(console, quiet=quiet)
    listener.step(f"reading {request.path.name}")
    try:
        result = verify_file(request, listener.step)
    finally:
        listener.close()
    if not quiet:
        show(console, result, verbose=verbose)
    return result


def _document(verification: list[dict[str, Any]], error: VerificationError | None) -> dict[str, Any]:
    from tofu_export import environment

    return {
        "schema_version": SCHEMA_VERSION,
        "command": shlex.join(["tofu-export", *sys.argv[1:]]),
        "environment": environment.collect(),
        "verification": verification,
        "error": None if error is None else str(error),
    }
