"""FID and KID against formulas in numpy, and Inception through its real way with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.image_metrics.stand_ins import pixels, save_inception
from tofu_export.errors import WeightsError
from tofu_export.image_metrics import sets


def features(seed: int, count: int, width: int = 6, shift: float = 0.0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((count, width)) @ random.standard_normal((width, width))
    return torch.from_numpy(mixed + shift)


def root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def test_fid() -> None:
    a, b = features(1, 40), features(2, 30, shift=0.5)
    cov_a, cov_b = (np.cov(side.numpy(), rowvar=False) for side in (a, b))
    apart = ((a.mean(0) - b.mean(0)).numpy() ** 2).sum()
    between = root(root(cov_a) @ cov_b @ root(cov_a))
    expected = apart + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(between)
    assert expected > 1
    assert sets.fid([a[:15], a[15:]], [b]) == pytest.approx(expected, rel=1e-6)
    assert sets.fid([a], [a]) == pytest.approx(0, abs=1e-6)


def test_kid() -> None:
    """The unbiased estimate of the squared MMD with the kernel (x.y / D + 1)^3: arXiv 1801.01401, section 4."""
    a, b = features(1, 20), features(2, 20, shift=0.5)
    left, right = a.numpy(), b.numpy()

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    count = len(left)
    within = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (count * (count - 1)) for x in (left, right)]
    expected = sum(within) - 2 * kernel(left, right).mean()
    found = sets.kid([a[:7], a[7:]], [b], seed=0)
    assert found.mean == pytest.approx(expected, rel=1e-9)
    assert found.std == pytest.approx(0, abs=1e-9)  # every subset is all images
    assert (found.subsets, found.subset_size) == (100, 20)


def test_kid_draws_subsets_by_its_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "_KID_SUBSET_SIZE", 10)
    a, b = features(1, 30), features(2, 40)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one, same, other = (sets.kid([a], [b], seed) for seed in (0, 0, 1))
    assert one == same
    assert one.mean != other.mean
    assert one.std > 0
    assert one.subset_size == 10
    assert torch.equal(torch.rand(1), expected)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inception(tmp_path_factory.mktemp("inception"))


def test_inception(weights: Path) -> None:
    look = sets.inception_look(weights)
    images = np.stack([pixels(seed).transpose(2, 0, 1) for seed in range(3)])
    found = look(images)
    assert (found.shape, found.dtype) == ((3, 2048), torch.float64)
    assert torch.isfinite(found).all()
    assert torch.allclose(look(images[1:2])[0], found[1], rtol=1e-3, atol=1e-6)
    assert not torch.allclose(found[0], found[1], rtol=1e-3)


def test_weights_of_another_network(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save(torch.nn.Linear(2, 2).state_dict(), file)
    with pytest.raises(WeightsError, match="does not hold the weights of Inception"):
        sets.inception_look(file)
