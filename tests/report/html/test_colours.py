"""The colours of the style sheet can be told from what lies behind them, in light, in dark and on paper."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

STYLE = files("tofu_export.report.html").joinpath("templates/report.css").read_text(encoding="utf-8")
LEAST_TEXT = 4.5
"""Source: WCAG 2.2, success criterion 1.4.3 (AA)."""
LEAST_GRAPHIC = 3.0
"""Source: WCAG 2.2, success criterion 1.4.11 (AA)."""
TEXT = ("ink", "soft", "link", "good", "bad", "prune", "merge")
GRAPHIC = ("merge", "prune", "full", "violet", "blue", "rose", "good", "bad", "soft")


def palettes() -> dict[str, dict[str, str]]:
    """Colours by name: the light ones, and those with what dark and print put in their place."""
    blocks = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]+);", block))
        for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    ]
    light, dark, paper = blocks
    return {"light": light, "dark": {**light, **dark}, "print": {**light, **paper}}


def luminance(colour: str) -> float:
    """Source: WCAG 2.2, relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("medium", ["light", "dark", "print"])
def test_text_can_be_read(medium: str) -> None:
    colours = palettes()[medium]
    found = {
        (name, behind): contrast(colours[name], colours[behind]) for name in TEXT for behind in ("paper", "raised")
    }
    assert {pair: value for pair, value in found.items() if value < LEAST_TEXT} == {}


@pytest.mark.parametrize("medium", ["light", "dark", "print"])
def test_charts_can_be_seen(medium: str) -> None:
    colours = palettes()[medium]
    found = {name: contrast(colours[name], colours["paper"]) for name in GRAPHIC}
    assert {name: value for name, value in found.items() if value < LEAST_GRAPHIC} == {}


@pytest.mark.parametrize("medium", ["light", "dark", "print"])
def test_what_is_kept_is_told_from_what_leaves(medium: str) -> None:
    """Bars of kept tokens are pale under those of pruned and merged ones: an outline parts them from the page."""
    colours = palettes()[medium]
    assert contrast(colours["keep"], colours["prune"]) >= LEAST_GRAPHIC
    assert contrast(colours["keep"], colours["merge"]) >= LEAST_GRAPHIC
    assert ".c-keep { fill: var(--keep); stroke: var(--soft);" in STYLE


def test_every_colour_that_is_used_is_there() -> None:
    names = set(re.findall(r"var\(--([\w-]+)\)", STYLE)) - {"serif", "sans", "mono"}
    assert names <= set(palettes()["light"])
    assert set(TEXT) | set(GRAPHIC) <= names
