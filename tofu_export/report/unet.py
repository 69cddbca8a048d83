"""Records in report.json of a UNet: the model, and the reduction of its transformer blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tofu_export.options import Method
from tofu_export.system.typed_json import optional

__all__ = ["BlockEntry", "UnetGmacs", "UnetModelEntry", "UnetPlanEntry", "UnetWeights"]


@dataclass(frozen=True)
class UnetWeights:
    """Weights of a UNet: `random`, or the name and hash of a file, and of its shards."""

    kind: str
    file: str | None = optional()
    sha256: str | None = optional()
    shards: Mapping[str, str] | None = optional()


@dataclass(frozen=True)
class UnetModelEntry:
    """UNet of a report: name as given and as resolved, parameters, sizes of latent and text, number of blocks."""

    name: str
    resolved: str
    weights: UnetWeights
    params: int
    latent: tuple[int, int]
    text_tokens: int
    text_channels: int
    transformer_blocks: int


@dataclass(frozen=True)
class BlockEntry:
    """One transformer block: module, grid, method, tokens that enter, that leave, and that its attention sees."""

    block: int
    path: str
    grid: tuple[int, int]
    method: str
    tokens: int
    removed: int
    attended: int

    @property
    def prunes(self) -> bool:
        """True if the tokens that leave are discarded, not merged."""
        return self.method == Method.PRUNE.word


@dataclass(frozen=True)
class UnetGmacs:
    """Multiply-accumulates for one image in 10^9: of the full UNet, saved, added by matching and merging, reduced."""

    full: float
    saved: float
    added: float
    reduced: float

    @property
    def ratio(self) -> float:
        """How many times fewer multiply-accumulates the reduced UNet needs."""
        return self.full / self.reduced


@dataclass(frozen=True, kw_only=True)
class UnetPlanEntry:
    """Reduction of a UNet: its options (`UnetReduction`), and the resulting blocks and cost."""

    ratio: float
    mode: str
    boundary: int | None = None
    sx: int
    sy: int
    max_downsample: int
    merge_crossattn: bool
    merge_mlp: bool
    cell_seed: int | None = None
    latent: tuple[int, int]
    pattern: str
    blocks: tuple[BlockEntry, ...]
    gmacs: UnetGmacs

    @property
    def reduced(self) -> tuple[BlockEntry, ...]:
        """Blocks that remove tokens."""
        return tuple(block for block in self.blocks if block.removed)
