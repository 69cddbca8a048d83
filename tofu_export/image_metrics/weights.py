"""Weights of the networks behind metrics: their location, what is missing, and how to get it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tofu_export.errors import WeightsError, first_line
from tofu_export.image_metrics._optional import inception_url
from tofu_export.image_metrics.result import NetworkWeights
from tofu_export.options.declaration import Section, opt
from tofu_export.system.files import sha256_of

__all__ = [
    "LPIPS_NETWORKS",
    "WeightsFolder",
    "WeightsSpec",
    "described",
    "inception_weights",
    "lpips_weights",
    "served_by_torch",
]

LPIPS_NETWORKS = {"alex": "alexnet", "squeeze": "squeezenet1_1", "vgg": "vgg16"}
"""Names of networks in torchvision, by name in LPIPS. The weights trained for LPIPS come with torchmetrics."""

_HASH = re.compile(r"-([0-9a-f]{8,})\.")
"""First digits of the SHA-256 in the names of published weights."""


@dataclass(frozen=True)
class WeightsSpec:
    """Published weights.

    Attributes:
        url: where they are published; the last part is the file name.
    """

    url: str

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]


def inception_weights() -> WeightsSpec:
    """Return Inception's weights, for FID and KID.

    Raises:
        BackendMissingError: torch-fidelity is not installed.
    """
    return WeightsSpec(inception_url())


def lpips_weights(network: str) -> WeightsSpec:
    """Return the weights of a network of `LPIPS_NETWORKS`."""
    import torchvision

    return WeightsSpec(str(torchvision.models.get_model_weights(LPIPS_NETWORKS[network]).DEFAULT.url))


@dataclass(frozen=True)
class WeightsFolder:
    """Folder that holds weights under their published names.

    Attributes:
        given: the folder; None for torch's cache.
        download: whether missing weights may be downloaded into it.
    """

    given: Path | None = opt(
        None, "Folder of the weights that LPIPS, FID and KID need.", Section.CHECK, flags=("--network-weights",),
        metavar="DIR", unless="torch's cache",
    )  # fmt: skip
    download: bool = opt(False, "Download weights that are missing there.", Section.CHECK, flags=("--download",))

    @property
    def path(self) -> Path:
        """Path of the folder, which may not exist."""
        import torch

        return self.given if self.given is not None else Path(torch.hub.get_dir()) / "checkpoints"

    def find(self, wanted: WeightsSpec) -> Path:
        """Return the file of these weights, checked to hold only tensors.

        Raises:
            WeightsError: the file is missing and may not or cannot be downloaded, or is damaged.
        """
        import torch

        file = self.path / wanted.name
        if not file.is_file():
            if not self.download:
                raise WeightsError(
                    f"{wanted.name} is not in {self.path}: get it from {wanted.url}, and give its folder with "
                    "--network-weights DIR; or give --download"
                )
            self._download(wanted, file)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling, a cut archive: all say what is wrong with the file
            raise WeightsError(
                f"{file} cannot be read ({first_line(error)}): get it again from {wanted.url}"
            ) from error
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise WeightsError(f"{file} does not hold weights: get it again from {wanted.url}")
        return file

    def _download(self, wanted: WeightsSpec, file: Path) -> None:
        import torch

        found = _HASH.search(wanted.name)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(wanted.url, str(file), found[1] if found else None, progress=False)
        except (OSError, RuntimeError) as error:  # no network, a full disk; another hash
            raise WeightsError(
                f"{wanted.name} cannot be downloaded from {wanted.url} ({first_line(error)}): get it on another "
                "machine, and give its folder with --network-weights DIR"
            ) from error


@contextmanager
def served_by_torch(folder: Path) -> Iterator[None]:
    """Let torch find published weights in `folder` instead of its cache, for libraries that take no path.

    Raises:
        WeightsError: this process has chosen a cache by `torch.hub.set_dir`.
    """
    import torch

    before = os.environ.get("TORCH_HOME")
    with tempfile.TemporaryDirectory(prefix="tofu-export-") as home:
        hub = Path(home) / "hub"
        hub.mkdir()
        (hub / "checkpoints").symlink_to(folder.resolve(), target_is_directory=True)
        os.environ["TORCH_HOME"] = home
        try:
            if torch.hub.get_dir() != str(hub):
                raise WeightsError(
                    "torch.hub.set_dir was called, so that weights are looked for nowhere else: put them there"
                )
            yield
        finally:
            if before is None:
                del os.environ["TORCH_HOME"]
            else:
                os.environ["TORCH_HOME"] = before


def described(file: Path) -> NetworkWeights:
    """Describe a file of weights for a report."""
    return NetworkWeights(file.name, sha256_of(file))
