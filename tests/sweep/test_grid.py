from __future__ import annotations

import pytest

from tofu_export.errors import OptionError
from tofu_export.options import Mode, Precision, Selection
from tofu_export.report.sweep import compact
from tofu_export.sweep.grid import Grid, expand, expand_pattern, split_patterns


def words(grid: Grid) -> list[str]:
    return [str(cell) for cell in expand(grid)[0]]


def test_the_full_model_comes_first_and_once() -> None:
    grid = Grid(("vit_tiny",), r=(0, 8), modes=(Mode.MLERP, Mode.PRUNE), precisions=(Precision.FP32, Precision.FP16))
    assert words(grid) == [
        "vit_tiny full fp32",
        "vit_tiny full fp16",
        "vit_tiny r=8 P6M6 fp32",
        "vit_tiny r=8 P6M6 fp16",
        "vit_tiny r=8 P12 fp32",
        "vit_tiny r=8 P12 fp16",
    ]


def test_all_splits_and_their_reverse() -> None:
    cells, failures = expand(Grid(("vit_tiny",), r=(8,), modes=(), splits=("PA", "AP")))
    assert failures == ()
    patterns = [cell.pattern for cell in cells if not cell.full]
    assert len(patterns) == len(set(patterns)) == 24  # 13 and 13, of which all P and all A are in both
    assert set(split_patterns("PA", 12)) | set(split_patterns("AP", 12)) == set(patterns)
    assert {"P" * 6 + "A" * 6, "A" * 6 + "P" * 6} <= set(patterns)


def test_ways_to_ask_for_the_same_make_one_cell() -> None:
    grid = Grid(("vit_tiny",), r=(8,), modes=(Mode.AVERAGE,), prune_layers=(None, 6), patterns=("P6A6", "PPPPPPA6"))
    cells = [cell for cell in expand(grid)[0] if not cell.full]
    assert [(cell.mode, cell.pattern) for cell in cells] == [("average", "PPPPPPAAAAAA")]


def test_sizes_make_cells_of_their_own() -> None:
    grid = Grid(("vit_tiny",), r=(8,), modes=(), patterns=("M12", "T12"), prop_attn=(None, True, False))
    cells, failures = expand(grid)
    assert failures == ()
    assert [(cell.pattern[0], cell.prop_attn) for cell in cells] == [
        ("-", False), ("M", True), ("M", False), ("T", True), ("T", False)
    ]  # fmt: skip
    assert all(cell.reduction.prop_attn is cell.prop_attn for cell in cells)
    assert len({str(cell) for cell in cells}) == 5
    assert cells[1].trace == cells[3].trace  # they differ in methods alone
    assert len({cell.trace for cell in cells}) == 4  # only tome has sizes where they stay out of the attention


def test_what_a_model_lacks_is_known_before_the_work() -> None:
    grid = Grid(("vit_tiny",), r=(4,), selections=(Selection.CLASS_ATTENTION,))
    assert expand(grid)[1] == ()
    grid = Grid(("vit_base_patch16_siglip_224",), r=(4,), selections=(Selection.CLASS_ATTENTION, Selection.ENERGY))
    cells, (failure,) = expand(grid)
    assert [cell.select for cell in cells if not cell.full] == [Selection.ENERGY]
    assert "no class token" in failure.reason


def test_gmacs_are_those_of_the_plan() -> None:
    cells, _ = expand(Grid(("vit_base",), r=(8, 16)))
    assert [(cell.gmacs, cell.gmacs_full) for cell in cells] == [
        (pytest.approx(17.58, abs=0.01), pytest.approx(17.58, abs=0.01)),
        (pytest.approx(13.12, abs=0.01), pytest.approx(17.58, abs=0.01)),
        (pytest.approx(8.78, abs=0.01), pytest.approx(17.58, abs=0.01)),
    ]


def test_what_cannot_be_planned_is_told_and_the_rest_stays() -> None:
    grid = Grid(("vit_nowhere", "vit_tiny", "vit_large"), r=(8,), patterns=("P6A6",), modes=(Mode.MLERP,))
    cells, failures = expand(grid)
    assert [(failure.model, failure.what, failure.exit_code) for failure in failures] == [
        ("vit_nowhere", "all", 2),
        ("vit_large", "r=8 P6A6", 2),  # 24 layers
    ]
    assert "unknown model" in failures[0].reason
    assert "12 letters" in failures[1].reason
    assert [cell.model for cell in cells] == ["vit_tiny"] * 3 + ["vit_large"] * 2


@pytest.mark.parametrize(("text", "pattern"), [("P2M3", "PPMMM"), ("PPM", "PPM"), ("P-2A", "P--A"), ("T12", "T" * 12)])
def test_patterns_are_read_with_counts(text: str, pattern: str) -> None:
    assert expand_pattern(text) == pattern
    assert expand_pattern(compact(pattern)) == pattern


@pytest.mark.parametrize("text", ["", "6P", "PX", "P0", "P1000000000", "P 2", "p2"])
def test_patterns_that_cannot_be_read(text: str) -> None:
    with pytest.raises(OptionError, match="pattern"):
        expand_pattern(text)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"models": ()}, "at least one value for models"),
        ({"r": ()}, "at least one value for r"),
        ({"r": (8, 8)}, "r of a sweep repeat a value"),
        ({"batches": (0,)}, "batch size 0"),
        ({"prop_attn": ()}, "at least one value for prop attn"),
        ({"precisions": (Precision.BF16,)}, "bf16"),
        ({"selections": (Selection.ENERGY, Selection.PREDICTOR)}, "leave predictor out of --select"),
        ({"splits": ("PP",)}, "two different letters"),
        ({"splits": ("P",)}, "two different letters"),
        ({"splits": ("PX",)}, "two different letters"),
        ({"patterns": ("Q12",)}, "pattern 'Q12'"),
        ({"modes": ()}, "needs a mode, a pattern or a split"),
    ],
)
def test_what_cannot_be_swept(values: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Grid(**{"models": ("vit_tiny",), **values})  # type: ignore[arg-type]
