"""Bundle what a failed verification saw."""

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
    """Write a bundle to `folder`, and return the failure with a word about it.

    Args:
        folder: new or empty.
        path: the file that failed.
        failure: what is said about it.
        report: the document that is printed or written.
        result: what was compared; None where it did not come to that.
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
