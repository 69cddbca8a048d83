"""Import torchmetrics and torch-fidelity, which are optional; no other module imports them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofu_export.errors import BackendMissingError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["functional", "inception", "inception_url", "metric"]

_INSTALL = "pip install 'tofu-export[metrics]'"


def functional() -> Any:
    """Import the functional image metrics of torchmetrics.

    Raises:
        BackendMissingError: torchmetrics is not installed, or cannot be imported.
    """
    try:
        import torchmetrics.functional.image as found
    except ImportError as error:
        raise _missing("torchmetrics", error) from error
    return found


def metric(name: str, **arguments: Any) -> Any:
    """Create a metric of `torchmetrics.image`, without its advice to the user.

    Raises:
        BackendMissingError: torchmetrics is not installed, or cannot be imported.
    """
    try:
        import torchmetrics.image.fid
        import torchmetrics.image.kid
        import torchmetrics.image.lpip
    except ImportError as error:
        raise _missing("torchmetrics", error) from error
    found = torchmetrics.image
    kinds = {
        "fid": found.fid.FrechetInceptionDistance,
        "kid": found.kid.KernelInceptionDistance,
        "lpips": found.lpip.LearnedPerceptualImagePatchSimilarity,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # KID warns that it keeps all features
        return kinds[name](**arguments)


def inception(weights: Path, feature: str) -> nn.Module:
    """Load the Inception network that defines FID: uint8 [B, 3, H, W] to a tuple of one float32 [B, D].

    The network resizes as the original in TensorFlow does, without antialiasing, so that numbers are comparable with
    published ones.

    Args:
        weights: file of its weights.
        feature: layer, `2048` for FID and KID.

    Raises:
        BackendMissingError: torch-fidelity is not installed, or cannot be imported.
        RuntimeError: the weights are those of another network.
    """
    made: nn.Module = _fidelity().FeatureExtractorInceptionV3(
        "inception-v3-compat", [feature], feature_extractor_weights_path=str(weights)
    )
    return made


def inception_url() -> str:
    """Return the URL of torch-fidelity's Inception weights.

    Raises:
        BackendMissingError: torch-fidelity is not installed, or cannot be imported.
    """
    return str(_fidelity().URL_INCEPTION_V3)


def _fidelity() -> Any:
    try:
        import torch_fidelity.feature_extractor_inceptionv3 as found
    except ImportError as error:
        raise _missing("torch-fidelity", error) from error
    return found


def _missing(name: str, error: ImportError) -> BackendMissingError:
    reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be imported ({error})"
    return BackendMissingError(f"comparing images needs {name}, which {reason}: {_INSTALL}")
