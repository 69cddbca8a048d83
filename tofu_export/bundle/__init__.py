"""Failure bundles: all that is needed to debug a failed file elsewhere."""

from tofu_export.bundle.engine import bundle_engine_failure
from tofu_export.bundle.readme import EngineFailure
from tofu_export.bundle.write import Failure, check_folder, write_bundle

__all__ = ["EngineFailure", "Failure", "bundle_engine_failure", "check_folder", "write_bundle"]
