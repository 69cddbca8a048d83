"""Verification of files: against the eager model, or against another file."""

from tofu_export.verify.eager import CPU_BATCH_CAP, batches_to_verify, verify
from tofu_export.verify.result import Evidence, LayerResult, VerificationResult

__all__ = ["CPU_BATCH_CAP", "Evidence", "LayerResult", "VerificationResult", "batches_to_verify", "verify"]
