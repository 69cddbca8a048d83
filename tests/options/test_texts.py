"""Texts that stand for several values."""

from __future__ import annotations

import pytest

from tofu_export.errors import OptionError
from tofu_export.options.texts import comma_list, parse_batches, parse_names, parse_shapes, whole


class TestShapes:
    def test_by_name(self) -> None:
        assert parse_shapes(["input:1x3x224x224", "a:b:7"]) == {"input": (1, 3, 224, 224), "a:b": (7,)}
        assert parse_shapes([]) == {}

    @pytest.mark.parametrize("text", ["", "input", "input:", ":1x3", "input:1x", "input:1,3", "input:-1", "input:0x3"])
    def test_something_else(self, text: str) -> None:
        with pytest.raises(OptionError, match="expected NAME:SIZES"):
            parse_shapes([text])

    def test_twice(self) -> None:
        with pytest.raises(OptionError, match="names x twice"):
            parse_shapes(["x:1", "x:2"])


@pytest.mark.parametrize(("text", "names"), [("", ()), ("sm89, SM80,", ("SM89", "SM80"))])
def test_names(text: str, names: tuple[str, ...]) -> None:
    assert parse_names(text) == names


def test_batches() -> None:
    assert parse_batches("1, 8,") == (1, 8)
    assert parse_batches("") == ()
    with pytest.raises(OptionError, match=r"--bench-batch is '0', expected batch sizes with commas between"):
        parse_batches("0", "--bench-batch")


def test_a_list_of_anything() -> None:
    read = comma_list(whole, "--r", "whole numbers, for example 8,16")
    assert read("8, 16,") == (8, 16)
    with pytest.raises(OptionError, match="--r is '8,x', expected whole numbers, for example 8,16"):
        read("8,x")
