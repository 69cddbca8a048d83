from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform

from tests.preprocessing import IMAGENET
from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.errors import ExitCode, OptionError
from tofu_export.images.inputs import InputSet, from_folder, natural_statistics

PLAIN = replace(IMAGENET, mean=(0.0,) * 3, std=(1.0,) * 3)


def natural(count: int = 4, channels: int = 3, height: int = 64, width: int = 64, seed: int = 0) -> InputSet:
    return natural_statistics(count, Preprocessing.uniform((channels, height, width), 0, 1), seed=seed)


def picture(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR).convert(mode)


def timms(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    mode = "L" if preprocessing.channels == 1 else "RGB"
    result: NDArray[np.float32] = create_transform(**preprocessing.as_dict())(image.convert(mode)).numpy()
    return result


class TestNaturalStatistics:
    @pytest.mark.parametrize(("channels", "height", "width"), [(3, 64, 64), (1, 28, 28), (4, 33, 70), (3, 1, 1)])
    def test_shape_and_range(self, channels: int, height: int, width: int) -> None:
        pixels = natural(2, channels, height, width).pixels
        assert pixels.shape == (2, channels, height, width)
        assert pixels.dtype == np.float32
        assert pixels.flags["C_CONTIGUOUS"]
        assert pixels.min() >= 0
        assert pixels.max() <= 1

    def test_the_seed_decides(self) -> None:
        assert np.array_equal(natural(seed=1).pixels, natural(seed=1).pixels)
        assert not np.array_equal(natural(seed=1).pixels, natural(seed=2).pixels)

    def test_known_values(self) -> None:
        pixels = natural(1, 1, 8, 8, seed=0).pixels
        assert pixels[0, 0, 0, :4] == pytest.approx(KNOWN, abs=1e-5)

    def test_more_images_begin_with_the_same_ones(self) -> None:
        assert np.array_equal(natural(5).pixels[:2], natural(2).pixels)

    def test_images_differ(self) -> None:
        pixels = natural(3).pixels
        assert not np.array_equal(pixels[0], pixels[1])

    def test_normalised(self) -> None:
        given = Preprocessing(input_size=(3, 32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
        got = natural_statistics(2, given, seed=5)
        plain = natural(2, 3, 32, 32, seed=5).pixels
        mean = np.array([0.5, 0.4, 0.3], dtype=np.float32).reshape(3, 1, 1)
        std = np.array([0.2, 0.3, 0.4], dtype=np.float32).reshape(3, 1, 1)
        assert np.array_equal(got.pixels, (plain - mean) / std)
        assert got.source == "natural-statistics noise, seed 5"
        assert len(got) == 2

    def test_amplitude_falls_like_one_over_f(self) -> None:
        pixels = natural(24, 1, 128, 128).pixels.astype(np.float64)[:, 0]
        power = (np.abs(np.fft.fft2(pixels - pixels.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
        radius = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
        edges = np.geomspace(2 / 128, 0.4, 9)
        bands = [(radius >= low) & (radius < high) for low, high in pairwise(edges)]
        slope = np.polyfit(
            np.log([radius[band].mean() for band in bands]), np.log([power[band].mean() for band in bands]), 1
        )[0]
        assert -2.8 < slope < -1.6  # power of photographs: -2

    def test_neighbours_and_colours_correlate(self) -> None:
        pixels = natural(8).pixels
        assert np.corrcoef(pixels[..., 1:].ravel(), pixels[..., :-1].ravel())[0, 1] > 0.7
        assert np.corrcoef(pixels[:, 0].ravel(), pixels[:, 1].ravel())[0, 1] > 0.7

    def test_no_image_to_generate(self) -> None:
        with pytest.raises(OptionError, match="0 images to generate, expected at least 1"):
            natural(0)


KNOWN = [0.573364, 0.446057, 0.594175, 0.127126]


class TestAgainstTimm:
    @pytest.mark.parametrize("shape", [(64, 64), (48, 200), (301, 97), (20, 30), (71, 71), (640, 480)])
    @pytest.mark.parametrize("size", [(64, 64), (48, 96), (57, 57)])
    @pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
    def test_equal_bit_for_bit(
        self, shape: tuple[int, int], size: tuple[int, int], crop_mode: str, tmp_path: Path
    ) -> None:
        if crop_mode == "center" and size[0] != size[1] and version("timm") == "1.0.30":
            pytest.skip("timm 1.0.30 has another rule for sizes that are not square")
        preprocessing = replace(IMAGENET, input_size=(3, *size), crop_mode=crop_mode)
        image = picture(*shape)
        image.save(tmp_path / "a.png")
        assert np.array_equal(from_folder(tmp_path, preprocessing).pixels[0], timms(image, preprocessing))

    @pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
    @pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
    def test_interpolation_and_crop(self, interpolation: str, crop_pct: float, tmp_path: Path) -> None:
        preprocessing = replace(IMAGENET, interpolation=interpolation, crop_pct=crop_pct)
        image = picture(123, 88)
        image.save(tmp_path / "a.bmp")
        assert np.array_equal(from_folder(tmp_path, preprocessing).pixels[0], timms(image, preprocessing))

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_modes(self, mode: str, channels: int, tmp_path: Path) -> None:
        preprocessing = IMAGENET if channels == 3 else Preprocessing.uniform((1, 64, 64), 0.1307, 0.3081)
        image = picture(90, 70, mode)
        image.save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
        assert np.array_equal(from_folder(tmp_path, preprocessing).pixels[0], timms(image, preprocessing))

    def test_jpeg_and_webp(self, tmp_path: Path) -> None:
        for name in ("a.jpg", "b.webp"):
            picture(90, 70).save(tmp_path / name)
            with Image.open(tmp_path / name) as image:
                expected = timms(image, IMAGENET)
            index = ["a.jpg", "b.webp"].index(name)
            assert np.array_equal(from_folder(tmp_path, IMAGENET).pixels[index], expected)


class TestFromFolder:
    def test_sorted_recursive_and_limited(self, tmp_path: Path) -> None:
        for index, name in enumerate(["b/z.png", "a.PNG", "c.jpg", "b/a.bmp"]):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.new("RGB", (64, 64), (index * 50,) * 3).save(tmp_path / name)
        for name in (".hidden.png", "notes.txt", "._a.jpg"):
            (tmp_path / name).write_text("no image")
        result = from_folder(tmp_path, PLAIN)
        order = (result.pixels[:, 0, 32, 32] * 255 / 50).round().astype(int).tolist()
        assert order == [1, 3, 0, 2]
        assert result.source == f"4 images from {tmp_path}"
        assert result.pixels.dtype == np.float32
        limited = from_folder(tmp_path, IMAGENET, limit=1)
        assert len(limited) == 1
        assert limited.source == f"1 image from {tmp_path}"
        limited = from_folder(tmp_path, PLAIN, limit=2)
        assert (limited.pixels[:, 0, 32, 32] * 255 / 50).round().astype(int).tolist() == [1, 0]

    @pytest.mark.parametrize("channels", [1, 3])
    def test_sixteen_bits_are_scaled(self, channels: int, tmp_path: Path) -> None:
        wide = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
        Image.fromarray(wide).save(tmp_path / "a.png")
        preprocessing = replace(Preprocessing.uniform((channels, 64, 64), 0, 1), crop_pct=1.0)
        pixels = from_folder(tmp_path, preprocessing).pixels[0]
        assert np.array_equal(pixels[0], (wide >> 8).astype(np.float32) / np.float32(255))
        assert pixels.shape[0] == channels

    def test_a_palette_with_transparency(self, tmp_path: Path) -> None:
        picture(64, 64, "P").save(tmp_path / "a.png", transparency=bytes(range(256)))
        assert np.isfinite(from_folder(tmp_path, IMAGENET).pixels).all()

    def test_only_the_first_frame(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        pixels = from_folder(tmp_path, PLAIN).pixels
        assert pixels[0, :, 0, 0].tolist() == [1, 0, 0]

    @pytest.mark.parametrize("content", ["empty", "text", "truncated", "eps"])
    def test_unreadable_files_are_named(self, content: str, tmp_path: Path) -> None:
        path = tmp_path / "bad.png"
        picture(300, 300).save(path)
        contents = {
            "empty": b"",
            "text": b"no image",
            "truncated": path.read_bytes()[:900],
            "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        }
        path.write_bytes(contents[content])
        with pytest.raises(OptionError, match=r"bad\.png cannot be read") as caught:
            from_folder(tmp_path, IMAGENET)
        assert caught.value.exit_code is ExitCode.USAGE

    def test_floating_point_pixels(self, tmp_path: Path) -> None:
        Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(OptionError, match=r"a\.tif cannot be read \(floating-point pixels"):
            from_folder(tmp_path, IMAGENET)

    @pytest.mark.parametrize("pixels", [40 * 40, 20 * 20])
    def test_decompression_bombs(self, pixels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        picture(50, 50).save(tmp_path / "bomb.png")  # once over the limit: Pillow warns; twice: it raises
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
        with pytest.raises(OptionError, match=r"bomb\.png is too large to be safe"):
            from_folder(tmp_path, IMAGENET)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="no such folder"):
            from_folder(tmp_path / "none", IMAGENET)

    def test_no_image(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("x")
        with pytest.raises(OptionError, match=r"no image in it, expected files with .*\.jpg, .*\.webp"):
            from_folder(tmp_path, IMAGENET)

    def test_channels_that_no_image_has(self, tmp_path: Path) -> None:
        picture(64, 64).save(tmp_path / "a.png")
        with pytest.raises(OptionError, match="takes 4 channels"):
            from_folder(tmp_path, Preprocessing.uniform((4, 64, 64)))

    def test_a_limit_below_one(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="limit is 0"):
            from_folder(tmp_path, IMAGENET, limit=0)


def test_an_input_set_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        natural(1).source = "other"  # type: ignore[misc]
