"""Options of a UNet export, as frozen values that are validated on construction. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from tofu_export.errors import OptionError
from tofu_export.options import Method
from tofu_export.options.declaration import Section, opt

__all__ = ["LatentSize", "UnetMode", "UnetReduction"]

_DOWNSAMPLES = (1, 2, 4, 8)


class UnetMode(str, Enum):
    """What the reduced blocks do.

    `HYBRID` prunes in the down blocks and merges by MLERP in the later ones. `TOME` is tomesd's plain mean in every
    block, the baseline.
    """

    HYBRID = "hybrid"
    MLERP = "mlerp"
    AVERAGE = "average"
    PRUNE = "prune"
    TOME = "tome"

    @property
    def method(self) -> Method:
        """Method of the merging blocks."""
        return Method.MLERP if self is UnetMode.HYBRID else Method[self.name]


@dataclass(frozen=True)
class LatentSize:
    """Height and width of the latent image that a file is made for."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise OptionError(f"latent size {self} is not positive: expected for example 64 or 64x96")

    @classmethod
    def parse(cls, text: str) -> LatentSize:
        """Read `64` or `HEIGHTxWIDTH`.

        Raises:
            OptionError: the text has another form.
        """
        parts = text.lower().split("x")
        if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise OptionError(
                f"latent size is {text!r}, expected one number or HEIGHTxWIDTH, an eighth of the image's pixels: "
                "--latent-size 64 for 512 pixels"
            )
        return cls(int(parts[0]), int(parts[-1]))

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True)
class UnetReduction:
    """Which tokens leave before the self-attention, and in which blocks.

    Attributes:
        ratio: share of a block's tokens that leave, at most 1 - 1 / (sx * sy); 0 leaves the UNet as it is.
        mode: what the reduced blocks do.
        boundary: transformer blocks before this one, counted from 0 in the order in which they run, prune. None: the
            down blocks for `hybrid`, and no block otherwise.
        sx: width of a cell of the grid. Each whole cell has one destination.
        sy: height of a cell.
        max_downsample: blocks at most this much smaller than the latent are reduced: 1, 2, 4 or 8.
        merge_crossattn: reduce the tokens that query the text as well.
        merge_mlp: reduce the tokens that the MLP sees as well.
        cell_seed: None: the destination of a cell is its first token. A number: it is drawn with this seed, once, when
            the file is made.

    Raises:
        OptionError: a value is out of range or two of them contradict each other.

    Source: the names are those of tomesd; arXiv 2312.01026, section 4.3.
    """

    ratio: float = opt(
        0.5, "Share of its tokens that a reduced block does without; 0 exports the full UNet.", Section.REDUCTION,
        metavar="SHARE", everyday=True,
    )  # fmt: skip
    mode: UnetMode = opt(
        UnetMode.HYBRID, "hybrid: down blocks prune, later ones merge by mlerp. tome: tomesd's mean.",
        Section.REDUCTION, everyday=True,
    )  # fmt: skip
    boundary: int | None = opt(
        None, "The first D transformer blocks, in the order in which they run, prune; the others merge.",
        Section.REDUCTION, metavar="D", minimum=0, unless="for hybrid the down blocks, else 0",
    )  # fmt: skip
    sx: int = opt(2, "Width of a cell in tokens.", Section.REDUCTION, metavar="N", minimum=1)
    sy: int = opt(
        2, "Height of a cell: each whole cell has one destination.", Section.REDUCTION, metavar="N", minimum=1
    )
    max_downsample: int = opt(
        1, "Reduce blocks at most this much smaller than the latent.", Section.REDUCTION,
        choices={str(factor): factor for factor in _DOWNSAMPLES},
    )  # fmt: skip
    merge_crossattn: bool = opt(False, "Reduce the tokens that query the text as well.", Section.REDUCTION)
    merge_mlp: bool = opt(False, "Reduce the tokens that the MLP sees as well.", Section.REDUCTION)
    cell_seed: int | None = opt(
        None, "Draw each cell's destination with this seed.", Section.REDUCTION, metavar="N", minimum=0,
        unless="its first token",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, value in (("sx", self.sx), ("sy", self.sy)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(f"{name} is {value!r}, expected a whole number of tokens >= 1, such as --{name} 2")
        if self.sx * self.sy < 2:
            raise OptionError("cells of 1x1 tokens leave no source that could merge: give --sx or --sy over 1")
        most = 1 - 1 / (self.sx * self.sy)
        number = isinstance(self.ratio, (int, float)) and not isinstance(self.ratio, bool)
        if not number or not math.isfinite(self.ratio) or not 0 <= self.ratio <= most:
            raise OptionError(
                f"ratio is {self.ratio!r}, expected a number from 0, for the full UNet, to {most:g}: "
                f"each {self.sy}x{self.sx} cell keeps its destination"
            )
        if not isinstance(self.mode, UnetMode):
            raise OptionError(f"mode is {self.mode!r}, expected a UnetMode")
        if self.max_downsample not in _DOWNSAMPLES:
            raise OptionError(f"max_downsample is {self.max_downsample!r}, expected 1, 2, 4 or 8")
        if self.boundary is not None:
            if isinstance(self.boundary, bool) or not isinstance(self.boundary, int) or self.boundary < 0:
                raise OptionError(f"boundary is {self.boundary!r}, expected a number of blocks >= 0")
            if self.mode in (UnetMode.PRUNE, UnetMode.TOME):
                raise OptionError(
                    f"boundary says which blocks prune before the others merge, but mode {self.mode.value} does the "
                    "same in all of them: leave out --boundary, or give --mode hybrid or average"
                )
        if self.cell_seed is not None and (isinstance(self.cell_seed, bool) or self.cell_seed < 0):
            raise OptionError(f"cell_seed is {self.cell_seed!r}, expected a whole number >= 0, or none")

    def method(self, block: int, down_blocks: int) -> Method:
        """Return the method of a transformer block, in a UNet whose first `down_blocks` blocks are down blocks."""
        boundary = self.boundary
        if boundary is None:
            boundary = down_blocks if self.mode is UnetMode.HYBRID else 0
        return Method.PRUNE if block < boundary else self.mode.method
