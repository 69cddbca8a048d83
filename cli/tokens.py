"""`tofu-export tokens`: draw which patches of an image were pruned, and which became one token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofu_export.cli.command import Run, command
from tofu_export.errors import OptionError
from tofu_export.options import shared
from tofu_export.options.declaration import Section, opt, positional
from tofu_export.system.files import check_writable_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tofu_export.tokens import TokenRun, TokenSource

__all__ = ["tokens_command"]

_MOST_DEMO_IMAGES = 100


@dataclass(frozen=True)
class TokensWork:
    """Options for what to draw."""

    file: Path = positional(metavar="FILE")
    images: tuple[Path, ...] = positional((), nargs=-1, metavar="[IMAGE]...")
    demo: int | None = opt(
        None, "Instead of images: the first N held-out digits, for the demo model.", Section.IMAGES, metavar="N",
        minimum=1, maximum=_MOST_DEMO_IMAGES,
    )  # fmt: skip
    output: Path | None = shared.output("Picture to write.", "PNG", unless="tokens.png; none with --json")
    final: bool = opt(False, "Draw the last state only, not the one after each layer.", Section.OUTPUT)

    def __post_init__(self) -> None:
        if bool(self.images) == (self.demo is not None):
            raise OptionError("give images to draw, or --demo N for held-out digits of the demo model, and not both")


@command(
    "tokens", short_help="Draw which patches of an image were pruned or merged.", quiet="Only errors.",
    verbose="messages of libraries",
)  # fmt: skip
def tokens_command(work: TokensWork, run: Run) -> None:
    """Run FILE on images and draw what it decided: each state after a layer that removes tokens.

    FILE is an ONNX file, whose decisions are read out as it runs in onnxruntime, or a TensorRT engine that was exported
    with --token-map, which runs on the GPU and shows the last state. Pruned patches are hatched, merged ones share a
    colour and a border.

    \b
    tofu-export tokens out/model.fp32.onnx dog.jpg cat.jpg -o tokens.png
    tofu-export tokens demo_vit-tofu/model.fp32.onnx --demo 3 --json > tokens.json
    tofu-export tokens out/model.fp16.tensorrt-rtx.engine dog.jpg -o tokens.png
    """
    destination = work.output or (None if run.as_json else Path("tokens.png"))
    if destination is not None and destination.suffix.lower() != ".png":
        raise OptionError(f"-o is {destination}, expected a name that ends in .png")
    if destination is not None:
        check_writable_file(destination)
    from tofu_export.images.inputs import pictures
    from tofu_export.system.typed_json import to_plain
    from tofu_export.tokens import read_source
    from tofu_export.tokens.document import token_document

    found = read_source(work.file)
    _ = found.grid  # before the work
    pixels, names = _pixels(found, work.images, work.demo)
    result = found.run(pixels)
    seen = pictures(pixels, found.preprocessing)
    if destination is not None:
        _draw(destination, found, result, seen, names, final=work.final)
    if run.as_json:  # on one line: thousands of small numbers
        click.echo(json.dumps(to_plain(token_document(found, result, names, seen)), separators=(",", ":")))
    if not run.quiet:
        _say(found, result, names, destination)


def _pixels(
    found: TokenSource, images: tuple[Path, ...], demo: int | None
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    from tofu_export.images.inputs import demo_set, read_images

    if demo is None:
        return read_images(images, found.preprocessing), tuple(image.name for image in images)
    digits = demo_set(demo).pixels
    if digits.shape[1:] != found.preprocessing.input_size:
        size = "x".join(map(str, found.preprocessing.input_size))
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
