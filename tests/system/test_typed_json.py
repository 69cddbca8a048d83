"""Dataclasses as JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given

from tests.system.records import records
from tofu_export.errors import OptionError
from tofu_export.system.typed_json import from_plain, optional, to_plain


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Circle:
    shape: Literal["circle"]
    radius: float


@dataclass(frozen=True)
class Square:
    shape: Literal["square"]
    side: int
    colour: Colour | None = None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    name: str
    size: tuple[int, int]
    shapes: tuple[Circle | Square, ...] = ()
    by_page: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    amount: int | tuple[int, ...] | str | None = None
    seen: bool = False
    note: str | None = optional()


WHOLE = Drawing(
    name="a",
    size=(2, 3),
    shapes=(Circle("circle", 1.5), Square("square", 2, Colour.BLUE)),
    by_page={4: ("x", "y")},
    amount=(1, 2),
    note="new",
)
PLAIN = {
    "name": "a",
    "size": [2, 3],
    "shapes": [{"shape": "circle", "radius": 1.5}, {"shape": "square", "side": 2, "colour": "blue"}],
    "by_page": {4: ["x", "y"]},
    "amount": [1, 2],
    "seen": False,
    "note": "new",
}


def test_by_hand() -> None:
    assert to_plain(WHOLE) == PLAIN
    assert list(to_plain(WHOLE)) == list(PLAIN)
    assert from_plain(Drawing, json.loads(json.dumps(PLAIN))) == WHOLE


@given(records(Drawing))
def test_back_again(drawing: Drawing) -> None:
    assert from_plain(Drawing, json.loads(json.dumps(to_plain(drawing)))) == drawing


def test_what_is_optional_is_left_out_and_what_is_unknown_is_passed_over() -> None:
    bare = from_plain(Drawing, {"name": "a", "size": [1, 1], "later": 3})
    assert bare == Drawing(name="a", size=(1, 1))
    assert "note" not in to_plain(bare)
    assert to_plain(bare)["amount"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "name is None, expected text"),
        ({"size": [1]}, r"size is \[1\], expected a list of 2"),
        ({"size": [1, 2.5]}, r"size\[1\] is 2.5, expected a whole number"),
        ({"size": [1, True]}, r"size\[1\] is True, expected a whole number"),
        ({"size": "12"}, "size is '12', expected a list"),
        ({"seen": 1}, "seen is 1, expected true or false"),
        ({"shapes": [{"shape": "star"}]}, r"shapes\[0\].shape is 'star', expected one of circle, square"),
        ({"shapes": [3]}, r"shapes\[0\] is 3, expected an object"),
        ({"shapes": [{"shape": "circle"}]}, r"shapes\[0\].radius is missing"),
        (
            {"shapes": [{"shape": "square", "side": 1, "colour": "green"}]},
            "colour is 'green', expected one of red, blue",
        ),
        ({"by_page": {"one": []}}, "by_page.one is 'one', expected a key that is a whole number"),
        ({"by_page": []}, r"by_page is \[\], expected an object"),
        ({"amount": 1.5}, "amount is 1.5, expected a whole number"),
        ({"note": 3}, "note is 3, expected text"),
        ({"name": ["x" * 99]}, r"name is \['x{50,60}\.\.\., expected text"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"^a.json: .*{message}$"):
        from_plain(Drawing, {**PLAIN, **changes}, "a.json: ")


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(OptionError, match="expected an object"):
        from_plain(Drawing, value, "a.json")
