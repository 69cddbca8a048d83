"""What is refused, and in which words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tofu_export.diffusion.options import LatentSize, UnetMode, UnetReduction
from tofu_export.errors import OptionError
from tofu_export.options import Method


def test_defaults_are_those_of_tomesd_and_the_paper() -> None:
    chosen = UnetReduction()
    assert (chosen.ratio, chosen.sx, chosen.sy, chosen.max_downsample) == (0.5, 2, 2, 1)
    assert not chosen.merge_crossattn
    assert not chosen.merge_mlp


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": -0.1}, "from 0, for the full UNet"),
        ({"ratio": 0.76}, "to 0.75"),
        ({"ratio": 0.6, "sx": 1}, "to 0.5"),
        ({"ratio": math.nan}, "expected a number"),
        ({"ratio": True}, "expected a number"),
        ({"sx": 0}, "--sx 2"),
        ({"sy": 1.5}, "--sy 2"),
        ({"sx": 1, "sy": 1}, "1x1"),
        ({"mode": "mlerp"}, "UnetMode"),
        ({"max_downsample": 3}, "1, 2, 4 or 8"),
        ({"boundary": -1}, ">= 0"),
        ({"boundary": 2, "mode": UnetMode.TOME}, "leave out --boundary"),
        ({"cell_seed": -1}, "cell_seed"),
    ],
)
def test_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        UnetReduction(**options)


def test_largest_ratio_is_allowed() -> None:
    assert UnetReduction(ratio=0.75).ratio == 0.75


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({}, "PPPMMM"),
        ({"boundary": 1}, "PMMMMM"),
        ({"boundary": 0}, "MMMMMM"),
        ({"mode": UnetMode.MLERP}, "MMMMMM"),
        ({"mode": UnetMode.AVERAGE, "boundary": 2}, "PPAAAA"),
        ({"mode": UnetMode.PRUNE}, "PPPPPP"),
        ({"mode": UnetMode.TOME}, "TTTTTT"),
    ],
)
def test_method_by_execution_order(options: dict[str, Any], pattern: str) -> None:
    chosen = UnetReduction(**options)
    assert [chosen.method(block, 3) for block in range(6)] == [Method(letter) for letter in pattern]


@pytest.mark.parametrize(("text", "expected"), [("64", (64, 64)), ("48x96", (48, 96)), ("5X7", (5, 7))])
def test_latent_size(text: str, expected: tuple[int, int]) -> None:
    parsed = LatentSize.parse(text)
    assert (parsed.height, parsed.width) == expected


@pytest.mark.parametrize("text", ["", "0", "64x", "x64", "1x2x3", "-8", "6.4", "64x0"])
def test_latent_size_refused(text: str) -> None:
    with pytest.raises(OptionError, match="HEIGHTxWIDTH"):
        LatentSize.parse(text)
