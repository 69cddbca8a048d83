"""Options of halting: when a token has done its part."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace

from tofu_export.errors import OptionError
from tofu_export.options.declaration import Section, opt

__all__ = ["Halting", "HaltingOptions"]

_SAID = "what the weights say, or"


@dataclass(frozen=True)
class Halting:
    """Gate of A-ViT: after each block a token scores sigmoid(scale * x - center), x being its first channel.

    A token halts once less than `least` of its budget of 1 is left. The weights were trained with one gate and need
    it: the published ones have scale 10 and center 30 (A-ViT-T) or 75 (A-ViT-S).

    Attributes:
        scale: factor of the first channel, over 0.
        center: subtracted from the product.
        least: rest of the budget at which a token halts, from 0 to below 1; epsilon in the paper.

    Raises:
        OptionError: a value is out of range.

    Source: arXiv 2112.07658, equations 4 and 5.
    """

    scale: float = 10.0
    center: float = 30.0
    least: float = 0.01

    def __post_init__(self) -> None:
        for name in ("scale", "center", "least"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number:
                raise OptionError(f"halting {name} is {value!r}, expected a finite number")
            object.__setattr__(self, name, float(value))
        if self.scale <= 0:
            raise OptionError(f"halting scale is {self.scale:g}, expected a number over 0")
        if not 0 <= self.least < 1:
            raise OptionError(f"halting least is {self.least:g}, expected a share of the budget from 0 to below 1")


@dataclass(frozen=True)
class HaltingOptions:
    """What is asked of the gate of tokens that halt; None leaves an entry to the weights, which were trained with one.

    Attributes:
        scale: as in `Halting`.
        center: as in `Halting`.
        least: as in `Halting`.

    Raises:
        OptionError: a value is out of range.
    """

    scale: float | None = opt(
        None, "Factor of the first channel in the gate of --select halting.", Section.REDUCTION,
        flags=("--halting-scale",), metavar="X", unless=f"{_SAID} 10",
    )  # fmt: skip
    center: float | None = opt(
        None, "What that gate subtracts: 30 for the published A-ViT-T, 75 for A-ViT-S.", Section.REDUCTION,
        flags=("--halting-center",), metavar="X", unless=f"{_SAID} 30",
    )  # fmt: skip
    least: float | None = opt(
        None, "Rest of its budget at which a token halts.", Section.REDUCTION, flags=("--halting-least",), metavar="X",
        unless="0.01",
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.onto(Halting())

    @classmethod
    def of(cls, gate: Halting) -> HaltingOptions:
        """Return options that ask for exactly this gate."""
        return cls(**asdict(gate))

    def onto(self, gate: Halting) -> Halting:
        """Return a gate with the entries that are asked for in place of its own."""
        asked = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(gate, **{name: value for name, value in asked.items() if value is not None})
