from __future__ import annotations

import pytest

from tofu_export.engines.building.preflight import InputShape
from tofu_export.engines.building.profiles import make_profiles, parse_shape_options, parse_values
from tofu_export.errors import OptionError
from tofu_export.options import BatchRange

X, IDS = InputShape("x", ("b", 3, "h", "w")), InputShape("ids", ("b", 77))


def test_profile_of_each_dynamic_input():
    inputs = (InputShape("x", ("b", 3, 8)), InputShape("t", ("b",)), InputShape("text", (77, 4)))
    assert make_profiles(inputs, BatchRange(1, 2, 4)) == {
        "x": ((1, 3, 8), (2, 3, 8), (4, 3, 8)),
        "t": ((1,), (2,), (4,)),
    }


def test_other_axes_need_shapes():
    with pytest.raises(OptionError, match=r"'x' is bx3xheight.*axis 2.*--opt-shapes x:1x3x1"):
        make_profiles((InputShape("x", ("b", 3, "height")),), BatchRange())


def test_shapes_for_one_input_and_the_batch_for_the_other():
    shapes = parse_shape_options("x:1x3x64x64", "x:2x3x96x96", "x:4x3x128x96")
    assert make_profiles((X, IDS), BatchRange(1, 2, 4), shapes) == {
        "x": ((1, 3, 64, 64), (2, 3, 96, 96), (4, 3, 128, 96)),
        "ids": ((1, 77), (2, 77), (4, 77)),
    }


def test_preferred_shapes_alone_are_all_three():
    assert parse_shape_options("", "a:1x3,b:c:2", "") == {"a": ((1, 3),) * 3, "b:c": ((2,),) * 3}
    assert parse_shape_options("", "", "") == {}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("x:1", "", ""), "--opt-shapes alone"),
        (("x:1", "x:1", ""), "--opt-shapes alone"),
        (("x:1", "y:1", "x:1"), "name different inputs"),
        (("x:2", "x:1", "x:4"), "MIN <= OPT <= MAX"),
        (("x:1", "x:1x1", "x:1"), "same number of axes"),
        (("", "x:0x3", ""), "'x:0x3', expected NAME:SIZES"),
        (("", "x", ""), "expected NAME:SIZES"),
        (("", "x:1,x:2", ""), "names x twice"),
    ],
)
def test_bad_shapes(texts, words):
    with pytest.raises(OptionError, match=words):
        parse_shape_options(*texts)


@pytest.mark.parametrize(
    ("text", "words"),
    [("z:1x3x8x8", "inputs of the file are: x, ids"), ("x:1x4x8x8", "declares bx3xhxw"), ("x:1x3x8", "declares")],
)
def test_shapes_that_contradict_the_file(text, words):
    with pytest.raises(OptionError, match=words):
        make_profiles((X, IDS), None, parse_shape_options("", text, ""))


def test_static_file():
    inputs = (InputShape("x", (4, 3, 8)),)
    assert make_profiles(inputs, BatchRange(4, 4, 4)) == {}
    assert make_profiles(inputs, None) == {}
    assert make_profiles(inputs, None, parse_shape_options("", "x:4x3x8", "")) == {}
    for batch in (BatchRange(1, 4, 8), BatchRange(8, 8, 8)):
        with pytest.raises(OptionError, match=r"fixed batch .4..*--batch 4"):
            make_profiles(inputs, batch)


def test_default_batch():
    assert make_profiles((IDS,), None) == {"ids": ((1, 77), (8, 77), (64, 77))}


def test_no_inputs_need_no_profile():
    assert make_profiles((), BatchRange()) == {}


def test_values_of_inputs_that_decide_sizes() -> None:
    assert parse_values(["k=1:5:10", "size=480x640"]) == {
        "k": ((1,), (5,), (10,)),
        "size": ((480, 640), (480, 640), (480, 640)),
    }


@pytest.mark.parametrize("text", ["k", "k=", "k=a", "k=1:2", "k=3:2:1", "k=1:2x2:3", "=1"])
def test_other_values_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--values is"):
        parse_values([text])
