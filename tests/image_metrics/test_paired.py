"""Paired metrics against formulas in numpy, written from the papers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
import torchvision
from numpy.typing import NDArray

from tests.image_metrics.stand_ins import SQUEEZE, pixels, save_squeezenet, seeded
from tofu_export.errors import OptionError, WeightsError
from tofu_export.image_metrics import paired
from tofu_export.image_metrics.weights import LPIPS_NETWORKS, lpips_weights

Doubles = NDArray[np.float64]


def two(height: int = 32, width: int = 40) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """[3, H, W] each; the second one is the first with other noise."""
    a = pixels(0, height, width)
    b = np.clip(a.astype(int) + np.random.default_rng(1).integers(-20, 21, a.shape), 0, 255).astype(np.uint8)
    return a.transpose(2, 0, 1).copy(), b.transpose(2, 0, 1).copy()


def window() -> Doubles:
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    return np.outer(taps, taps) / taps.sum() ** 2


def smoothed(image: Doubles) -> Doubles:
    """Each channel [C, H, W] under the window, mirrored at the border."""
    padded = np.pad(image, ((0, 0), (5, 5), (5, 5)), mode="reflect")
    views = np.lib.stride_tricks.sliding_window_view(padded, (11, 11), axis=(1, 2))
    return np.einsum("chwij,ij->chw", views, window())


def ssim_maps(a: Doubles, b: Doubles) -> tuple[Doubles, Doubles]:
    """SSIM and its part without luminance, pixel by pixel, for values from 0 to 1."""
    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = smoothed(a), smoothed(b)
    var_a, var_b = smoothed(a * a) - mean_a**2, smoothed(b * b) - mean_b**2
    covariance = smoothed(a * b) - mean_a * mean_b
    contrast = (2 * covariance + c2) / (var_a + var_b + c2)
    return (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * contrast, contrast


def halved(image: Doubles) -> Doubles:
    rows, columns = image.shape[1] // 2, image.shape[2] // 2
    return image[:, : 2 * rows, : 2 * columns].reshape(3, rows, 2, columns, 2).mean(axis=(2, 4))


def test_psnr() -> None:
    a, b = two()
    error = ((a.astype(float) - b.astype(float)) ** 2).mean()
    assert paired.psnr()(a, b) == pytest.approx(10 * math.log10(255**2 / error), abs=1e-5)
    assert paired.psnr()(a, a) == math.inf


def test_psnr_of_one_grey_level() -> None:
    a = np.full((3, 8, 8), 100, dtype=np.uint8)
    assert paired.psnr()(a, a + 1) == pytest.approx(20 * math.log10(255))


def test_ssim() -> None:
    a, b = two()
    expected = ssim_maps(a / 255, b / 255)[0].mean()
    assert 0.1 < expected < 0.99
    assert paired.ssim()(a, b) == pytest.approx(expected, abs=1e-6)  # torchmetrics makes its window in float32
    assert paired.ssim()(a, a) == pytest.approx(1)


def test_ms_ssim() -> None:
    a, b = two(paired.MS_SSIM_SIDE, paired.MS_SSIM_SIDE + 5)
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    left, right, expected = a / 255, b / 255, 1.0
    for scale, weight in enumerate(weights):
        whole, contrast = ssim_maps(left, right)
        inside = contrast[:, 5:-5, 5:-5]  # torchmetrics takes the contrast away from the border
        expected *= max(0, (whole if scale == 4 else inside).mean()) ** weight
        left, right = halved(left), halved(right)
    assert 0.1 < expected < 0.999
    assert paired.ms_ssim()(a, b) == pytest.approx(expected, abs=1e-5)
    assert paired.ms_ssim()(a, a) == pytest.approx(1)


def test_the_least_sides_are_those_that_torchmetrics_takes() -> None:
    def images(side: int) -> list[NDArray[np.uint8]]:
        return [image[:, :side, :side].copy() for image in two(200, 200)]

    assert math.isfinite(paired.ssim()(*images(paired.SSIM_SIDE)))
    with pytest.raises(RuntimeError):
        paired.ssim()(*images(paired.SSIM_SIDE - 1))
    assert math.isfinite(paired.ms_ssim()(*images(paired.MS_SSIM_SIDE)))
    with pytest.raises(ValueError, match="must be larger"):
        paired.ms_ssim()(*images(paired.MS_SSIM_SIDE - 1))


@pytest.mark.parametrize("network", LPIPS_NETWORKS)
def test_the_least_sides_are_those_that_the_networks_take(network: str) -> None:
    with torch.device("meta"):
        features: Any = getattr(torchvision.models, LPIPS_NETWORKS[network])(weights=None).features
    used = {"alex": 12, "squeeze": 13, "vgg": 30}[network]  # layers that LPIPS looks at
    side = paired.LPIPS_SIDE[network]
    assert features[:used](torch.empty(1, 3, side, side, device="meta")).numel()
    with pytest.raises(RuntimeError):
        features[:used](torch.empty(1, 3, side - 1, side - 1, device="meta"))


def test_lpips(tmp_path: Path) -> None:
    """The distance of unit features, weighted and averaged: arXiv 1801.03924, equation 1."""
    a, b = two()
    weights = save_squeezenet(tmp_path)
    network = torchvision.models.squeezenet1_1(weights=None)
    network.load_state_dict(torch.load(weights, weights_only=True))
    linear = torch.load(
        Path(torchmetrics.__file__).parent / "functional/image/lpips_models/squeeze.pth",
        map_location="cpu",
        weights_only=True,
    )
    shift, scale = (np.array(v).reshape(3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    seen = []
    for image in (a, b):
        value = torch.from_numpy(((image / 255 * 2 - 1 - shift) / scale).astype(np.float32))[None]
        layers = []
        with torch.no_grad():
            for index, layer in enumerate(network.features):
                value = layer(value)
                if index in (1, 4, 7, 9, 10, 11, 12):
                    layers.append(value[0].double().numpy())
        seen.append([layer / np.sqrt((layer**2).sum(0, keepdims=True) + 1e-8) for layer in layers])
    expected = sum(
        (linear[f"lin{index}.model.1.weight"].numpy()[0, :, :, :] * (left - right) ** 2).sum(0).mean()
        for index, (left, right) in enumerate(zip(*seen, strict=True))
    )
    distance = paired.lpips(SQUEEZE, weights)
    assert distance(a, b) == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-4
    assert distance(a, a) == 0
    assert distance(a, b) == distance(a, b)  # nothing is carried over from pair to pair


def test_lpips_of_another_network(tmp_path: Path) -> None:
    weights = tmp_path / lpips_weights(SQUEEZE).name
    with seeded(0):
        torch.save(torch.nn.Linear(2, 2).state_dict(), weights)
    with pytest.raises(WeightsError, match="does not hold the weights of squeeze"):
        paired.lpips(SQUEEZE, weights)


def test_no_rgb_image() -> None:
    with pytest.raises(OptionError, match="height, width"):
        paired.psnr()(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8))
