"""Comparisons as a whole: what is measured, what is left out and why, what is an error."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from tests.image_metrics.stand_ins import SQUEEZE, pixels, save_image, save_images, save_inception, save_squeezenet
from tests.imports import hide_package
from tofu_export.errors import BackendMissingError, OptionError, WeightsError
from tofu_export.image_metrics import paired, sets
from tofu_export.image_metrics.compare import compare_images
from tofu_export.image_metrics.files import read_rgb
from tofu_export.image_metrics.request import CompareRequest, parse_metrics
from tofu_export.image_metrics.result import Comparison, Fid, Kid, OfPairs
from tofu_export.image_metrics.weights import WeightsFolder

T = TypeVar("T", OfPairs, Fid, Kid)


def metric(result: Comparison, name: str, kind: type[T]) -> T:
    found = result.metrics[name]
    assert isinstance(found, kind)
    return found


@pytest.fixture
def nowhere(tmp_path: Path) -> WeightsFolder:
    return WeightsFolder(tmp_path / "no-weights")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsFolder:
    folder = tmp_path_factory.mktemp("weights")
    save_squeezenet(folder)
    save_inception(folder)
    return WeightsFolder(folder)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inception's first layer that counts: the eigenvalues of 64 numbers are there at once, of 2048 not."""
    monkeypatch.setattr(sets, "FEATURE", "64")


def test_pairs_without_any_weights(tmp_path: Path, nowhere: WeightsFolder) -> None:
    a, b = save_images(tmp_path / "a", range(3)), save_images(tmp_path / "b", range(1, 4))
    result = compare_images(CompareRequest(a, b, weights=nowhere))
    assert (result.a, result.b, result.pairs) == (3, 3, 3)
    assert list(result.metrics) == ["psnr", "ssim"]
    values = [paired.psnr()(*(read_rgb(side / f"{index:05}.png") for side in (a, b))) for index in range(3)]
    assert metric(result, "psnr", OfPairs).mean == pytest.approx(sum(values) / 3)
    assert metric(result, "psnr", OfPairs).worst == min(values)
    assert [row.values["psnr"] for row in result.rows] == values
    assert [row.name for row in result.rows] == ["00000", "00001", "00002"]
    reasons = {row.metric: row.reason for row in result.skipped}
    assert set(reasons) == {"ms_ssim", "lpips", "fid", "kid"}
    assert "side of 32 pixels, 176 are needed: ssim can be had" in reasons["ms_ssim"]
    assert "alexnet-owt-7be5be79.pth is not in" in reasons["lpips"]
    assert "weights-inception" in reasons["fid"]


def test_large_images_have_ms_ssim_and_no_ssim(tmp_path: Path, nowhere: WeightsFolder) -> None:
    a, b = (save_image(tmp_path / f"{seed}.png", pixels(seed, 180, 190)) for seed in (0, 1))
    result = compare_images(CompareRequest(a, b, weights=nowhere))
    assert list(result.metrics) == ["psnr", "ms_ssim"]
    reasons = {row.metric: row.reason for row in result.skipped}
    assert reasons["fid"] == "a set needs 2 images at least, there are 1 and 1"
    both = compare_images(CompareRequest(a, b, metrics=("ssim", "ms_ssim"), weights=nowhere))
    assert list(both.metrics) == ["ms_ssim", "ssim"]
    assert both.skipped == []


def test_everything(tmp_path: Path, weights: WeightsFolder, narrow: None) -> None:
    a, b = save_images(tmp_path / "a", range(3)), save_images(tmp_path / "b", range(10, 13))
    told: list[tuple[str, int, int]] = []
    request = CompareRequest(a, b, network=SQUEEZE, weights=weights)
    result = compare_images(request, lambda *at: told.append(at))
    assert list(result.metrics) == ["psnr", "ssim", "lpips", "fid", "kid"]
    lpips = metric(result, "lpips", OfPairs)
    assert (lpips.network, lpips.pairs) == (SQUEEZE, 3)
    assert lpips.worst == max(row.values["lpips"] or 0.0 for row in result.rows) > 0
    look = sets.inception_look(weights.find(sets_weights()))
    seen = [look(np.stack([read_rgb(file) for file in sorted(side.iterdir())])) for side in (a, b)]
    assert metric(result, "fid", Fid).value == pytest.approx(sets.fid([seen[0]], [seen[1]]), rel=1e-6)
    assert metric(result, "kid", Kid).mean == pytest.approx(sets.kid([seen[0]], [seen[1]], 0).mean, rel=1e-6)
    assert metric(result, "kid", Kid).subset_size == 3
    assert len(metric(result, "fid", Fid).weights.sha256) == 64
    assert [row.metric for row in result.skipped] == ["ms_ssim"]
    assert any("biased upwards" in note for note in result.notes)
    assert ("comparing pairs", 2, 3) in told
    assert told[-1][0] == "showing images to Inception"
    again = compare_images(request).to_dict("", rows=True)
    document = result.to_dict("", rows=True)
    assert document == again
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["environment"]["versions"]["torchmetrics"]


def sets_weights() -> Any:
    from tofu_export.image_metrics.weights import inception_weights

    return inception_weights()


def test_inceptions_last_layer(tmp_path: Path, weights: WeightsFolder) -> None:
    a, b = save_images(tmp_path / "a", range(2)), save_images(tmp_path / "b", range(10, 12))
    result = compare_images(CompareRequest(a, b, metrics=("fid",), weights=weights))
    assert (metric(result, "fid", Fid).value or 0.0) > 0
    assert list(result.metrics) == ["fid"]


def test_sets_of_other_names_and_sizes(tmp_path: Path, weights: WeightsFolder, narrow: None) -> None:
    a = save_images(tmp_path / "a", range(3))
    b = tmp_path / "b"
    for seed in range(4):
        save_image(b / f"photo{seed}.jpg", pixels(seed, 20 + seed, 30))
    result = compare_images(CompareRequest(a, b, weights=weights))
    assert (result.pairs, list(result.metrics)) == (0, ["fid", "kid"])
    assert metric(result, "kid", Kid).subset_size == 3
    assert {row.metric: row.reason for row in result.skipped}["psnr"] == "no image has the same name on both sides"


def test_equal_images(tmp_path: Path, nowhere: WeightsFolder) -> None:
    a, b = save_images(tmp_path / "a", range(2)), save_images(tmp_path / "b", range(2))
    result = compare_images(CompareRequest(a, b, weights=nowhere))
    assert result.metrics["psnr"] == OfPairs(mean=None, worst=None, pairs=2, unit="dB", identical=2)
    assert metric(result, "ssim", OfPairs).mean == pytest.approx(1)
    assert [row.values["psnr"] for row in result.rows] == [None, None]
    save_image(b / "00001.png", pixels(9))
    result = compare_images(CompareRequest(a, b, weights=nowhere))
    assert metric(result, "psnr", OfPairs).identical == 1
    assert metric(result, "psnr", OfPairs).mean is not None
    assert any("1 of 2 pairs are equal" in note for note in result.notes)


def test_images_of_another_size_are_named(tmp_path: Path) -> None:
    a, b = save_images(tmp_path / "a", range(2)), save_images(tmp_path / "b", range(2))
    save_image(b / "00001.png", pixels(1, 16, 16))
    with pytest.raises(OptionError, match=r"a/00001\.png has 32x40 pixels and .*b/00001\.png 16x16"):
        compare_images(CompareRequest(a, b))


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    a, b = save_images(tmp_path / "a", range(2)), save_images(tmp_path / "b", range(2))
    (b / "00001.png").write_bytes(b"no picture")
    with pytest.raises(OptionError, match=r"b/00001\.png cannot be read"):
        compare_images(CompareRequest(a, b))


def test_what_is_asked_for_by_name_must_be_possible(tmp_path: Path, nowhere: WeightsFolder) -> None:
    a, b = save_images(tmp_path / "a", range(2)), save_images(tmp_path / "b", range(2))
    with pytest.raises(OptionError, match="176 are needed"):
        compare_images(CompareRequest(a, b, metrics=("psnr", "ms_ssim"), weights=nowhere))
    with pytest.raises(WeightsError, match="alexnet"):
        compare_images(CompareRequest(a, b, metrics=("lpips",), weights=nowhere))
    with pytest.raises(WeightsError, match="inception"):
        compare_images(CompareRequest(a, b, metrics=("kid",), weights=nowhere))
    with pytest.raises(OptionError, match="a set needs 2 images"):
        compare_images(CompareRequest(a / "00000.png", b / "00000.png", metrics=("fid",), weights=nowhere))
    tiny = [save_image(tmp_path / side / "t.png", pixels(0, 5, 5)) for side in ("c", "d")]
    with pytest.raises(OptionError, match="6 are needed"):
        compare_images(CompareRequest(*tiny, metrics=("ssim",), weights=nowhere))
    with pytest.raises(OptionError, match="alex needs 31"):
        compare_images(CompareRequest(*tiny, metrics=("lpips",), weights=nowhere))


def test_nothing_to_compare_is_an_error(tmp_path: Path, nowhere: WeightsFolder) -> None:
    a = save_images(tmp_path / "a", range(1))
    save_image(tmp_path / "b" / "other.png", pixels(0))
    with pytest.raises(OptionError, match=r"nothing can be compared: a set needs 2 .*no image has the same name"):
        compare_images(CompareRequest(a, tmp_path / "b", weights=nowhere))


def test_requests() -> None:
    assert parse_metrics(" psnr,MS-SSIM ,psnr") == ("psnr", "ms_ssim")
    with pytest.raises(OptionError, match=r"metrics are vif, expected some of psnr, ssim"):
        CompareRequest(Path("a"), Path("b"), metrics=parse_metrics("vif,psnr"))
    with pytest.raises(OptionError, match="metrics are none"):
        CompareRequest(Path("a"), Path("b"), metrics=())
    with pytest.raises(OptionError, match="network is 'resnet'"):
        CompareRequest(Path("a"), Path("b"), network="resnet")


@pytest.mark.parametrize("package", ["torchmetrics", "torch_fidelity"])
def test_without_the_extra(
    package: str, tmp_path: Path, weights: WeightsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = save_images(tmp_path / "a", range(2)), save_images(tmp_path / "b", range(2))
    importlib.import_module("torchmetrics.image")  # which looks for torch_fidelity when it is imported first
    hide_package(monkeypatch, package)
    if package == "torchmetrics":
        with pytest.raises(BackendMissingError, match=r"tofu-export\[metrics\]"):
            compare_images(CompareRequest(a, b, weights=weights))
    else:
        result = compare_images(CompareRequest(a, b, network=SQUEEZE, weights=weights))
        assert list(result.metrics) == ["psnr", "ssim", "lpips"]
        assert "torch-fidelity" in {row.metric: row.reason for row in result.skipped}["fid"]
