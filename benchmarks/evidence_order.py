"""Does the paper's order of methods hold on these images? Paired differences, and a verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evidence_runs import table

from tofu_export.evaluate.paired import Paired

__all__ = ["COMPARISONS", "difference", "order_block", "order_columns"]

COMPARISONS = (("P6A6", "A12"), ("A12", "A6P6"), ("P6M6", "P6A6"), ("M12", "A12"))
"""Pairs of patterns, the one that is better according to the paper first. The first two make its order."""

_VERDICTS = ("confirmed", "confirmed in part", "neither confirmed nor contradicted", "contradicted")


def order_columns(comparisons: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The head of the table of `order_block`."""
    return ("r", *(f"`{better}` - `{worse}`" for better, worse in comparisons), "order")


def order_block(pairs: Mapping[int, Sequence[Paired]], comparisons: Sequence[tuple[str, str]] = COMPARISONS) -> str:
    """The table of paired differences by r, and in words whether the paper's order holds.

    Differences count where the sign test finds them at 5 %, divided by the number of tests in the table (Bonferroni).

    Args:
        pairs: for each r the differences of `comparisons`.
        comparisons: pairs of patterns, those of the paper's order first.
    """
    limit = 0.05 / sum(len(row) for row in pairs.values())
    verdicts = {r: _verdict(row[:2], limit) for r, row in pairs.items()}
    rows = [(str(r), *(difference(pair) for pair in row), verdicts[r]) for r, row in pairs.items()]
    groups = {verdict: [str(r) for r, said in verdicts.items() if said == verdict] for verdict in _VERDICTS}
    words = "; ".join(f"{verdict} at r = {', '.join(amounts)}" for verdict, amounts in groups.items() if amounts)
    said = f"**The paper's order is {words}.** A difference counts here at p < {limit:.4f}: 5 % for the whole table."
    return f"{table(order_columns(comparisons), rows)}\n\n{said}"


def difference(pair: Paired) -> str:
    """A difference in points of accuracy, its 95 % interval and its p."""
    return f"{100 * pair.difference:+.1f} ({100 * pair.low:+.1f} to {100 * pair.high:+.1f}), p = {_p(pair.p_value)}"


def _verdict(pairs: Sequence[Paired], limit: float) -> str:
    """What is found of hybrid >= average >= reversed."""
    told = [pair.difference for pair in pairs if pair.p_value < limit]
    if any(difference < 0 for difference in told):
        return "contradicted"
    return ("neither confirmed nor contradicted", "confirmed in part", "confirmed")[len(told)]


def _p(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else f"{value:.0e}"
