"""Draw token maps: the image, then the state after each reducing layer, in one picture.

A patch that stands for itself shows its own pixels. Patches that merged show their mean colour inside a coloured
border, one colour for a group in all states. A pruned patch is dimmed and hatched: nothing stands for it.

Source: the visualisation of ToMe (arXiv 2210.09461, figures 4 and 7), which has no pruned tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tofu_export.compare.groups import PRUNED, GroupState

__all__ = ["COLOURS", "draw_sheet", "draw_state"]

COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
"""Colours of borders, distinguishable with colour blindness. Source: Okabe and Ito, "Color Universal Design", 2008."""

_PANEL = 224
"""Least size of a panel in pixels."""
_CELL = 10
"""Least size of a patch in pixels."""
_PAPER = (255, 255, 255)
_INK, _FAINT = (29, 35, 41), (90, 98, 107)
_DIM, _HATCH = (236, 236, 232), (196, 80, 60)
_GAP, _TEXT = 18, 14
_COLUMNS = 6

Picture = NDArray[np.uint8]


def draw_state(picture: Picture, groups: NDArray[np.int64] | None, grid: tuple[int, int]) -> Picture:
    """Draw one panel, uint8 [h, w, 3].

    Args:
        picture: the image as the model sees it, [H, W, 3].
        groups: [patches], the group of each patch or `PRUNED`; None draws the image alone.
        grid: rows and columns of the patches.
    """
    rows, columns = grid
    cell = max(_CELL, -(-_PANEL // max(grid)))
    size = (columns * cell, rows * cell)
    way = Image.Resampling.NEAREST if max(picture.shape[:2]) <= 64 else Image.Resampling.LANCZOS
    panel = np.asarray(Image.fromarray(picture).resize(size, way)).astype(np.float32)
    if groups is None:
        return panel.astype(np.uint8)
    at = groups.reshape(grid)
    pruned = _enlarged(at == PRUNED, cell)
    panel[pruned] = 0.25 * panel[pruned] + 0.75 * np.array(_DIM)
    y, x = np.indices(pruned.shape)
    panel[pruned & ((x + y) % max(5, cell // 2) == 0)] = _HATCH
    line = max(1, cell // 8)
    for group in np.unique(groups[groups != PRUNED]):
        members = at == group
        if members.sum() > 1:
            inside = _enlarged(members, cell)
            panel[inside] = panel[inside].mean(axis=0)
            leader = int(np.flatnonzero(members)[0])
            panel[_border(members, cell, line)] = COLOURS[leader % len(COLOURS)]
    return np.clip(np.rint(panel), 0, 255).astype(np.uint8)


def draw_sheet(
    pictures: Picture,
    states: Sequence[GroupState],
    grid: tuple[int, int],
    prefix: int,
    *,
    title: str,
    names: Sequence[str],
) -> Image.Image:
    """Draw all images, one below the other, each with its panels.

    Args:
        pictures: uint8 [B, H, W, 3].
        states: state after each layer to draw.
        grid: rows and columns of the patches.
        prefix: protected tokens, which are not drawn.
        title: the line at the top.
        names: name of each image.
    """
    blocks = []
    for index, picture in enumerate(pictures):
        panels = [(draw_state(picture, None, grid), names[index])]
        panels += [(draw_state(picture, state.groups[index, prefix:], grid), _caption(state)) for state in states]
        blocks.append(panels)
    height, width = blocks[0][0][0].shape[:2]
    across = min(_COLUMNS, len(blocks[0]))
    down = -(-len(blocks[0]) // across)
    step = (width + _GAP, height + _GAP + _TEXT + 6)
    top = _GAP + _TEXT + _GAP
    whole = Image.new(
        "RGB", (max(across * step[0], 560) + _GAP, top + len(blocks) * (down * step[1] + _GAP) + _TEXT + _GAP), _PAPER
    )
    draw, font = ImageDraw.Draw(whole), _font(_TEXT)
    draw.text((_GAP, _GAP), title, _INK, font)
    for block, panels in enumerate(blocks):
        for index, (panel, caption) in enumerate(panels):
            x = _GAP + index % across * step[0]
            y = top + block * (down * step[1] + _GAP) + index // across * step[1]
            whole.paste(Image.fromarray(panel), (x, y))
            draw.text((x, y + height + 3), _fitting(caption, width, font), _FAINT, font)
    legend = (
        "hatched: pruned   coloured border: merged into one token, in their mean colour   plain: a token of its own"
    )
    draw.text((_GAP, whole.height - _TEXT - _GAP // 2), legend, _FAINT, _font(_TEXT - 2))
    return whole


def _caption(state: GroupState) -> str:
    return f"block {state.step.layer}, {state.step.method}: {state.step.tokens_out} left"


def _fitting(text: str, width: int, font: Any) -> str:
    """Return the text, shortened at its front if it is wider than its panel."""
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength(f"\u2026{text}") > width:
        text = text[1:]
    return f"\u2026{text}"


def _font(size: int) -> Any:
    import matplotlib as mpl  # brings a font that knows most scripts

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _enlarged(cells: NDArray[np.bool_], cell: int) -> NDArray[np.bool_]:
    return cells.repeat(cell, axis=0).repeat(cell, axis=1)


def _border(members: NDArray[np.bool_], cell: int, line: int) -> NDArray[np.bool_]:
    """Return the pixels of the members within `line` of a patch that is not a member."""
    inside = np.pad(_enlarged(members, cell), line)
    core = inside.copy()
    for shift in range(-line, line + 1):
        core &= np.roll(inside, shift, axis=0) & np.roll(inside, shift, axis=1)
    for down in (-line, line):  # corners
        for right in (-line, line):
            core &= np.roll(np.roll(inside, down, axis=0), right, axis=1)
    return (inside & ~core)[line:-line, line:-line]
