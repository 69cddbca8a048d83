"""Token maps as small drawings over one copy of each image: pruned patches hatched, merged ones in one colour."""

from __future__ import annotations

import base64
import binascii
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tofu_export.errors import OptionError
from tofu_export.report.html.svg import number
from tofu_export.report.token_maps import TokenDocument, TokenImage, TokenState

__all__ = ["MOST_IMAGES", "ImageMaps", "Panel", "image_maps", "shared_definitions"]

MOST_IMAGES = 3
_MOST_STATES = 11
_COLOURS = 7
"""Number of border classes, `g0` to `g6`, in the style sheet."""
_PRUNED = -1
_LINE = 0.14
"""Width of a border, in patches."""
_LARGEST_PIXELS = 4096 * 4096


@dataclass(frozen=True)
class Panel:
    """Small drawing of one state of an image.

    Attributes:
        svg: the drawing.
        head: what it shows.
        detail: its numbers.
    """

    svg: Markup
    head: str
    detail: str


@dataclass(frozen=True)
class ImageMaps:
    """All drawings of one image.

    Attributes:
        name: name of the image.
        panels: the image, then its states.
        definition: the image itself, for `shared_definitions`.
        left_out: states that are not drawn.
    """

    name: str
    panels: tuple[Panel, ...]
    definition: Markup
    left_out: int


def image_maps(document: TokenDocument) -> list[ImageMaps]:
    """Return the drawings of the first images of a document of `tofu-export tokens --json`.

    Raises:
        OptionError: an image in it is not a PNG, or a map does not fill the grid.
    """
    rows, columns = document.grid
    found = []
    for index, entry in enumerate(document.images[:MOST_IMAGES]):
        picture, uri = _picture(entry)
        identity = f"image-{index}"
        style = "image-rendering:pixelated" if max(picture.shape[:2]) <= 64 else ""
        definition = Markup(
            '<image id="{}" href="{}" width="{}" height="{}" preserveAspectRatio="none" style="{}"/>'
        ).format(identity, uri, columns, rows, style)
        states = _chosen(entry.states)
        panels = [Panel(_svg(identity, (rows, columns), Markup(""), f"{entry.name}, the image"), "image", "")]
        for state in states:
            groups = _patches(state, document)
            head, detail = f"block {state.layer}, {state.method}", f"{state.tokens} tokens"
            said = f"{entry.name} after block {state.layer}: {state.tokens} tokens, {_counts(groups)}"
            panels.append(Panel(_svg(identity, (rows, columns), _overlay(picture, groups), said), head, detail))
        found.append(ImageMaps(entry.name, tuple(panels), definition, len(entry.states) - len(states)))
    return found


def shared_definitions(maps: Sequence[ImageMaps]) -> Markup:
    """Return the definitions that the drawings share, to be put into the page once, before them."""
    hatch = Markup(
        '<pattern id="hatch" width="0.34" height="0.34" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="hatch-ground" width="0.34" height="0.34"/><rect class="hatch-line" width="0.09" height="0.34"/>'
        "</pattern>"
    )
    return Markup(
        '<svg width="0" height="0" class="definitions" aria-hidden="true" focusable="false"><defs>{}{}</defs></svg>'
    ).format(hatch, Markup("").join(one.definition for one in maps))


def _picture(entry: TokenImage) -> tuple[NDArray[np.uint8], str]:
    """Return the image [H, W, 3], and its data URI."""
    try:
        data = base64.b64decode(entry.png, validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > _LARGEST_PIXELS:
                raise OptionError(f"image {entry.name!r} is {image.width}x{image.height}, too large for a page")
            pixels = np.asarray(image.convert("RGB"))
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"image {entry.name!r} of the token maps is not a PNG in base64: make them again") from error
    return pixels, f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _chosen(states: Sequence[TokenState]) -> list[TokenState]:
    """Select states evenly over the layers, the last one included, up to a limit."""
    if len(states) <= _MOST_STATES:
        return list(states)
    places = np.unique(np.linspace(0, len(states) - 1, _MOST_STATES).round().astype(int))
    return [states[place] for place in places]


def _patches(state: TokenState, document: TokenDocument) -> NDArray[np.int64]:
    """Return the token that each patch is part of, [rows, columns].

    Raises:
        OptionError: the number of groups differs from the patches in the grid.
    """
    rows, columns = document.grid
    groups = np.array(state.groups[document.prefix_tokens :], dtype=np.int64)
    if len(groups) != rows * columns or groups.min(initial=_PRUNED) < _PRUNED:
        raise OptionError(
            f"the token maps of {document.file} have {len(groups)} patches after block {state.layer}, expected "
            f"{rows * columns}, each in a token from 0 on or {_PRUNED}: make them again"
        )
    return groups.reshape(rows, columns)


def _counts(groups: NDArray[np.int64]) -> str:
    kept = groups[groups != _PRUNED]
    sizes = np.bincount(kept) if kept.size else np.zeros(1, dtype=np.int64)
    several = sizes[sizes > 1]
    pruned = int((groups == _PRUNED).sum())
    return f"{pruned} patches pruned, {int(several.sum())} merged into {len(several)} groups"


def _svg(identity: str, grid: tuple[int, int], overlay: Markup, said: str) -> Markup:
    rows, columns = grid
    return Markup('<svg class="map" viewBox="0 0 {} {}" role="img" aria-label="{}"><use href="#{}"/>{}</svg>').format(
        columns, rows, said, identity, overlay
    )


def _overlay(picture: NDArray[np.uint8], groups: NDArray[np.int64]) -> Markup:
    """Draw pruned patches, then merged ones with their borders."""
    parts = []
    pruned = groups == _PRUNED
    if pruned.any():
        parts.append(Markup('<path fill="url(#hatch)" d="{}"/>').format(_area(pruned)))
    colours = _patch_colours(picture, groups.shape)
    borders: dict[int, list[str]] = defaultdict(list)
    for group in np.unique(groups[~pruned]):
        members = groups == group
        if members.sum() > 1:
            red, green, blue = np.rint(colours[members].mean(axis=0)).astype(int)
            parts.append(Markup('<path fill="#{}" d="{}"/>').format(f"{red:02x}{green:02x}{blue:02x}", _area(members)))
            borders[int(np.flatnonzero(members)[0]) % _COLOURS].append(_edges(members))
    parts += [
        Markup('<path class="border g{}" d="{}"/>').format(colour, "".join(paths))
        for colour, paths in sorted(borders.items())
    ]
    return Markup("").join(parts)


def _patch_colours(picture: NDArray[np.uint8], grid: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the mean colour of each patch, [rows, columns, 3]."""
    rows, columns = grid
    image = Image.fromarray(picture).resize((columns, rows), Image.Resampling.BOX)
    return np.asarray(image).astype(np.float64)


def _area(cells: NDArray[np.bool_]) -> str:
    """Return a path over these cells, run by run."""
    runs = []
    for row, line in enumerate(cells):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
        runs += [f"M{start} {row}h{stop - start}v1h-{stop - start}z" for start, stop in edges.reshape(-1, 2).tolist()]
    return "".join(runs)


def _edges(members: NDArray[np.bool_]) -> str:
    """Return lines just inside the outline of these cells."""
    padded = np.pad(members, 1)
    half = _LINE / 2
    steps = []
    for row, column in np.argwhere(members).tolist():
        up, down = padded[row, column + 1], padded[row + 2, column + 1]
        left, right = padded[row + 1, column], padded[row + 1, column + 2]
        if not up:
            steps.append(f"M{column} {number(row + half)}h1")
        if not down:
            steps.append(f"M{column} {number(row + 1 - half)}h1")
        if not left:
            steps.append(f"M{number(column + half)} {row}v1")
        if not right:
            steps.append(f"M{number(column + 1 - half)} {row}v1")
    return "".join(steps)
