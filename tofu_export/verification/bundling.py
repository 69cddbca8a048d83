"""Bundle the inputs and outputs of a failed verification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tofu_export.bundle import Failure, write_bundle
from tofu_export.errors import VerificationError
from tofu_export.verification.result import VerificationResult

__all__ = ["bundle_failure"]


def bundle_failure(
    folder: Path,
    path: Path,
    failure: VerificationError,
    report: Mapping[str, Any],
    result: VerificationResult | None = None,
    reference: Path | None = None,
) -> VerificationError:
    """Write a bundle, and return the failure with a message about the bundle.

    Args:
        folder: a new or empty folder.
        path: the file that failed.
        failure: the error that describes the failure.
        report: the document that is printed or written.
        result: the comparison; None if there was none.
        reference: the file that it was compared with.

    Raises:
        OutputError: the folder cannot be written.
    """
    evidence = None if result is None else result.evidence
    details: dict[str, Any] = {}
    if result is not None and evidence is not None:
        details = {
            "feeds": evidence.feeds,
            "got": evidence.got,
            "expected": evidence.expected,
            "allowed": result.tolerance.allowed(result.outputs.scale),
            "reference": result.reference,
        }
    write_bundle(folder, Failure(path, str(failure), report, reference_file=reference, **details))
    return VerificationError(f"{failure}. {folder / 'README.md'} says how to look at it closer")
