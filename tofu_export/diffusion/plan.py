"""The reduction plan of a UNet at one latent size: blocks, token counts, and savings. Pure Python, no torch.

Axes: N tokens of a block (h times w, row by row), S sources, T destinations, R removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

import numpy as np

from tofu_export.diffusion.options import LatentSize, UnetReduction
from tofu_export.errors import OptionError
from tofu_export.options import Method
from tofu_export.report.unet import BlockEntry, UnetGmacs, UnetPlanEntry
from tofu_export.system.typed_json import JsonObject, to_object

__all__ = ["BlockPlan", "BlockSpec", "UnetPlan", "UnetSpec", "destinations_of", "make_unet_plan", "unet_plan_table"]


@dataclass(frozen=True)
class BlockSpec:
    """Transformer block of a UNet at one latent size. Costs are multiply-accumulates for one image.

    Attributes:
        path: name of the module in the UNet.
        down: the block is in a down block.
        height: rows of its token grid.
        width: columns.
        channels: channels of a token.
        self_token: cost of the self-attention per token: its projections.
        self_pair: cost of the self-attention per pair of tokens: its two products.
        cross_token: cost of the attention to the text per token, products included.
        feed_token: cost of the MLP per token.
    """

    path: str
    down: bool
    height: int
    width: int
    channels: int
    self_token: int
    self_pair: int
    cross_token: int
    feed_token: int

    @property
    def tokens(self) -> int:
        """Number of tokens, N."""
        return self.height * self.width


@dataclass(frozen=True)
class UnetSpec:
    """What a plan needs to know about a UNet at one latent size.

    Attributes:
        name: name given by the user.
        latent: the latent size.
        in_channels: channels of the latent image.
        out_channels: channels of its prediction.
        text_channels: channels of a text token.
        text_tokens: text tokens.
        params: number of parameters.
        macs: multiply-accumulates of convolutions and products for one image.
        blocks: its transformer blocks in the order in which they run.
    """

    name: str
    latent: LatentSize
    in_channels: int
    out_channels: int
    text_channels: int
    text_tokens: int
    params: int
    macs: int
    blocks: tuple[BlockSpec, ...]

    @property
    def down_blocks(self) -> int:
        """Number of leading transformer blocks that lie in down blocks."""
        return sum(block.down for block in self.blocks)

    def downsample(self, block: BlockSpec) -> int:
        """Return how much smaller than the latent a block's grid is: 1, 2, 4 ... (an odd size rounds up)."""
        factor = max(-(-self.latent.height // block.height), -(-self.latent.width // block.width))
        return 1 << (factor - 1).bit_length()


@dataclass(frozen=True)
class BlockPlan:
    """Plan of one transformer block.

    Attributes:
        block: its index in the order of execution.
        path: name of the module in the UNet.
        height: rows of its token grid.
        width: columns.
        downsample: how much smaller than the latent the grid is.
        method: what happens to the sources that leave; NONE for an unreduced block.
        removed: tokens that leave before the attention.
        destinations: positions of the destinations, ascending; empty if nothing leaves.
    """

    block: int
    path: str
    height: int
    width: int
    downsample: int
    method: Method
    removed: int
    destinations: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens that enter the block, N."""
        return self.height * self.width

    @property
    def sources(self) -> int:
        """Tokens that could leave, S."""
        return self.tokens - len(self.destinations)

    @property
    def kept(self) -> int:
        """Sources that stay, S - R."""
        return self.sources - self.removed


@dataclass(frozen=True)
class UnetPlan:
    """Reduction of one UNet at one latent size.

    Attributes:
        reduction: the options that the plan was made from.
        latent: the latent size.
        blocks: one entry per transformer block, in the order in which they run.
        macs_full: multiply-accumulates of the unreduced UNet for one image.
        macs_saved: multiply-accumulates saved in attention and other reduced parts.
        macs_added: multiply-accumulates of matching and merging, by matrix products.
    """

    reduction: UnetReduction
    latent: LatentSize
    blocks: tuple[BlockPlan, ...]
    macs_full: int
    macs_saved: int
    macs_added: int

    @property
    def reduced(self) -> tuple[BlockPlan, ...]:
        """Blocks that remove tokens."""
        return tuple(block for block in self.blocks if block.removed)

    @property
    def macs_reduced(self) -> int:
        """Multiply-accumulates of the reduced UNet for one image."""
        return self.macs_full - self.macs_saved + self.macs_added

    @property
    def pattern(self) -> str:
        """One letter per transformer block, `-` if none leaves, for example PP-----------MMM."""
        return "".join(block.method.value for block in self.blocks)

    def entry(self) -> UnetPlanEntry:
        """Return the plan as in report.json and in files; destinations follow from the options."""
        return UnetPlanEntry(
            **(asdict(self.reduction) | {"mode": self.reduction.mode.value}),
            latent=(self.latent.height, self.latent.width),
            pattern=self.pattern,
            blocks=tuple(
                BlockEntry(
                    block=block.block, path=block.path, grid=(block.height, block.width),
                    method=block.method.word, tokens=block.tokens, removed=block.removed,
                    attended=block.tokens - block.removed,
                )
                for block in self.blocks
            ),
            gmacs=UnetGmacs(
                full=round(self.macs_full / 1e9, 4),
                saved=round(self.macs_saved / 1e9, 4),
                added=round(self.macs_added / 1e9, 4),
                reduced=round(self.macs_reduced / 1e9, 4),
            ),
        )  # fmt: skip

    def to_dict(self) -> JsonObject:
        """Return the plan as JSON values."""
        return to_object(self.entry())


def destinations_of(height: int, width: int, reduction: UnetReduction) -> tuple[int, ...]:
    """Return the positions of the destinations in a grid, ascending: one in each whole cell, as in tomesd.

    Tokens beyond the last whole cell are sources.
    """
    rows, columns = height // reduction.sy, width // reduction.sx
    if reduction.cell_seed is None:
        places = np.zeros((rows, columns), dtype=np.int64)
    else:
        random = np.random.default_rng((reduction.cell_seed, height, width))
        places = random.integers(reduction.sy * reduction.sx, size=(rows, columns))
    y = np.arange(rows)[:, None] * reduction.sy + places // reduction.sx
    x = np.arange(columns)[None] * reduction.sx + places % reduction.sx
    return tuple(sorted((y * width + x).ravel().tolist()))


def make_unet_plan(spec: UnetSpec, reduction: UnetReduction) -> UnetPlan:
    """Plan a reduction of a UNet.

    Raises:
        OptionError: no block would be reduced by a ratio over 0, or the boundary lies beyond the last block.
    """
    if reduction.boundary is not None and reduction.boundary > len(spec.blocks):
        raise OptionError(
            f"boundary is {reduction.boundary}, but {spec.name} has only {len(spec.blocks)} transformer blocks"
        )
    blocks = tuple(_plan_block(spec, index, reduction) for index in range(len(spec.blocks)))
    if reduction.ratio and not any(block.removed for block in blocks):
        raise OptionError(_nothing_reduced(spec, reduction))
    pairs = [(of, plan) for of, plan in zip(spec.blocks, blocks, strict=True) if plan.removed]
    return UnetPlan(
        reduction,
        spec.latent,
        blocks,
        spec.macs,
        macs_saved=sum(_saved(of, plan.removed, reduction) for of, plan in pairs),
        macs_added=sum(_added(of, plan, reduction) for of, plan in pairs),
    )


def _plan_block(spec: UnetSpec, index: int, reduction: UnetReduction) -> BlockPlan:
    block = spec.blocks[index]
    downsample = spec.downsample(block)
    destinations: tuple[int, ...] = ()
    removed = 0
    if downsample <= reduction.max_downsample:
        destinations = destinations_of(block.height, block.width, reduction)
        asked = int(Fraction(str(reduction.ratio)) * block.tokens)
        removed = min(asked, block.tokens - len(destinations)) if destinations else 0
    method = reduction.method(index, spec.down_blocks) if removed else Method.NONE
    return BlockPlan(
        index, block.path, block.height, block.width, downsample, method, removed, destinations if removed else ()
    )


def _nothing_reduced(spec: UnetSpec, reduction: UnetReduction) -> str:
    if not spec.blocks:
        return f"{spec.name} has no transformer blocks, so there is nothing to reduce"
    nearest = min(spec.downsample(block) for block in spec.blocks)
    if nearest > reduction.max_downsample:
        return (
            f"no block would be reduced: the transformer blocks of {spec.name} lie at {nearest} times less than the "
            f"latent's resolution and beyond, and max_downsample is {reduction.max_downsample}. "
            f"Give --max-downsample {nearest}"
        )
    return (
        f"no block would be reduced: at latent size {spec.latent} and ratio {reduction.ratio:g} no token leaves a grid "
        f"with cells of {reduction.sy}x{reduction.sx}. Give a larger --latent-size or --ratio"
    )


def _saved(block: BlockSpec, removed: int, reduction: UnetReduction) -> int:
    rest = block.tokens - removed
    saved = block.self_token * removed + block.self_pair * (block.tokens**2 - rest**2)
    if reduction.merge_crossattn:
        saved += block.cross_token * removed
    if reduction.merge_mlp:
        saved += block.feed_token * removed
    return saved


def _added(block: BlockSpec, plan: BlockPlan, reduction: UnetReduction) -> int:
    """Return the cost of similarities of sources and destinations, and of one one-hot product per merge."""
    merges = (1 + reduction.merge_crossattn + reduction.merge_mlp) * plan.method.merges
    return block.channels * len(plan.destinations) * (plan.sources + merges * plan.tokens)


def unet_plan_table(spec: UnetSpec, plan: UnetPlan) -> str:
    """Return the plan as text for a terminal."""
    full, reduced = plan.macs_full / 1e9, plan.macs_reduced / 1e9
    lines = [
        f"{spec.name}  latent {spec.latent}  {spec.params / 1e6:.1f} M parameters  {len(plan.blocks)} transformer "
        f"blocks, {len(plan.reduced)} of them reduced  pattern {plan.pattern}",
        "",
        "block  grid       method   tokens  removed  attended  module",
        *(_row(block) for block in _shown(plan.blocks)),
        "",
        f"GMACs  {full:.2f} full, {plan.macs_saved / 1e9:.2f} saved, {plan.macs_added / 1e9:.2f} added by matching and "
        f"merging: {reduced:.2f}, {full / reduced:.2f}x fewer",
    ]
    return "\n".join(lines)


def _shown(blocks: Sequence[BlockPlan]) -> Sequence[BlockPlan]:
    """Return all blocks, or if there are many (SDXL) only those that are reduced."""
    return blocks if len(blocks) <= 24 else [block for block in blocks if block.removed]


def _row(block: BlockPlan) -> str:
    grid = f"{block.height}x{block.width}"
    return (
        f"{block.block:>5}  {grid:<9}  {block.method.word:<7} {block.tokens:>7} {block.removed:>8} "
        f"{block.tokens - block.removed:>9}  {block.path}"
    )
