"""What a model gives: timm's own where nothing leaves, and what a slow oracle of the token map says where tokens do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.testing import assert_allclose
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tests import families, reference, tiny
from tests.families import FAMILIES
from tests.patch.recorder import Recorder, oracle_matchings, record
from tofu_export import patch
from tofu_export.errors import OptionError, UnsupportedModelError
from tofu_export.options import Mode, OutputKind, Reduction
from tofu_export.patch import choose_output, observe, outputs_of, reads_patches
from tofu_export.patch.describe import describe
from tofu_export.patch.outputs import grid_shape
from tofu_export.planning.plan import ModelSpec, make_plan

LOGITS, FEATURES, TOKENS, GRID = OutputKind
SOME = Reduction(r=(3, 2, 4), pattern="PAM")
TOME = Reduction(r=3, mode=Mode.TOME)
ALL_SOURCES = Reduction(r=(8, 4, 2), pattern="MPA")
METHODS = [SOME, TOME, ALL_SOURCES, *(Reduction(r=(4, 0, 3), pattern=letter * 3) for letter in "PAMWT")]
NAMES = [*tiny.MODELS, *FAMILIES]
CLASS_TOKEN_LATER = {"cait"}
"""Models whose class token joins after the blocks, at the front."""


def build(name: str) -> nn.Module:
    return tiny.build(name) if name in tiny.MODELS else families.build(name)


def spec_of(name: str) -> ModelSpec:
    return tiny.spec(name) if name in tiny.MODELS else families.spec(name)


def reduced(name: str, reduction: Reduction) -> nn.Module:
    return patch.apply(build(name), make_plan(spec_of(name), reduction))


def images(count: int = 2, seed: int = 0) -> Tensor:
    return torch.from_numpy(tiny.pixels(count, seed))


def run(model: nn.Module, kind: OutputKind, x: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return outputs_of(model, kind, x)


def oracle_map(recorder: Recorder, spec: ModelSpec, image: int) -> list[int]:
    """The row that stands for each token of one image."""
    return reference.stand_ins(oracle_matchings(recorder, spec, image), spec.prefix_tokens, spec.tokens)


# --- Nothing removed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_removed_is_what_timm_gives_bit_for_bit(name: str, restore: bool) -> None:
    model, x = build(name), images()
    with torch.no_grad():
        logits, tokens = model(x), model.forward_features(x)
        features = model.forward_head(tokens, pre_logits=True)
        (grid,) = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
    patch.apply(model, make_plan(spec_of(name), Reduction(r=0, restore_grid=restore)))
    for kind, expected in ((LOGITS, logits), (FEATURES, features), (TOKENS, tokens), (GRID, grid)):
        got = run(model, kind, x)
        assert len(got) == len(kind.names)
        assert torch.equal(got[0], expected)
    identity = torch.arange(tokens.shape[1]).expand(2, -1)
    assert torch.equal(run(model, TOKENS, x)[1], identity)
    patch.remove(model)
    for kind, expected in ((FEATURES, features), (TOKENS, tokens), (GRID, grid)):
        assert torch.equal(run(model, kind, x)[0], expected)


# --- The token map -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", METHODS, ids=lambda reduction: f"{reduction.pattern or 'tome'}{reduction.r}")
@pytest.mark.parametrize("name", ["avg", "cls", "distilled", "registers", "eva-rope-mixed", "beit", "cait", "pe"])
def test_the_map_follows_every_token(name: str, reduction: Reduction) -> None:
    model, spec, x = reduced(name, reduction), spec_of(name), images(3)
    recorder = Recorder()
    with observe(recorder):
        tokens, token_map = run(model, TOKENS, x)
    joined = int(name in CLASS_TOKEN_LATER)
    left = spec.tokens - sum(layer.removed for layer in make_plan(spec, reduction).layers)
    assert tokens.shape == (3, joined + left, spec.embed_dim)
    assert token_map.shape == (3, joined + spec.tokens)
    assert token_map.dtype == torch.int64
    for image in range(3):
        expected = oracle_map(recorder, spec, image)
        assert token_map[image].tolist() == [*range(joined), *(joined + row for row in expected)]
        assert set(token_map[image].tolist()) == set(range(joined + left))  # every row stands for somebody
        prefix = joined + spec.prefix_tokens
        assert token_map[image, :prefix].tolist() == list(range(prefix))


@pytest.mark.parametrize("reduction", METHODS, ids=lambda reduction: f"{reduction.pattern or 'tome'}{reduction.r}")
@pytest.mark.parametrize("name", ["avg", "cls", "distilled", "registers", "eva-rope-mixed", "beit", "cait", "pe"])
def test_groups_say_what_became_of_every_patch(name: str, reduction: Reduction) -> None:
    model, spec, x = reduced(name, reduction), spec_of(name), images(3)
    recorder = Recorder()
    with torch.no_grad(), observe(recorder):
        tokens, token_map, groups = outputs_of(model, TOKENS, x, token_map=True)
    joined = int(name in CLASS_TOKEN_LATER)
    methods = [layer.method.word for layer in make_plan(spec, reduction).layers if layer.removed]
    assert (groups.shape, groups.dtype) == ((3, spec.tokens - spec.prefix_tokens), torch.int64)
    for image in range(3):
        rows = reference.groups(oracle_matchings(recorder, spec, image), methods, spec.prefix_tokens, spec.tokens)
        expected = [row if row == -1 else joined + row for row in rows[spec.prefix_tokens :]]
        assert groups[image].tolist() == expected
        assert -1 in expected or "prune" not in methods
        alive = groups[image] >= 0  # what is not pruned stands where its stand-in stands
        assert torch.equal(groups[image][alive], token_map[image, joined + spec.prefix_tokens :][alive])
        assert set(groups[image].tolist()) - {-1} == set(range(joined + spec.prefix_tokens, tokens.shape[1]))


@pytest.mark.parametrize("name", ["registers", "cait"])
def test_groups_are_the_same_whatever_else_is_asked_for(name: str) -> None:
    """A restored grid keeps those of the rows before it was restored."""
    model, x = reduced(name, SOME), images()
    restored = reduced(name, Reduction(r=SOME.r, pattern=SOME.pattern, restore_grid=True))
    with torch.no_grad():
        *_, expected = outputs_of(model, TOKENS, x, token_map=True)
        for of, kind in ((model, LOGITS), (model, FEATURES), (restored, LOGITS), (restored, TOKENS), (restored, GRID)):
            *plain, groups = outputs_of(of, kind, x, token_map=True)
            assert torch.equal(groups, expected)
            assert all(torch.equal(one, two) for one, two in zip(plain, outputs_of(of, kind, x), strict=True))


@pytest.mark.parametrize("name", ["cls", "distilled", "cait"])
def test_where_nothing_is_removed_each_patch_is_its_own_group(name: str) -> None:
    model, x = reduced(name, Reduction(r=0)), images()
    for kind in (LOGITS, TOKENS, GRID):
        with torch.no_grad():
            *plain, groups = outputs_of(model, kind, x, token_map=True)
        assert groups.dtype == torch.int64
        first = {"cls": 1, "distilled": 2, "cait": 1}[name]
        assert torch.equal(groups, torch.arange(first, first + 16).expand(2, -1))
        assert len(plain) == len(kind.names)


def test_a_model_without_a_plan_has_no_groups() -> None:
    with pytest.raises(OptionError, match=r"a token map follows a plan"):
        outputs_of(build("cls"), LOGITS, images(), token_map=True)


def test_tokens_are_those_of_the_model_without_a_map() -> None:
    model, x = reduced("registers", TOME), images()
    with torch.no_grad():
        expected = model.forward_features(x)
    assert torch.equal(run(model, TOKENS, x)[0], expected)


def test_nothing_is_tracked_unless_asked() -> None:
    model, x = reduced("cls", SOME), images()
    noted: list[Any] = []
    handle = model.blocks[1].register_forward_pre_hook(lambda _module, args: noted.append(args[0]))
    run(model, LOGITS, x)
    run(model, TOKENS, x)
    outputs_of(model, LOGITS, x, token_map=True)
    handle.remove()
    assert (noted[0].rows, noted[0].groups) == (None, None)
    assert (noted[1].rows.shape, noted[1].groups) == ((2, 17, 1), None)
    assert (noted[2].rows, noted[2].groups.shape) == (None, (2, 16, 1))


# --- Restoring ---------------------------------------------------------------------------------------------------


def finished(name: str, sequence: Tensor, *, tokens_only: bool) -> Tensor:
    """What timm itself makes of the sequence after the blocks: normalised tokens, or logits."""
    model = build(name)
    with torch.no_grad():
        if name in CLASS_TOKEN_LATER:
            class_token = model.cls_token.expand(len(sequence), -1, -1)
            for block in model.blocks_token_only:
                class_token = block(sequence, class_token)
            sequence = torch.cat((class_token, sequence), dim=1)
        tokens = model.norm(sequence)
        return tokens if tokens_only else model.forward_head(tokens)


def after_the_blocks(model: nn.Module, x: Tensor) -> tuple[Tensor, Recorder]:
    seen: list[Tensor] = []
    handle = model.blocks[-1].register_forward_hook(lambda _module, _args, output: seen.append(output))
    _, recorder = record(model, x)
    handle.remove()
    return seen[0], recorder


@pytest.mark.parametrize("reduction", [SOME, TOME, ALL_SOURCES], ids=["hybrid", "tome", "all-sources"])
@pytest.mark.parametrize("name", NAMES)
def test_restoring_puts_every_stand_in_in_its_place(name: str, reduction: Reduction) -> None:
    """Against timm's own norm and head on a sequence that python loops put together."""
    spec, x = spec_of(name), images()
    sequence, recorder = after_the_blocks(reduced(name, reduction), x)
    whole = torch.stack(
        [torch.stack([sequence[image, row] for row in oracle_map(recorder, spec, image)]) for image in range(2)]
    )
    model = reduced(name, Reduction(r=reduction.r, pattern=reduction.pattern, mode=reduction.mode, restore_grid=True))
    expected = finished(name, whole, tokens_only=True)
    tokens, token_map = run(model, TOKENS, x)
    assert torch.equal(tokens, expected)
    assert torch.equal(token_map, torch.arange(tokens.shape[1]).expand(2, -1))
    assert torch.equal(run(model, LOGITS, x)[0], finished(name, whole, tokens_only=False))
    (grid,) = run(model, GRID, x)
    assert grid.shape == (2, spec.embed_dim, 4, 4)
    for row in range(4):
        for column in range(4):
            assert torch.equal(grid[:, :, row, column], expected[:, expected.shape[1] - 16 + 4 * row + column])


@pytest.mark.parametrize("method", reference.METHODS)
@pytest.mark.parametrize("name", ["cls", "avg", "map", "registers", "distilled", "cls-avg"])
def test_restored_logits_are_those_of_the_float64_oracle(name: str, method: str) -> None:
    facts = tiny.MODELS[name]
    layers = [(method, 4), ("prune", 3), (method, 2)]
    letters = {"prune": "P", "average": "A", "mlerp": "M", "weighted-mlerp": "W", "tome": "T"}
    pattern = "".join(letters[kind] for kind, _ in layers)
    model = tiny.reduced(name, Reduction(r=(4, 3, 2), pattern=pattern, restore_grid=True))
    trace: list[list[reference.Matching]] = []
    expected = reference.vit_forward(
        tiny.weights(tiny.build(name)), tiny.pixels(2), patch=tiny.PATCH, heads=tiny.HEADS, layers=layers,
        prefix=facts.prefix, prop_attn=True, restore=True, trace=trace, **facts.oracle,
    )  # fmt: skip
    assert min(reference.margin(one) for block in trace for one in block) > 1e-6
    assert_allclose(run(model, LOGITS, images())[0].numpy(), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_a_restored_plan_counts_the_tail_for_all_tokens() -> None:
    spec = tiny.spec("map")
    plan, restored = (make_plan(spec, Reduction(r=4, pattern="PAM", restore_grid=restore)) for restore in (False, True))
    assert spec.tail_token > 0
    assert restored.macs_full == plan.macs_full
    left = restored.layers[-1].tokens_out
    assert restored.macs_reduced - plan.macs_reduced == spec.tail_token * (spec.tokens - left)
    assert (plan.to_dict()["restore_grid"], restored.to_dict()["restore_grid"]) == (False, True)
    assert not make_plan(spec, Reduction(r=0, restore_grid=True)).restores_grid


# --- Which output ------------------------------------------------------------------------------------------------


def test_logits_where_there_is_a_classifier_else_features() -> None:
    assert choose_output(tiny.build("cls"), None) is LOGITS
    headless = tiny.build("cls", num_classes=0)
    assert choose_output(headless, None) is FEATURES
    with pytest.raises(OptionError, match=r"no classifier.*features"):
        choose_output(headless, LOGITS)
    for kind in (FEATURES, TOKENS, GRID):
        assert choose_output(headless, kind) is kind


def test_a_model_without_pooling_gives_tokens_or_the_grid() -> None:
    model = tiny.build("cls", global_pool="", num_classes=0)
    for kind in (None, FEATURES):
        with pytest.raises(UnsupportedModelError, match=r"no pooling.*tokens or grid"):
            choose_output(model, kind)
    with pytest.raises(UnsupportedModelError, match="no pooling"):
        choose_output(tiny.build("cls", global_pool=""), LOGITS)
    with torch.device("meta"):
        meta = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, mlp_ratio=2,
                                 num_classes=0, global_pool="").eval()  # fmt: skip
    plan = make_plan(describe(meta, "it"), Reduction(r=3, restore_grid=True))
    with torch.no_grad():
        (expected,) = model.forward_intermediates(images(), indices=1, norm=True, intermediates_only=True)
    grid = run(patch.apply(model, plan), choose_output(model, GRID), images())[0]
    assert grid.shape == expected.shape
    assert not torch.equal(grid, expected)


def test_a_grid_needs_a_plan_that_restores_it() -> None:
    with pytest.raises(OptionError, match=r"restore_grid=True"):
        run(reduced("cls", SOME), GRID, images())


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [
        ("test_vit", (160, 96), (10, 6)),
        ("vit_small_r26_s32_224", (224, 160), (7, 5)),
        ("vitamin_small_224", None, (14, 14)),
        ("naflexvit_base_patch16_gap", (64, 128), (4, 8)),
        ("cait_xxs24_224", None, (14, 14)),
    ],
)
def test_the_grid_is_that_of_the_patch_embedding(
    name: str, size: tuple[int, int] | None, shape: tuple[int, int]
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, **({} if size is None else {"img_size": size})).eval()
    spec = describe(model, name, size)
    assert grid_shape(model, spec.image_size) == shape
    patch.apply(model, make_plan(spec, Reduction(r=2, restore_grid=True)))
    (grid,) = run(model, GRID, torch.empty(2, 3, *spec.image_size, device="meta"))
    assert grid.shape == (2, spec.embed_dim, *shape)


def test_a_sequence_that_is_no_grid_is_refused() -> None:
    model = tiny.build("cls")
    model.patch_embed.dynamic_feat_size = lambda _size: (3, 5)
    with pytest.raises(UnsupportedModelError, match=r"17 tokens.*3x5.*tokens"):
        run(model, GRID, images())
    model.patch_embed = nn.Identity()
    with pytest.raises(UnsupportedModelError, match="how its patches lie"):
        choose_output(model, GRID)


def spoil_patches(prefix: int) -> Any:
    """A forward hook that turns the patch tokens of a block's output into NaN."""

    def hook(_module: nn.Module, _given: Any, tokens: Tensor) -> Tensor:
        return torch.cat([tokens[:, :prefix], torch.full_like(tokens[:, prefix:], torch.nan)], dim=1)

    return hook


@pytest.mark.parametrize("kind", [LOGITS, FEATURES, TOKENS])
@pytest.mark.parametrize("name", NAMES)
def test_whether_patches_are_read_after_the_last_block(name: str, kind: OutputKind) -> None:
    """Where they are not, even NaN in them leaves every output as it is."""
    model: Any = build(name)
    model.blocks[-1].register_forward_hook(spoil_patches(spec_of(name).prefix_tokens))
    (output, *_) = run(model, kind, images())
    assert reads_patches(model, kind) is bool(torch.isnan(output).any())
    assert reads_patches(model, kind, token_map=True)
