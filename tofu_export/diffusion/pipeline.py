"""Draw pictures with a diffusers pipeline on disk, with its own UNet or exported ones."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tofu_export.diffusion._optional import load_diffusers, load_pipeline, quiet_diffusers
from tofu_export.diffusion.inputs import SAMPLE
from tofu_export.diffusion.models import create_unet, find_unet, inputs_of
from tofu_export.diffusion.options import LatentSize
from tofu_export.diffusion.session_unet import SessionUnet, check_fit, open_unet
from tofu_export.diffusion.weights import RANDOM
from tofu_export.errors import OptionError, UnknownModelError, UnsupportedModelError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DrawOptions", "Drawing", "TextToImage"]

_INDEX = "model_index.json"
_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


@dataclass(frozen=True)
class DrawOptions:
    """Options for drawing a picture.

    Attributes:
        steps: denoising steps.
        guidance: weight of the prompt against the negative one; at most 1 disables guidance.
        negative: negative prompt; used with guidance.
        size: height and width in pixels; None for the size of the UNet.
    """

    steps: int = 50
    guidance: float = 7.5
    negative: str = ""
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OptionError(f"steps is {self.steps}, expected a whole number >= 1")

    @property
    def unet_batch(self) -> int:
        """Images in one call of the UNet: guidance predicts with the prompt and without."""
        return 2 if self.guidance > 1 else 1


@dataclass(frozen=True)
class Drawing:
    """Picture, and the time it took.

    Attributes:
        picture: the picture, RGB.
        step_ms: wall time of each call of the UNet.
        total_s: total wall time, text encoder and decoder included.
    """

    picture: Image
    step_ms: tuple[float, ...]
    total_s: float


class TextToImage:
    """Text-to-image pipeline in float32 on the CPU, without safety checker, whose UNet can be changed.

    Args:
        folder: a pipeline of Stable Diffusion 1.x, 2.x or XL as saved by diffusers; nothing is downloaded.

    Raises:
        BackendMissingError: diffusers or transformers is not installed.
        UnknownModelError: the folder does not exist, or holds no pipeline.
        UnsupportedModelError: diffusers cannot load it, or its UNet is not one that can be exported.
    """

    def __init__(self, folder: Path) -> None:
        load_diffusers()
        if not folder.is_dir():
            raise UnknownModelError(f"{folder} is not a folder: get one with `hf download`, and give its path")
        left_out = _left_out(folder)
        self._source = find_unet(str(folder), RANDOM)
        self._pipeline = load_pipeline(folder, **left_out)
        with quiet_diffusers():  # the argument of from_pretrained for it has another name in older versions
            self._pipeline.to(torch.float32)
        self._folder = folder

    @property
    def scale(self) -> int:
        """Pixels along a side for each pixel of the latent."""
        return int(self._pipeline.vae_scale_factor)

    def use_own_unet(self) -> None:
        """Use the pipeline's own UNet, in eager PyTorch.

        Raises:
            WeightsError: the folder lacks its weights.
        """
        self._let_go()
        self._pipeline.unet = create_unet(find_unet(str(self._folder)))

    def use_file(self, path: Path, options: DrawOptions, backend: str | None = None) -> None:
        """Use an exported UNet.

        Args:
            path: an ONNX file, or a TensorRT engine for the GPU of this machine.
            options: options of the pictures to draw.
            backend: backend that runs it; None for onnxruntime on the CPU, or TensorRT for an engine.

        Raises:
            OptionError: the file does not fit this pipeline, or the size or batch asked for.
            TofuError: the file cannot be loaded, as in `open_unet`.
        """
        self._let_go()
        session = open_unet(path, backend)
        latent = self._latent(options.size) if options.size is not None else _latent_of(session.inputs)
        tokens = int(self._pipeline.tokenizer.model_max_length)
        meta: Any = create_unet(self._source, meta=True)
        unet = SessionUnet(session, meta.config)
        try:
            check_fit(session, inputs_of(self._source, latent, tokens), options.unet_batch)
        except OptionError:
            unet.close()
            raise
        self._pipeline.unet = unet

    def draw(self, prompt: str, seed: int, options: DrawOptions) -> Drawing:
        """Draw one picture; equal arguments give equal pixels.

        Raises:
            OptionError: no UNet was chosen.
            TofuError: the UNet's file fails.
        """
        unet = self._pipeline.unet
        if unet is None:
            raise OptionError("the pipeline has no UNet: call use_file or use_own_unet first")
        if options.size is not None:
            self._latent(options.size)
        size = options.size or self._own_size(unet)
        started = time.perf_counter()
        with quiet_diffusers(), _timed(unet) as step_ms, torch.no_grad():
            (picture,) = self._pipeline(
                prompt,
                height=size[0],
                width=size[1],
                num_inference_steps=options.steps,
                guidance_scale=options.guidance,
                negative_prompt=options.negative or None,  # XL takes zeros for no text, not an empty text
                generator=torch.Generator("cpu").manual_seed(seed),
            ).images
        return Drawing(picture, tuple(step_ms), time.perf_counter() - started)

    def _let_go(self) -> None:
        """Release the current UNet: two would take twice the memory."""
        if isinstance(self._pipeline.unet, SessionUnet):
            self._pipeline.unet.close()
        self._pipeline.unet = None

    def _latent(self, size: tuple[int, int]) -> LatentSize:
        if any(pixels < self.scale or pixels % self.scale for pixels in size):
            raise OptionError(
                f"size {size[0]}x{size[1]} is no multiple of {self.scale}, the pixels for one of the latent"
            )
        return LatentSize(size[0] // self.scale, size[1] // self.scale)

    def _own_size(self, unet: nn.Module) -> tuple[int, int]:
        latent = _latent_of(unet.session.inputs) if isinstance(unet, SessionUnet) else self._source.latent
        latent = latent or self._source.latent
        return latent.height * self.scale, latent.width * self.scale


def _left_out(folder: Path) -> dict[str, Any]:
    """Return the parts of a pipeline that are not loaded with it, as arguments for diffusers."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        named = index["_class_name"]
    except FileNotFoundError:
        raise UnknownModelError(
            f"{folder} holds no {_INDEX}: expected the folder of a whole diffusers pipeline"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnsupportedModelError(f"{folder / _INDEX} cannot be read: {first_line(error)}") from error
    if named not in _PIPELINES:
        raise UnsupportedModelError(f"{folder} is a {named}, expected a {' or '.join(_PIPELINES)}")
    checker = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}
    return {"unet": None, **checker}


def _latent_of(inputs: Mapping[str, Any]) -> LatentSize | None:
    """Return the latent size that a file is fixed to; None if it has no such input, or leaves the size open."""
    sizes = inputs[SAMPLE].shape[2:] if SAMPLE in inputs else ()
    return LatentSize(*sizes) if len(sizes) == 2 and None not in sizes else None


@contextmanager
def _timed(unet: nn.Module) -> Iterator[list[float]]:
    """Record the wall time of each call of a UNet in milliseconds, in a list that grows."""
    found: list[float] = []
    started = 0.0

    def before(*_: Any) -> None:
        nonlocal started
        started = time.perf_counter()

    def after(*_: Any) -> None:
        found.append((time.perf_counter() - started) * 1e3)

    hooks = [unet.register_forward_pre_hook(before), unet.register_forward_hook(after)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
