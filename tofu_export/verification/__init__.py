"""Verification of files: against the eager model, or against another file."""

from tofu_export.verification.eager import CPU_BATCH_CAP, batches_to_verify, compare_with, verify
from tofu_export.verification.pair import verify_pair
from tofu_export.verification.request import ToleranceChoice, VerifyRequest, verify_file
from tofu_export.verification.result import Evidence, LayerResult, VerificationResult
from tofu_export.verification.subject import Runnable, Subject

__all__ = [
    "CPU_BATCH_CAP",
    "Evidence",
    "LayerResult",
    "Runnable",
    "Subject",
    "ToleranceChoice",
    "VerificationResult",
    "VerifyRequest",
    "batches_to_verify",
    "compare_with",
    "verify",
    "verify_file",
    "verify_pair",
]
