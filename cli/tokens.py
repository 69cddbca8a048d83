"""`tofu-export tokens`: which patches of an image were pruned, and which became one token."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import json_option, output_option, quiet_option, verbose_option
from tofu_export.errors import OptionError, OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tofu_export.tokens import TokenRun, TokenSource

__all__ = ["tokens_command"]

_MOST_DEMO_IMAGES = 100


@command("tokens", short_help="Draw which patches of an image were pruned or merged.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("images", metavar="[IMAGE]...", nargs=-1, type=click.Path(path_type=Path))
@option(Section.IMAGES, "--demo", type=click.IntRange(1, _MOST_DEMO_IMAGES), default=None, metavar="N",
        help="Instead of images: the first N held-out digits, for the demo model.")  # fmt: skip
@output_option("Picture to write.  [default: tokens.png; none with --json]", "PNG", default=None)
@option(Section.OUTPUT, "--final", is_flag=True, help="Draw the last state only, not the one after each layer.")
@json_option()
@quiet_option()
@verbose_option("messages of libraries")
def tokens_command(
    file: Path,
    images: tuple[Path, ...],
    demo: int | None,
    output: Path | None,
    final: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Run FILE on images and draw what it decided: each state after a layer that removes tokens.

    FILE is an ONNX file, whose decisions are read out as it runs in onnxruntime, or a TensorRT engine that was exported
    with --token-map, which runs on the GPU and shows the last state. Pruned patches are hatched, merged ones share a
    colour and a border.

    \b
    tofu-export tokens out/model.fp32.onnx dog.jpg cat.jpg -o tokens.png
    tofu-export tokens demo_vit-tofu/model.fp32.onnx --demo 3 --json > tokens.json
    tofu-export tokens out/model.fp16.tensorrt-rtx.engine dog.jpg -o tokens.png
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    if bool(images) == (demo is not None):
        raise OptionError("give images to draw, or --demo N for held-out digits of the demo model, and not both")
    destination = output or (None if as_json else Path("tokens.png"))
    if destination is not None and destination.suffix.lower() != ".png":
        raise OptionError(f"-o is {destination}, expected a name that ends in .png")
    if destination is not None and destination.is_dir():
        raise OutputError(f"{destination} is a folder, expected the name of a picture to write")
    from tofu_export.images.inputs import pictures
    from tofu_export.tokens import read_source
    from tofu_export.tokens.document import token_document

    found = read_source(file)
    _ = found.grid  # before the work
    pixels, names = _pixels(found, images, demo)
    run = found.run(pixels)
    seen = pictures(pixels, found.preprocessing)
    if destination is not None:
        _draw(destination, found, run, seen, names, final=final)
    if as_json:
        click.echo(json.dumps(token_document(found, run, names, seen), separators=(",", ":")))
    if not quiet:
        _say(found, run, names, destination)


def _pixels(
    found: TokenSource, images: tuple[Path, ...], demo: int | None
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    from tofu_export.images.inputs import demo_set, read_images

    if demo is None:
        return read_images(images, found.preprocessing), tuple(image.name for image in images)
    digits = demo_set(demo).pixels
    if digits.shape[1:] != found.preprocessing["input_size"]:
        size = "x".join(map(str, found.preprocessing["input_size"]))
        raise OptionError(f"--demo has digits of 1x28x28, {found.path.name} takes {size}: give image files instead")
    return digits, tuple(f"digit {index}" for index in range(len(digits)))


def _draw(
    destination: Path,
    found: TokenSource,
    run: TokenRun,
    seen: NDArray[np.uint8],
    names: tuple[str, ...],
    *,
    final: bool,
) -> None:
    from tofu_export.system.files import staging
    from tofu_export.tokens.picture import draw_sheet

    states = run.states[-1:] if final else run.states
    title = f"{found.path.name}   {found.model}   pattern {found.pattern}   {found.tokens} tokens, then {_left(run)}"
    sheet = draw_sheet(seen, states, found.grid, found.prefix, title=title, names=names)
    with staging(destination.parent) as stage:
        sheet.save(stage.path(destination.name), "PNG")
        stage.publish(destination.name)


def _say(found: TokenSource, run: TokenRun, names: tuple[str, ...], destination: Path | None) -> None:
    from tofu_export.compare.groups import PRUNED

    last = run.states[-1]
    rows: list[tuple[str, Any, Any, Any]] = []
    for name, groups in zip(names, last.groups[:, found.prefix :], strict=True):
        kept = groups[groups != PRUNED]
        sizes = {int(group): int((kept == group).sum()) for group in kept}
        merged = [size for size in sizes.values() if size > 1]
        largest = f", the largest of {max(merged)}" if merged else ""
        rows.append((name, len(groups) - len(kept), sum(merged), f"{len(merged)} groups{largest}"))
    click.echo(f"{found.path.name} on {run.backend}, after block {last.step.layer}: {_left(run)} tokens", err=True)
    for name, pruned, together, groups in rows:
        click.echo(f"  {name}: {pruned} patches pruned, {together} merged into {groups}", err=True)
    for note in run.notes:
        click.echo(f"note: {note}", err=True)
    if destination is not None:
        click.echo(f"written to {destination}", err=True)


def _left(run: TokenRun) -> int:
    return run.states[-1].step.tokens_out
