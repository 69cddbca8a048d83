"""Find method and r of each layer from unlabelled images, under a budget: `tofu-export tune` (docs/tuning.md)."""

from tofu_export.tune.objective import Objective
from tofu_export.tune.run import TuneRequest, TuneResult, tune

__all__ = ["Objective", "TuneRequest", "TuneResult", "tune"]
