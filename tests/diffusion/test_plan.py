"""Plans: which blocks, how many tokens, what it saves."""

from __future__ import annotations

import pytest

from tests.diffusion import reference, tiny_unet
from tofu_export.diffusion.describe import describe_unet
from tofu_export.diffusion.models import create_unet, find_unet, inputs_of
from tofu_export.diffusion.options import LatentSize, UnetMode, UnetReduction
from tofu_export.diffusion.plan import destinations_of, make_unet_plan, unet_plan_table
from tofu_export.errors import OptionError
from tofu_export.options import Method


@pytest.fixture(scope="module")
def sd15() -> object:
    source = find_unet("sd15", "random")
    return describe_unet(create_unet(source, meta=True), inputs_of(source, LatentSize(64, 64)), "sd15")


def test_stable_diffusion_15_at_64(sd15) -> None:  # type: ignore[no-untyped-def]
    plan = make_unet_plan(sd15, UnetReduction())
    assert sd15.params == 859_520_964  # the published number
    assert plan.pattern == "PP-----------MMM"
    assert [(block.tokens, block.removed, block.kept) for block in plan.reduced] == [(4096, 2048, 1024)] * 5
    assert plan.macs_full / 1e9 == pytest.approx(401.6, abs=0.1)  # 803 GFLOP in torch's FlopCounterMode
    attention = 5 * (2 * 320 * (4096**2 - 2048**2) + 4 * 320 * 320 * 2048)
    assert plan.macs_saved == attention
    assert plan.macs_added == 320 * 1024 * (5 * 3072 + 3 * 4096)


def test_max_downsample_takes_more_blocks(sd15) -> None:  # type: ignore[no-untyped-def]
    assert len(make_unet_plan(sd15, UnetReduction(max_downsample=2)).reduced) == 10
    assert len(make_unet_plan(sd15, UnetReduction(max_downsample=8)).reduced) == 16


def test_more_parts_save_more(sd15) -> None:  # type: ignore[no-untyped-def]
    saved = [
        make_unet_plan(sd15, UnetReduction(merge_crossattn=cross, merge_mlp=mlp)).macs_saved
        for cross, mlp in ((False, False), (True, False), (True, True))
    ]
    cross = 5 * 2048 * (2 * 320 * 320 + 2 * 77 * 320)
    mlp = 5 * 2048 * (320 * 2560 + 1280 * 320)
    assert [saved[1] - saved[0], saved[2] - saved[1]] == [cross, mlp]


def test_sdxl_has_no_transformer_at_full_size() -> None:
    source = find_unet("sdxl", "random")
    spec = describe_unet(create_unet(source, meta=True), inputs_of(source), "sdxl")
    with pytest.raises(OptionError, match="--max-downsample 2"):
        make_unet_plan(spec, UnetReduction())
    plan = make_unet_plan(spec, UnetReduction(max_downsample=2))
    assert (len(plan.blocks), len(plan.reduced)) == (70, 10)
    assert "none" not in unet_plan_table(spec, plan)  # of 70 blocks it lists those that are reduced


def test_nothing_reduced_is_an_error() -> None:
    with pytest.raises(OptionError, match="no block would be reduced"):
        tiny_unet.plan("8", UnetReduction(ratio=0.01))
    with pytest.raises(OptionError, match="no block would be reduced"):
        tiny_unet.plan("2", UnetReduction(sx=4, sy=4))


def test_ratio_0_is_the_full_unet() -> None:
    plan = tiny_unet.plan("8", UnetReduction(ratio=0))
    assert plan.pattern == "----"
    assert plan.reduced == ()
    assert plan.macs_reduced == plan.macs_full == tiny_unet.spec().macs


def test_boundary_beyond_the_last_block() -> None:
    assert tiny_unet.plan("8", UnetReduction(boundary=4)).pattern == "P-PP"
    with pytest.raises(OptionError, match="only 4"):
        tiny_unet.plan("8", UnetReduction(boundary=5))


@pytest.mark.parametrize(("latent", "half"), [("8", (4, 4)), ("9x7", (5, 4)), ("5", (3, 3))])
def test_odd_sizes_round_up(latent: str, half: tuple[int, int]) -> None:
    plan = tiny_unet.plan(latent, UnetReduction(max_downsample=2))
    middle = plan.blocks[1]
    assert (middle.height, middle.width, middle.downsample) == (*half, 2)
    size = LatentSize.parse(latent)
    assert all((block.height, block.width) == (size.height, size.width) for block in (plan.blocks[0], plan.blocks[3]))


@pytest.mark.parametrize("cell", [(2, 2), (1, 2), (3, 2)])
@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (3, 3)])
def test_one_destination_in_each_whole_cell(grid: tuple[int, int], cell: tuple[int, int]) -> None:
    options = UnetReduction(sy=cell[0], sx=cell[1], ratio=0.1)
    assert list(destinations_of(*grid, options)) == reference.destinations(*grid, *cell)


def test_seeded_cells() -> None:
    def drawn(seed: int) -> tuple[int, ...]:
        return destinations_of(6, 8, UnetReduction(cell_seed=seed))

    assert drawn(1) == drawn(1) != drawn(2)
    cells = {(position // 8 // 2, position % 8 // 2) for position in drawn(1)}
    assert len(cells) == len(drawn(1)) == 12


def test_ratio_is_read_as_it_is_written() -> None:
    # 0.29 * 100 is 28.999999999999996 in binary
    assert tiny_unet.plan("10", UnetReduction(ratio=0.29)).reduced[0].removed == 29


def test_everything_that_can_leave_leaves() -> None:
    block = tiny_unet.plan("9x7", UnetReduction(ratio=0.75)).reduced[0]
    assert (block.tokens, block.removed, block.kept) == (63, 47, 63 - 12 - 47)
    assert tiny_unet.plan("8", UnetReduction(ratio=0.75)).reduced[0].kept == 0


def test_table_and_document_say_the_same() -> None:
    plan = tiny_unet.plan("8", UnetReduction(mode=UnetMode.AVERAGE))
    document = plan.to_dict()
    assert document["pattern"] == "A-AA"
    assert [row["method"] for row in document["blocks"]] == ["average", "none", "average", "average"]
    assert [row["attended"] for row in document["blocks"]] == [32, 16, 32, 32]
    text = unet_plan_table(tiny_unet.spec(), plan)
    assert all(block.path in text for block in plan.blocks)
    assert plan.blocks[1].method is Method.NONE
