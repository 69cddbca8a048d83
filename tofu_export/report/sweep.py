"""The document of `tofu-export sweep`: a row for each file and batch size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from tofu_export.errors import TofuError
from tofu_export.options import Selection
from tofu_export.report.document import FULL
from tofu_export.system.environment import Environment

__all__ = ["PATTERN", "SweepDocument", "SweepFailure", "SweepImages", "SweepRow", "compact", "label_of"]

PATTERN = "pattern"
"""What the `mode` of a row says whose pattern was given letter by letter."""


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One file at one batch size; None is what was not measured.

    Attributes:
        model: name of the model, as it was asked for.
        r: tokens asked to be removed per layer.
        mode: the mode asked for, `pattern`, or `full`.
        pattern: one letter per layer.
        prop_attn: token sizes enter the attention.
        precision: type of the file.
        batch: images per query.
        gmacs: multiply-accumulates for one image, in 10^9, as the paper counts them.
        gmacs_full: the same of the full model.
        images_per_sec: throughput.
        images_per_sec_full: the full model's in the same run, which tells how fast the machine was just then.
        latency_ms: `median` and `p95`.
        speedup_vs_full: time of the full model in FP32 divided by this one's, both interleaved.
        speedup_iqr: first and third quartile of that ratio over the rounds.
        agreement: share of the images that get the class that the full model in FP32 gives them; without a classifier
            the mean cosine of their features.
        top1: share of the images whose class is right; None without labels.
        images: how many.
        verified: the file was compared with the eager model and computes the same; where it computes something else
            there is no row.
        comparable_images_per_sec: `speedup_vs_full` times the median of the full model's throughput over all runs: a
            machine that got slower in between does not count against those that came later.
        pareto: no other row is at least as good and as cheap, and better in one of the two.
        notes: what a reader of the numbers must know.
        select: how the tokens that leave were chosen.
    """

    model: str
    r: int
    mode: str
    pattern: str
    prop_attn: bool = True
    precision: str = "fp32"
    batch: int | None = None
    gmacs: float
    gmacs_full: float
    images_per_sec: float | None = None
    images_per_sec_full: float | None = None
    latency_ms: Mapping[str, float] | None = None
    speedup_vs_full: float | None = None
    speedup_iqr: tuple[float, float] | None = None
    agreement: float | None = None
    top1: float | None = None
    images: int
    verified: bool | None = None
    comparable_images_per_sec: float | None = None
    pareto: bool = False
    notes: tuple[str, ...] = ()
    select: Selection = Selection.BIPARTITE

    @property
    def quality(self) -> float | None:
        """Accuracy where there are labels, agreement elsewhere."""
        return self.agreement if self.top1 is None else self.top1

    @property
    def label(self) -> str:
        """What tables and charts call it."""
        return FULL if self.mode == FULL else label_of(self.pattern, self.prop_attn, self.select)


@dataclass(frozen=True)
class SweepFailure:
    """A cell, or all cells of a model, that could not be measured.

    Attributes:
        model: name of the model.
        what: what was tried: the cell in words, or `all`.
        kind: class of the error.
        reason: its message.
        exit_code: what the command line ends with for it.
    """

    model: str
    what: str = "all"
    kind: str = ""
    reason: str = "failed"
    exit_code: int = 1

    @classmethod
    def of(cls, model: str, what: str, error: BaseException) -> SweepFailure:
        """The failure that an error makes."""
        code = int(error.exit_code) if isinstance(error, TofuError) else 1
        lines = str(error).strip().splitlines()
        return cls(model, what, type(error).__name__, lines[0] if lines else "no message", code)


@dataclass(frozen=True)
class SweepImages:
    """What a model was measured on, and whether these images were generated."""

    model: str
    source: str
    generated: bool = False


@dataclass(frozen=True, kw_only=True)
class SweepDocument:
    """Everything a sweep found.

    Attributes:
        kind: what this is.
        schema_version: of the document.
        rows: finished cells, in the order of the grid.
        failures: the others.
        grid: what was asked for.
        images: where the images of each model come from.
        loaded: what was loaded of each model, in one line.
        environment: versions and hardware.
        command: how the user asked for it.
    """

    kind: Literal["sweep"] = "sweep"
    schema_version: int = 1
    rows: tuple[SweepRow, ...]
    failures: tuple[SweepFailure, ...] = ()
    grid: Mapping[str, object] = field(default_factory=dict)
    images: tuple[SweepImages, ...] = ()
    loaded: Mapping[str, str] = field(default_factory=dict)
    environment: Environment
    command: str = ""

    @property
    def timed(self) -> bool:
        """True if any row was timed."""
        return any(row.images_per_sec is not None for row in self.rows)

    def images_of(self, model: str) -> SweepImages:
        """What a model was measured on."""
        return next(images for images in self.images if images.model == model)


def label_of(pattern: str, prop_attn: bool, select: Selection) -> str:
    """What tables and charts call a reduction: its pattern, and where it is not the usual one how it selects.

    It also says where token sizes stay out of the attention.
    """
    chosen = compact(pattern) if select is Selection.BIPARTITE else f"{compact(pattern)} {select.value}"
    return chosen if prop_attn else f"{chosen} without sizes"


def compact(pattern: str | Iterable[str]) -> str:
    """A pattern with runs counted: `PPPPPPMMMMMM` becomes `P6M6`."""
    return "".join(f"{letter}{len(list(run))}" for letter, run in groupby(pattern))
