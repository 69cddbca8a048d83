"""What a token map looks like, pixel by pixel."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_array_equal

from tofu_export.compare.groups import PRUNED, GroupState, Reducing
from tofu_export.tokens.picture import COLOURS, draw_sheet, draw_state

GRID = (2, 3)
CELL = 75
"""224 pixels over three columns, rounded up."""


def picture() -> np.ndarray:
    """Two rows of three patches of one pixel: red, green, blue; black, white, grey."""
    return np.array(
        [[[200, 0, 0], [0, 200, 0], [0, 0, 200]], [[0, 0, 0], [255, 255, 255], [90, 90, 90]]], dtype=np.uint8
    )


def cell(panel: np.ndarray, row: int, column: int) -> np.ndarray:
    return panel[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL].reshape(-1, 3)


def test_a_token_of_its_own_shows_its_pixels() -> None:
    panel = draw_state(picture(), np.arange(6), GRID)
    assert_array_equal(panel, draw_state(picture(), None, GRID))
    assert np.unique(cell(panel, 0, 1), axis=0).tolist() == [[0, 200, 0]]


def test_merged_patches_show_their_mean_inside_a_border_of_one_colour() -> None:
    panel = draw_state(picture(), np.array([0, 5, 1, 5, 2, 3]), GRID)  # green and black are one
    for row, column in ((0, 1), (1, 0)):
        colours = {tuple(colour) for colour in np.unique(cell(panel, row, column), axis=0).tolist()}
        assert colours == {(0, 100, 0), COLOURS[1]}
    assert np.unique(cell(panel, 1, 1), axis=0).tolist() == [[255, 255, 255]]


def test_there_is_no_border_inside_a_group() -> None:
    panel = draw_state(picture(), np.array([0, 0, 1, 2, 3, 4]), GRID)
    row = panel[CELL // 2]
    inside = [tuple(colour) for colour in row[CELL - 12 : CELL + 12].tolist()]
    assert set(inside) == {(100, 100, 0)}
    assert tuple(row[0]) == tuple(row[2 * CELL - 1]) == COLOURS[0]


def test_pruned_patches_are_hatched_and_never_a_group() -> None:
    panel = draw_state(picture(), np.array([PRUNED, PRUNED, 0, 1, 2, 3]), GRID)
    assert len(np.unique(cell(panel, 0, 0), axis=0)) == 2  # dimmed, and the lines
    assert not {tuple(colour) for colour in cell(panel, 0, 0).tolist()} & set(COLOURS)
    assert np.unique(cell(panel, 0, 2), axis=0).tolist() == [[0, 0, 200]]


def test_a_sheet_has_every_panel_and_is_the_same_each_time() -> None:
    states = [
        GroupState(Reducing(0, "prune", 7, 1), np.array([[0, PRUNED, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, PRUNED]]))
    ]
    both = np.stack([picture(), picture()[:, ::-1]])
    draw = lambda: draw_sheet(both, states, GRID, 1, title="a file", names=["x" * 200, "\u00e9t\u00e9"])  # noqa: E731
    sheet = np.asarray(draw())
    assert_array_equal(sheet, np.asarray(draw()))
    panel = draw_state(both[1], states[0].groups[1, 1:], GRID)
    height, width = panel.shape[:2]
    found = [
        (y, x)
        for y in range(sheet.shape[0] - height + 1)
        for x in (18, 18 + width + 18)
        if np.array_equal(sheet[y : y + height, x : x + width], panel)
    ]
    assert len(found) == 1
