"""Options refuse what they cannot mean, when they are made and in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tofu_export.errors import OptionError
from tofu_export.options import (
    BatchRange,
    Method,
    Mode,
    Precision,
    PrunedSizes,
    Reduction,
    Schedule,
    parse_layers,
    parse_precisions,
    parse_r,
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": -1}, "-1"),
        ({"r": 1.5}, r"1\.5"),
        ({"r": True}, "True"),
        ({"r": "16"}, "'16'"),
        ({"r": [1, 2]}, r"\[1, 2\]"),
        ({"r": ()}, "empty"),
        ({"r": (1, -2)}, "-2"),
        ({"r": (1, False)}, "False"),
        ({"prune_layers": -1}, "prune_layers is -1"),
        ({"pattern": ""}, "empty"),
        ({"pattern": "PXM"}, "'X'"),
        ({"pattern": "pm"}, "'p'"),
        ({"pattern": "PM", "prune_layers": 1}, "give one of them"),
        ({"r": (1, 2), "schedule": Schedule.LINEAR}, "already is a schedule"),
        ({"keep_rate": 0.9, "schedule": Schedule.LINEAR}, "keep_rate 0.9 already is a schedule"),
        ({"keep_rate": 0.0}, "over 0, at most 1"),
        ({"keep_rate": 1.01}, "over 0, at most 1"),
        ({"keep_rate": float("nan")}, "nan"),
        ({"keep_rate": True}, "True"),
        ({"keep_rate": "0.9"}, "'0.9'"),
        ({"gmacs": 0}, "over 0"),
        ({"gmacs": float("inf")}, "inf"),
        ({"speedup": 0.5}, "at least 1"),
        ({"r": 16, "keep_rate": 0.9}, "r and keep_rate each say"),
        ({"r": (1, 2), "gmacs": 9}, "r and gmacs each say"),
        ({"gmacs": 9, "speedup": 2}, "give one of"),
        ({"exclude_layers": (0, -1)}, "-1"),
        ({"exclude_layers": (0, 1.0)}, r"1\.0"),
        ({"exclude_layers": (True,)}, "True"),
    ],
)
def test_reduction_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Reduction(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "mlerp"},
        {"schedule": "linear"},
        {"prune_layers": 1.5},
        {"prune_layers": "6"},
        {"prune_layers": True},
        {"prop_attn": "yes"},
        {"pruned_sizes": "kept"},
        {"pattern": ["P"] * 12},
    ],
)
def test_reduction_refuses_values_of_another_type(change: dict[str, Any]) -> None:
    """Found on construction, not as an AttributeError in the middle of a job; text that names a member may be taken."""
    try:
        reduction = Reduction(**change)
    except OptionError:
        return
    reduction.methods(12)
    reduction.amounts(12)
    assert isinstance(reduction.mode, Mode)
    assert isinstance(reduction.schedule, Schedule)
    assert reduction.prop_attn in (None, True, False)


def test_errors_are_value_errors_with_the_status_of_usage() -> None:
    with pytest.raises(ValueError, match="r is -1") as error:
        Reduction(r=-1)
    assert error.value.exit_code == 2


def test_options_are_frozen_and_can_be_keys() -> None:
    reduction = Reduction()
    with pytest.raises(dataclasses.FrozenInstanceError):
        reduction.r = 3
    assert hash(reduction) == hash(Reduction(r=16))
    with pytest.raises(dataclasses.FrozenInstanceError):
        BatchRange().minimum = 2


def test_defaults() -> None:
    reduction = Reduction()
    assert (reduction.r, reduction.mode, reduction.schedule) == (16, Mode.WEIGHTED_MLERP, Schedule.CONSTANT)
    assert (reduction.prop_attn, reduction.pruned_sizes) == (None, PrunedSizes.TAKE_OVER)


@pytest.mark.parametrize("mode", [Mode.MLERP, Mode.AVERAGE, Mode.PRUNE])
@pytest.mark.parametrize(("depth", "first"), [(12, 6), (24, 6), (13, 6), (11, 5), (6, 3), (3, 1), (1, 0), (0, 0)])
def test_in_the_papers_modes_the_first_six_layers_but_no_more_than_half_prune(
    mode: Mode, depth: int, first: int
) -> None:
    methods = Reduction(mode=mode).methods(depth)
    assert methods == (Method.PRUNE,) * first + (Method[mode.name],) * (depth - first)


@pytest.mark.parametrize(("depth", "first"), [(12, 3), (24, 6), (13, 3), (6, 1), (3, 0), (0, 0)])
def test_a_quarter_of_the_layers_prune_before_weighted_mlerp_and_none_before_tome(depth: int, first: int) -> None:
    methods = Reduction().methods(depth)
    assert methods == (Method.PRUNE,) * first + (Method.WEIGHTED_MLERP,) * (depth - first)
    assert Reduction(mode=Mode.TOME).methods(depth) == (Method.TOME,) * depth


@pytest.mark.parametrize(("prune_layers", "pattern"), [(0, "MMMM"), (1, "PMMM"), (4, "PPPP")])
def test_prune_layers_sets_the_boundary(prune_layers: int, pattern: str) -> None:
    reduction = Reduction(mode=Mode.MLERP, prune_layers=prune_layers)
    assert "".join(method.value for method in reduction.methods(4)) == pattern


def test_prune_layers_counts_for_tome_too() -> None:
    reduction = Reduction(mode=Mode.TOME, prune_layers=2)
    assert "".join(method.value for method in reduction.methods(4)) == "PPTT"


def test_more_pruning_layers_than_layers_are_refused() -> None:
    with pytest.raises(OptionError, match="only 4 layers"):
        Reduction(prune_layers=5).methods(4)


def test_a_pattern_is_taken_letter_by_letter() -> None:
    assert Reduction(pattern="PAMT-").methods(5) == tuple(Method(letter) for letter in "PAMT-")
    with pytest.raises(OptionError, match=r"5 letters.*12 layers"):
        Reduction(pattern="PAMT-").methods(12)


def test_a_list_needs_one_number_per_layer() -> None:
    assert Reduction(r=(1, 2, 0)).amounts(3) == (1, 2, 0)
    with pytest.raises(OptionError, match=r"lists 3 layers.*has 12"):
        Reduction(r=(1, 2, 0)).amounts(12)


@pytest.mark.parametrize("r", [0, 1, 7, 8, 13, 16, 20])
@pytest.mark.parametrize("depth", [2, 3, 12, 24, 32])
def test_a_linear_schedule_falls_from_2r_to_0_and_removes_as_many(r: int, depth: int) -> None:
    amounts = Reduction(r=r, schedule=Schedule.LINEAR).amounts(depth)
    assert (amounts[0], amounts[-1]) == (2 * r, 0)
    assert list(amounts) == sorted(amounts, reverse=True)
    exact = [2 * r * (depth - 1 - layer) / (depth - 1) for layer in range(depth)]
    assert all(abs(amount - want) <= 0.5 for amount, want in zip(amounts, exact, strict=True))
    assert sum(amounts) == pytest.approx(r * depth, abs=1)


def test_a_linear_schedule_over_one_layer_is_r() -> None:
    assert Reduction(r=5, schedule=Schedule.LINEAR).amounts(1) == (5,)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_constant_schedule_over_few_layers(depth: int) -> None:
    assert Reduction(r=5).amounts(depth) == (5,) * depth


def test_methods_that_merge() -> None:
    assert "".join(method.value for method in Method if method.merges) == "AMWT"
    assert "".join(method.value for method in Method if method.weighs) == "WT"
    assert "".join(method.value for method in Method if method.keeps_norm) == "MW"
    assert all(mode.method.name == mode.name for mode in Mode)


@pytest.mark.parametrize(
    ("text", "values"), [("1:8:64", (1, 8, 64)), ("4", (4, 4, 4)), ("2:2:2", (2, 2, 2)), (" 1 : 2 : 3 ", (1, 2, 3))]
)
def test_batch_ranges(text: str, values: tuple[int, int, int]) -> None:
    batch = BatchRange.parse(text)
    assert (batch.minimum, batch.optimum, batch.maximum) == values
    assert BatchRange.parse(str(batch)) == batch


@pytest.mark.parametrize(
    "text", ["", "0", "1:2", "2:1:3", "1:4:3", "0:1:2", "-1:2:3", "1:2:3:4", "a", "1.5", "1::2", "+1"]
)
def test_batch_ranges_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--batch 1:8:64"):
        BatchRange.parse(text)


@pytest.mark.parametrize("values", [(0, 1, 2), (2, 1, 3), (1, 3, 2), (-1, -1, -1)])
def test_batch_ranges_refused_on_construction(values: tuple[int, int, int]) -> None:
    with pytest.raises(OptionError, match="MIN <= OPT <= MAX"):
        BatchRange(*values)


@pytest.mark.parametrize("way", [{"r": 3}, {"r": (1, 2)}, {"keep_rate": 0.9}, {"gmacs": 9}, {"speedup": 1.8}])
def test_the_amount_is_given_in_one_way(way: dict[str, Any]) -> None:
    reduction = Reduction(**way)
    assert reduction.asked == way
    assert dataclasses.replace(reduction, mode=Mode.PRUNE).asked == way
    if "r" not in way:
        with pytest.raises(OptionError, match=next(iter(way))):
            reduction.amounts(2)


def test_excluded_layers_have_no_method() -> None:
    reduction = Reduction(exclude_layers=(3, 0, 3), pattern="PPMM")
    assert reduction.exclude_layers == (0, 3)
    assert "".join(method.value for method in reduction.methods(4)) == "-PM-"
    assert "".join(method.value for method in reduction.methods_before_exclusion(4)) == "PPMM"
    with pytest.raises(OptionError, match="3 layers are 0 to 2"):
        Reduction(exclude_layers=(3,)).methods(3)


@pytest.mark.parametrize(("text", "layers"), [("", ()), (" 0", (0,)), ("0, 11", (0, 11))])
def test_layers(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", [",", "0,", "-1", "1.5", "a", "0-3"])
def test_layers_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--exclude-layers 0,11"):
        parse_layers(text)


@pytest.mark.parametrize(("text", "r"), [("16", 16), (" 0 ", 0), ("1,2,3", (1, 2, 3)), ("4, 0 ,2", (4, 0, 2))])
def test_r(text: str, r: int | tuple[int, ...]) -> None:
    assert parse_r(text) == r
    Reduction(r=parse_r(text))


@pytest.mark.parametrize("text", ["", "-1", "1.5", "a", "1,", "1,,2", "1;2", "²", "1e3", "0x10"])
def test_r_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--r 16"):
        parse_r(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("fp32", (Precision.FP32,)),
        ("FP16, fp32", (Precision.FP16, Precision.FP32)),
        ("fp16,fp16,bf16,", (Precision.FP16, Precision.BF16)),
        ("int8", (Precision.INT8,)),
        ("fp8,int8-fp16", (Precision.FP8, Precision.INT8_FP16)),
    ],
)
def test_precisions(text: str, values: tuple[Precision, ...]) -> None:
    assert parse_precisions(text) == values


@pytest.mark.parametrize("text", ["", ",", "int4", "fp32,half", "fp 16"])
def test_precisions_refused(text: str) -> None:
    with pytest.raises(OptionError, match="fp32, fp16, bf16, int8, int8-fp16, fp8"):
        parse_precisions(text)
