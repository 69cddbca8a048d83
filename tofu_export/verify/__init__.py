"""Verification of files: against the eager model, or against another file."""

from tofu_export.verify.eager import CPU_BATCH_CAP, batches_to_verify, verify
from tofu_export.verify.pair import verify_pair
from tofu_export.verify.request import ToleranceChoice, VerifyRequest, verify_file
from tofu_export.verify.result import Evidence, LayerResult, VerificationResult

__all__ = [
    "CPU_BATCH_CAP",
    "Evidence",
    "LayerResult",
    "ToleranceChoice",
    "VerificationResult",
    "VerifyRequest",
    "batches_to_verify",
    "verify",
    "verify_file",
    "verify_pair",
]
