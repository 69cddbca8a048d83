"""The only import of onnxruntime: sessions that run on the requested provider, or fail with the reason.

onnxruntime answers a provider that cannot start with a session on the CPU and no exception, and wraps every other
failure in its own exceptions. Here both become a `TofuError` of one line, and a good run prints nothing.
"""

from tofu_export.system.ort.int8 import EXACT_INT8
from tofu_export.system.ort.opening import OPTIMIZED_NAME, check_path, open_copy, open_session, rejection
from tofu_export.system.ort.package import CPU_PROVIDER, version
from tofu_export.system.ort.providers import providers_usable
from tofu_export.system.ort.races import exact_threads
from tofu_export.system.ort.session import OrtSession, TensorSpec

__all__ = [
    "CPU_PROVIDER",
    "EXACT_INT8",
    "HALF_THROUGH_CASTS",
    "NO_BFLOAT16",
    "OPTIMIZED_NAME",
    "OrtSession",
    "TensorSpec",
    "check_path",
    "exact_threads",
    "open_copy",
    "open_session",
    "providers_usable",
    "rejection",
    "version",
]

NO_BFLOAT16 = "onnxruntime's CPU provider has no bfloat16 kernels"
HALF_THROUGH_CASTS = "onnxruntime's CPU provider computes half precision through casts"
"""Reason why a file is not run on a CPU, for reports."""
