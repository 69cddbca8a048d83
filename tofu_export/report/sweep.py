"""Document of `tofu-export sweep`: a row for each file and batch size."""

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
"""Value of `mode` in a row whose pattern was given letter by letter."""


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One file at one batch size; None for what was not measured.

    Attributes:
        model: name of the model, as given by the user.
        r: tokens asked to be removed per layer.
        mode: the mode asked for, `pattern`, or `full`.
        pattern: one letter per layer.
        prop_attn: token sizes enter the attention.
        precision: type of the file.
        batch: images per query.
        gmacs: multiply-accumulates for one image, in 10^9, as the paper counts them.
        gmacs_full: multiply-accumulates of the full model.
        images_per_sec: throughput.
        images_per_sec_full: throughput of the full model in the same run, which shows how fast the machine was then.
        latency_ms: `median` and `p95`.
        speedup_vs_full: time of the full model in FP32 divided by this file's, both interleaved.
        speedup_iqr: first and third quartile of that ratio over the rounds.
        agreement: share of the images with the class of the full model in FP32; without a classifier the mean cosine of
            their features.
        top1: share of the images whose class is right; None without labels.
        images: number of images.
        verified: the file was compared with the eager model and computes the same; a file that computes something else
            has no row.
        comparable_images_per_sec: `speedup_vs_full` times the median of the full model's throughput over all runs: a
            machine that got slower meanwhile does not count against later rows.
        pareto: no other row is at least as good and as cheap, and better in one of the two.
        notes: notes for the reader of the numbers.
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
        """Accuracy if there are labels, else agreement."""
        return self.agreement if self.top1 is None else self.top1

    @property
    def label(self) -> str:
        """Label in tables and charts."""
        return FULL if self.mode == FULL else label_of(self.pattern, self.prop_attn, self.select)


@dataclass(frozen=True)
class SweepFailure:
    """A cell, or all cells of a model, that could not be measured.

    Attributes:
        model: name of the model.
        what: the cell in words, or `all`.
        kind: class of the error.
        reason: its message.
        exit_code: exit code of the command line for it.
    """

    model: str
    what: str = "all"
    kind: str = ""
    reason: str = "failed"
    exit_code: int = 1

    @classmethod
    def of(cls, model: str, what: str, error: BaseException) -> SweepFailure:
        """Return the failure for an error."""
        code = int(error.exit_code) if isinstance(error, TofuError) else 1
        lines = str(error).strip().splitlines()
        return cls(model, what, type(error).__name__, lines[0] if lines else "no message", code)


@dataclass(frozen=True)
class SweepImages:
    """Source of the images that a model was measured on, and whether they were generated."""

    model: str
    source: str
    generated: bool = False


@dataclass(frozen=True, kw_only=True)
class SweepDocument:
    """Result of a sweep.

    Attributes:
        kind: kind of document.
        schema_version: version of the document.
        rows: finished cells, in the order of the grid.
        failures: cells that could not be measured.
        grid: grid that was asked for.
        images: where the images of each model come from.
        loaded: description of the loaded weights of each model, in one line.
        environment: versions and hardware.
        command: the user's command line.
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
        """Return the images that a model was measured on."""
        return next(images for images in self.images if images.model == model)


def label_of(pattern: str, prop_attn: bool, select: Selection) -> str:
    """Return the label of a reduction in tables and charts: its pattern, and its selection unless bipartite.

    The label also says if token sizes stay out of the attention.
    """
    chosen = compact(pattern) if select is Selection.BIPARTITE else f"{compact(pattern)} {select.value}"
    return chosen if prop_attn else f"{chosen} without sizes"


def compact(pattern: str | Iterable[str]) -> str:
    """Return a pattern with runs counted: `PPPPPPMMMMMM` becomes `P6M6`."""
    return "".join(f"{letter}{len(list(run))}" for letter, run in groupby(pattern))
