"""Inputs for verification and benchmarks: images with natural statistics, a folder of real ones, or the demo set.

All are normalised as the model expects and need only numpy and Pillow.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tofu_export import demo
from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.errors import OptionError
from tofu_export.images.files import FORMATS, SUFFIXES, find_images

__all__ = [
    "InputSet",
    "demo_set",
    "from_folder",
    "image_files",
    "image_size",
    "natural_statistics",
    "open_image",
    "pictures",
    "read_images",
]

_CHANNEL_CORRELATION: Final = 0.9
"""Correlation of colour channels, which in photographs mostly show the same luminance."""

_DISCS: Final = (3, 9)
"""Minimum and maximum number of discs that occlude the background of an image."""


@dataclass(frozen=True)
class InputSet:
    """Inputs for a model.

    Attributes:
        pixels: normalised images, float32 [B, C, H, W].
        source: where the images come from, for the report.
        real: False for generated images.
    """

    pixels: NDArray[np.float32]
    source: str
    real: bool = True

    def __len__(self) -> int:
        return len(self.pixels)


def natural_statistics(count: int, preprocessing: Preprocessing, *, seed: int) -> InputSet:
    """Generate seeded images with the statistics that attention reacts to in photos, float32 [count, C, H, W].

    They have a 1/f amplitude spectrum with random phases, correlated colours, and discs and an edge that occlude each
    other.
    Image i depends on the seed and i only: a larger count begins with the images of a smaller one. White noise would
    make all tokens equally different, and so every match a near tie.

    Args:
        count: number of images.
        preprocessing: size of the images, and how pixels in [0, 1] are normalised.
        seed: fixes the images, on every run and machine up to rounding in the Fourier transform.

    Raises:
        OptionError: count is below 1.

    Source: Field, "Relations between the statistics of natural images and the response properties of cortical
        cells", JOSA A 4(12), 1987 (1/f); Lee, Mumford and Huang, IJCV 41, 2001 (occluding discs, "dead leaves").
    """
    if count < 1:
        raise OptionError(f"{count} images to generate, expected at least 1")
    images = np.stack(
        [_natural_image(np.random.default_rng([seed, index]), *preprocessing.input_size) for index in range(count)]
    )
    return InputSet(_normalise(images, preprocessing), f"natural-statistics noise, seed {seed}", real=False)


def from_folder(path: Path, preprocessing: Preprocessing, limit: int | None = None) -> InputSet:
    """Read the images under a path, prepared as in timm's evaluation transform, float32 [B, C, H, W].

    Sorted by their path inside the folder; hidden files and files that are not images are ignored. Like timm, the EXIF
    orientation and all frames but the first are ignored and an alpha channel is dropped. 16-bit images are scaled.

    Args:
        path: folder, searched recursively.
        preprocessing: how they are prepared.
        limit: the most images to read, spread evenly over all, so that folders of classes keep their share; None for
            all.

    Raises:
        OptionError: the folder does not exist or has no image, an image cannot be read or is larger than Pillow
            allows, or the model takes neither 1 nor 3 channels.
    """
    if limit is not None and limit < 1:
        raise OptionError(f"limit is {limit}, expected at least 1 image")
    files = image_files(path)
    if not files:
        raise OptionError(f"images {path}: no image in it, expected files with {', '.join(sorted(SUFFIXES))}")
    count = len(files) if limit is None else min(limit, len(files))
    pixels = read_images([files[index * len(files) // count] for index in range(count)], preprocessing)
    return InputSet(pixels, f"{len(pixels)} image{'s' if len(pixels) != 1 else ''} from {path}")


def image_files(path: Path) -> list[Path]:
    """Return the image files under a path, sorted by their path inside it; hidden files and others are ignored.

    Raises:
        OptionError: the folder does not exist.
    """
    return list(find_images(path).images)


def read_images(files: Sequence[Path], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Read images, prepared and normalised as in `from_folder`, float32 [B, C, H, W].

    Raises:
        OptionError: an image cannot be read or is larger than Pillow allows, or the model takes neither 1 nor 3
            channels.
    """
    images = np.stack([_prepare(open_image(file, preprocessing.channels), preprocessing) for file in files])
    return _normalise(images, preprocessing)


def pictures(pixels: NDArray[np.float32], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Convert normalised images [B, C, H, W] to viewable ones, uint8 [B, H, W, 3]."""
    mean, std = _per_channel(preprocessing)
    seen = np.clip(np.rint((pixels * std + mean) * 255), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return np.repeat(seen, 3, axis=3) if seen.shape[3] == 1 else seen


def demo_set(limit: int | None = None) -> InputSet:
    """Return the first `limit` held-out digits of the demo model, in the order of `demo.load_images`, [B, 1, 28, 28].

    Raises:
        WeightsError: this installation lacks them.
    """
    digits = demo.load_images()[0][:limit, None]
    images = digits.astype(np.float32) / np.float32(255)
    return InputSet(_normalise(images, demo.PREPROCESSING), "demo set")


def _normalise(images: NDArray[np.float32], preprocessing: Preprocessing) -> NDArray[np.float32]:
    mean, std = _per_channel(preprocessing)
    return np.ascontiguousarray((images - mean) / std)


def _per_channel(preprocessing: Preprocessing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and std, [C, 1, 1] each."""
    mean, std = (np.array(row, dtype=np.float32).reshape(-1, 1, 1) for row in (preprocessing.mean, preprocessing.std))
    return mean, std


def _natural_image(rng: np.random.Generator, channels: int, height: int, width: int) -> NDArray[np.float32]:
    """Generate one image in [0, 1], [C, H, W]."""
    shared = _pink_noise(rng, 1, height, width)
    texture = math.sqrt(_CHANNEL_CORRELATION) * shared
    texture = texture + math.sqrt(1 - _CHANNEL_CORRELATION) * _pink_noise(rng, channels, height, width)
    image = rng.uniform(0.35, 0.6) + rng.uniform(0.12, 0.2) * texture
    rows, columns = np.mgrid[0:height, 0:width]

    angle = rng.uniform(0, 2 * math.pi)
    offset = (columns - width / 2) * math.cos(angle) + (rows - height / 2) * math.sin(angle)
    beyond = offset > rng.uniform(-0.3, 0.3) * min(height, width)
    image[:, beyond] += rng.uniform(-0.25, 0.25)

    for _ in range(int(rng.integers(*_DISCS))):
        # Radii of objects in a scene fall off as a power law, which a uniform 1/radius approximates.
        radius = min(height, width) / rng.uniform(3, 20)
        row, column = rng.uniform(0, height), rng.uniform(0, width)
        inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        grey = rng.uniform(0.1, 0.9)
        colour = grey + rng.normal(0, 0.08, channels)
        image[:, inside] = colour[:, None] + rng.uniform(0.03, 0.1) * texture[:, inside]
    return np.clip(image, 0, 1).astype(np.float32)


def _pink_noise(rng: np.random.Generator, channels: int, height: int, width: int) -> NDArray[np.float64]:
    """Generate fields with amplitude 1/f and random phase, mean 0 and variance 1, [channels, H, W]."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    amplitude = np.divide(1, frequency, out=np.zeros_like(frequency), where=frequency > 0)
    spectrum = np.fft.rfft2(rng.standard_normal((channels, height, width)))
    size = np.abs(spectrum)
    phase = np.divide(spectrum, size, out=np.zeros_like(spectrum), where=size > 0)
    field: NDArray[np.float64] = np.fft.irfft2(amplitude * phase, s=(height, width))
    spread = field.std(axis=(1, 2), keepdims=True)
    return field / np.where(spread > 0, spread, 1)


def open_image(file: Path, channels: int) -> Image.Image:
    """Open the first frame of a file, 8 bits a channel, mode L for one channel or RGB for three.

    Raises:
        OptionError: the file cannot be read, is larger than Pillow allows, or has other channels.
    """
    if channels not in (1, 3):
        raise OptionError(f"the model takes {channels} channels: images can be prepared for 1 or 3")
    with _decoding(file) as image:
        return _eight_bits(image).convert("L" if channels == 1 else "RGB")


def image_size(file: Path) -> tuple[int, int]:
    """Return height and width of an image, from its header.

    Raises:
        OptionError: the image cannot be read, or is larger than Pillow allows.
    """
    with _decoding(file) as image:
        return image.height, image.width


@contextmanager
def _decoding(file: Path) -> Iterator[Image.Image]:
    """Open an image, and turn all its failures into one error that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise OptionError(f"image {file} is too large to be safe ({error}): remove it or scale it down") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise OptionError(f"image {file} cannot be read ({error}): repair or remove it") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values {values.min()} to {values.max()}, expected 8 or 16 bits a channel")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels, expected 8 or 16 bits a channel")
    return image


def _prepare(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Resize and crop an image, to [C, H, W] in [0, 1]. Source: timm 1.0.31, `data.transforms_imagenet_eval`."""
    height, width = preprocessing.image_size
    scaled = (math.floor(height / preprocessing.crop_pct), math.floor(width / preprocessing.crop_pct))
    mode = preprocessing.crop_mode
    size = _resized(image.height, image.width, scaled, mode)
    if size != (image.height, image.width):
        image = image.resize((size[1], size[0]), Image.Resampling[preprocessing.interpolation.upper()])
    fill = [round(255 * value) for value in preprocessing.mean] if mode == "border" else 0
    image = _crop_or_pad(image, height, width, tuple(fill) if isinstance(fill, list) else fill)
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _resized(height: int, width: int, target: tuple[int, int], mode: str) -> tuple[int, int]:
    """Return height and width before the crop, rounded as in timm and torchvision."""
    if mode == "squash":
        return target
    if mode == "center" and target[0] == target[1]:
        short = target[0]
        return (int(short * height / width), short) if width <= height else (short, int(short * width / height))
    ratios = (height / target[0], width / target[1])
    ratio = max(ratios) if mode == "border" else min(ratios)
    return round(height / ratio), round(width / ratio)


def _crop_or_pad(image: Image.Image, height: int, width: int, fill: int | tuple[int, ...]) -> Image.Image:
    """Crop an image at its centre, or pad it with `fill` if it is smaller."""
    if width > image.width or height > image.height:
        padded = Image.new(image.mode, (max(width, image.width), max(height, image.height)), fill)
        padded.paste(image, ((padded.width - image.width) // 2, (padded.height - image.height) // 2))
        image = padded
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
