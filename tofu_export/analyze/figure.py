"""Draw an analysis: linearity by layer, as in the paper's figure 3, and the length of tokens by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofu_export.errors import OptionError
from tofu_export.system.files import check_writable_file, staging

if TYPE_CHECKING:
    from tofu_export.report.linearity import AnalysisDocument, Summary

__all__ = ["SUFFIXES", "check_name", "draw"]

SUFFIXES = (".svg", ".png", ".pdf")

# Okabe and Ito's colours, which the colour-blind can tell apart; markers tell the lines apart in grey.
_LINES = (("mlp", "MLP", "#0072B2", "o"), ("attention", "attention", "#D55E00", "s"))
_METHODS = (
    ("prune", "prune", "#555555", "^"),
    ("average", "average", "#D55E00", "s"),
    ("mlerp", "MLERP", "#0072B2", "o"),
)


def check_name(path: Path) -> None:
    """Check that a figure can have this file name.

    Raises:
        OptionError: the suffix is none of `SUFFIXES`.
    """
    if path.suffix not in SUFFIXES:
        raise OptionError(f"figure {path}: expected a name that ends with one of {', '.join(SUFFIXES)}")


def draw(analysis: AnalysisDocument, path: Path) -> None:
    """Write the figure; the file appears when complete.

    Raises:
        OptionError: the suffix is none of `SUFFIXES`.
        OutputError: the file cannot be written.
    """
    check_name(path)
    check_writable_file(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "tofu-export", "svg.fonttype": "none", "font.size": 9}
    with rc_context(settings), staging(path.parent) as stage:
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        _linearity(left, analysis)
        _merged(middle, analysis)
        _lengths(right, analysis)
        figure.suptitle(f"{analysis.model}, {analysis.images} images, {analysis.r} pairs or tokens per layer")
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(stage.path(path.name), dpi=150, metadata=metadata)
        stage.publish(path.name)


def _linearity(axes: Any, analysis: AnalysisDocument) -> None:
    for key, label, colour, marker in _LINES:
        found: list[tuple[int, Summary | None]] = [(row.layer, getattr(row, key)) for row in analysis.layers]
        rows = [(layer, one.mean, one.std or 0.0) for layer, one in found if one is not None and one.mean is not None]
        layers, means = [layer for layer, _, _ in rows], [mean for _, mean, _ in rows]
        low = [mean - std for _, mean, std in rows]
        high = [min(1.0, mean + std) for _, mean, std in rows]
        axes.plot(layers, means, color=colour, marker=marker, markersize=4, label=label)
        axes.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(title="functional linearity (1 = linear)", xlabel="layer", ylabel="mean, one std")
    axes.legend()


def _merged(axes: Any, analysis: AnalysisDocument) -> None:
    for key, label, colour, marker in _METHODS[1:]:
        rows = [(row.layer, row.merged_norm[key].mean) for row in analysis.layers]
        known = [(layer, mean) for layer, mean in rows if mean is not None]
        axes.plot(
            [layer for layer, _ in known], [mean for _, mean in known], color=colour, marker=marker, markersize=4,
            label=label,
        )  # fmt: skip
    axes.set(title="merged token / longest of its group", xlabel="layer")
    axes.legend()


def _lengths(axes: Any, analysis: AnalysisDocument) -> None:
    for key, label, colour, marker in _METHODS:
        values = getattr(analysis.token_norms, key)
        axes.plot(range(len(values)), values, color=colour, marker=marker, markersize=4, label=label)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(title="length of all tokens / full model", xlabel="layer")
    axes.legend()
