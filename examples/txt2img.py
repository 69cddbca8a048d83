"""Make pictures with Stable Diffusion and an exported UNet; several UNets give one picture, side by side.

Text encoder, decoder and scheduler are diffusers', read from the folder of a pipeline, on the CPU; nothing is
downloaded. A UNet is an ONNX file, a TensorRT plan for the GPU of this machine, or `eager`: the folder's own.

python txt2img.py stable-diffusion-v1-5 --unet full/model.onnx --unet tofu/model.onnx --prompt "a red fox" -o fox.png
python txt2img.py stable-diffusion-v1-5 --unet tofu/model.onnx --prompts captions.txt -o images/tofu
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tofu_export.diffusion.pipeline import Drawing, DrawOptions, TextToImage
from tofu_export.errors import OptionError, TofuError
from tofu_export.system.files import staging

EAGER = "eager"
BAR = 20
"""Height of the line with the name of a UNet, in pixels."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or that of the error that was printed."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except TofuError as error:
        print(f"txt2img: error: {error}", file=sys.stderr)
        return int(error.exit_code)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make pictures with Stable Diffusion and an exported UNet.")
    parser.add_argument("folder", type=Path, help="a pipeline as diffusers saves it")
    parser.add_argument("--unet", action="append", metavar="FILE", default=None,
                        help=f"an ONNX file, a TensorRT plan, or {EAGER} (default); several: side by side")  # fmt: skip
    parser.add_argument("--backend", help="what runs the files: ort-cpu, ort-cuda, ort-tensorrt, trt or trt-rtx")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--prompt", help="what to show")
    text.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with one prompt a line")
    parser.add_argument("--negative", default="", metavar="PROMPT", help="what not to show")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps (default: 50)")
    parser.add_argument("--guidance", type=float, default=7.5, help="weight of the prompt; 1 is without (default: 7.5)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise; the n-th prompt takes seed + n (default: 0)")
    parser.add_argument("--size", metavar="H[xW]", help="in pixels (default: what the UNet was made for)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PATH",
                        help="the PNG file, or with --prompts the folder for 00000.png, 00001.png, ...")  # fmt: skip
    return parser


def _run(chosen: argparse.Namespace) -> None:
    unets = chosen.unet or [EAGER]
    size = None if chosen.size is None else _size(chosen.size)
    options = DrawOptions(chosen.steps, chosen.guidance, chosen.negative, size)
    if chosen.seed < 0:
        raise OptionError(f"seed is {chosen.seed}, expected a whole number >= 0")
    if chosen.prompts is None:
        prompts, folder, names = [chosen.prompt], chosen.output.parent, [chosen.output.name]
        if chosen.output.suffix.lower() != ".png":
            raise OptionError(f"output is {chosen.output}, expected a name that ends in .png")
    else:
        prompts, folder = _lines(chosen.prompts), chosen.output
        names = [f"{index:05}.png" for index in range(len(prompts))]
        if len(unets) > 1:
            raise OptionError("several UNets and --prompts: run once for each UNet, and compare the folders")
    pipeline = TextToImage(chosen.folder)
    drawings: list[tuple[str, Drawing]] = []
    for name in unets:
        if name == EAGER:
            pipeline.use_own_unet()
        else:
            pipeline.use_file(Path(name), options, chosen.backend)
        for index, prompt in enumerate(prompts):
            drawing = pipeline.draw(prompt, chosen.seed + index, options)
            print(f"{name}: {_times(drawing)}", flush=True)
            if len(unets) == 1:
                _publish(drawing.picture, folder, names[index])
            else:
                drawings.append((name, drawing))
                options = replace(options, size=(drawing.picture.height, drawing.picture.width))  # of all others too
    if drawings:
        _publish(side_by_side(drawings), folder, names[0])


def _size(text: str) -> tuple[int, int]:
    """Height and width."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise OptionError(f"size is {text!r}, expected one number or HEIGHTxWIDTH, in pixels: --size 512")
    return int(parts[0]), int(parts[-1])


def _lines(path: Path) -> list[str]:
    """The prompts in a file; empty lines are passed over."""
    try:
        prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"prompts {path} cannot be read ({error}): expected a text file, one prompt a line"
        ) from error
    if not prompts:
        raise OptionError(f"prompts {path} holds no prompt: expected one a line")
    return prompts


def _times(drawing: Drawing) -> str:
    steps = drawing.step_ms
    return (
        f"{len(steps)} steps, {statistics.median(steps):.1f} ms a step ({min(steps):.1f} to {max(steps):.1f}), "
        f"{drawing.total_s:.1f} s in all"
    )


def side_by_side(drawings: Sequence[tuple[str, Drawing]]) -> Image.Image:
    """The pictures in a row, the name of its UNet above each one."""
    pictures = [drawing.picture for _, drawing in drawings]
    whole = Image.new("RGB", (sum(one.width for one in pictures), pictures[0].height + BAR), "white")
    left = 0
    for (name, _), picture in zip(drawings, pictures, strict=True):
        whole.paste(picture, (left, BAR))
        label = Image.new("RGB", (picture.width, BAR), "white")  # a long name ends where its picture ends
        ImageDraw.Draw(label).text((4, 4), "/".join(Path(name).parts[-2:]), fill="black", font=ImageFont.load_default())
        whole.paste(label, (left, 0))
        left += picture.width
    return whole


def _publish(picture: Image.Image, folder: Path, name: str) -> None:
    """Write a PNG, complete or not at all."""
    with staging(folder) as stage:
        picture.save(stage.path(name), format="PNG")
        stage.publish(name)


if __name__ == "__main__":
    sys.exit(main())
