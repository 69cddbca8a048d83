"""Plans as documents hold them: report.json, the metadata of files, what `plan --json` and `tune --json` print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tofu_export.options import Halting, Method, PrunedSizes, Selection
from tofu_export.system.typed_json import optional

__all__ = ["Gmacs", "LayerEntry", "PlanEntry", "amount_words"]

Amount = int | float | str | tuple[int, ...]


@dataclass(frozen=True)
class Gmacs:
    """Multiply-accumulates for one image in 10^9, without and with the plan."""

    full: float
    reduced: float

    @property
    def ratio(self) -> float:
        """How many times fewer multiply-accumulates the reduced model needs."""
        return self.full / self.reduced


@dataclass(frozen=True)
class LayerEntry:
    """Plan of one block: its method (`Method.word`), and the tokens that enter, leave the model, and remain."""

    layer: int
    method: str
    tokens_in: int
    removed: int
    tokens_out: int

    def __post_init__(self) -> None:
        if (method := Method.named(self.method)) is not None:
            object.__setattr__(self, "method", method.word)  # documents of early versions spell it otherwise

    @property
    def prunes(self) -> bool:
        """True if the tokens that leave are discarded, not merged."""
        return self.method == Method.PRUNE.word


@dataclass(frozen=True, kw_only=True)
class PlanEntry:
    """Reduction of a Vision Transformer as documents hold it.

    Fields with a default are absent in documents of early versions.

    Attributes:
        mode: name of the mode.
        r: tokens asked to be removed per layer: one number, or one for each.
        asked: the amount as it was given, by the name of the option.
        exclude_layers: layers that remove nothing.
        schedule: how r is spread over the layers.
        pattern: one letter per layer.
        prune_layers: leading layers that prune.
        prop_attn: token sizes enter the attention.
        prop_attn_reason: why token sizes enter the attention, or do not.
        pruned_sizes: what happens to the size of a pruned token; absent in versions that lost it.
        restore_grid: all tokens are restored after the blocks.
        keys: which keys tokens are compared by.
        select: how the tokens that leave are chosen; None for bipartite matching, the only way at first.
        halting: gate by which tokens halt; None if they do not.
        predictor: kind of the trained predictors that choose, before the layers that remove tokens; None without.
        layers: one entry per block.
        gmacs: cost.
    """

    mode: str | None = None
    r: int | tuple[int, ...]
    asked: Mapping[str, Amount] = field(default_factory=dict)
    exclude_layers: tuple[int, ...] = ()
    schedule: str | None = None
    pattern: str
    prune_layers: int | None = None
    prop_attn: bool = False
    prop_attn_reason: str | None = None
    pruned_sizes: str = PrunedSizes.LOST.value
    restore_grid: bool = False
    keys: str | None = None
    select: str | None = optional()
    halting: Halting | None = optional()
    predictor: str | None = optional()
    layers: tuple[LayerEntry, ...]
    gmacs: Gmacs

    @property
    def r_words(self) -> str:
        """The `r` of the plan as text."""
        return str(list(self.r)) if isinstance(self.r, tuple) else str(self.r)

    @property
    def asked_words(self) -> str:
        """The option that set the amount if r only follows from it, for example `speedup 1.8`; else empty."""
        ways = [f"{name} {amount_words(value)}" for name, value in self.asked.items() if name != "r"]
        return ", ".join(ways)

    @property
    def select_words(self) -> str:
        """The selection, to follow the pattern, for example `, chosen by energy`; empty for bipartite."""
        if self.predictor is not None:
            return f", chosen by the predictors of {self.predictor}"
        return "" if self.select is None else f", chosen by {self.select}"

    @property
    def sizes_words(self) -> str:
        """Whether token sizes enter the attention, and why, for example `on (default)`."""
        words = "on" if self.prop_attn else "off"
        if self.prop_attn and self._loses_sizes:
            words = f"on, those of pruned tokens lost{self._why_lost}"
        return words if self.prop_attn_reason is None else f"{words} ({self.prop_attn_reason})"

    @property
    def _why_lost(self) -> str:
        """Why `--pruned-sizes` has no effect; empty if it has."""
        alone = [select.value for select in Selection if not select.finds_partners]
        return f" as no token stands for them with {self.select}" if self.select in alone else ""

    @property
    def _loses_sizes(self) -> bool:
        """True if tokens are pruned and their sizes lost."""
        lost = self.pruned_sizes == PrunedSizes.LOST.value
        return lost and any(layer.prunes and layer.removed for layer in self.layers)


def amount_words(amount: Amount) -> str:
    """Return an amount as text: one number, or several separated by commas."""
    return ", ".join(map(str, amount)) if isinstance(amount, tuple) else str(amount)
