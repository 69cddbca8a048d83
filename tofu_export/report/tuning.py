"""Document of `tofu-export tune --json`: the plans that were tried, and the chosen plan beside the fixed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tofu_export.compare.agreement import AgreementEntry
from tofu_export.planning.entry import PlanEntry

__all__ = ["BothPlans", "LossDifference", "TriedPlan", "TuningDocument"]


@dataclass(frozen=True, kw_only=True)
class TriedPlan:
    """Plan tried by the search, its mean loss, and its cost; `prop_attn` is None if it was not varied."""

    pattern: str
    r: tuple[int, ...]
    prop_attn: bool | None = None
    loss: float
    gmacs: float


@dataclass(frozen=True)
class LossDifference:
    """Difference of mean loss, chosen minus fixed plan, with its 95 % interval; below 0 is better."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class BothPlans:
    """Value for the chosen and for the fixed plan."""

    chosen: float
    baseline: float


@dataclass(frozen=True, kw_only=True)
class TuningDocument:
    """Result of a tuning.

    Attributes:
        kind: kind of document.
        schema_version: version of the document.
        model: name of the model.
        loaded: description of the loaded weights, in one line.
        plan: the chosen plan.
        baseline: the fixed one.
        made_by: the command.
        tofu_export: version of this library.
        command: the user's command line.
        objective: loss that was minimised.
        budget: budget, as it was given.
        images: number of images by part: `calibration`, `validation`, `held_out`.
        source: where the images came from.
        seed: random seed.
        evaluations: number of plans that were tried.
        losses: mean loss by part.
        held_out: agreement with the full model on the held-out images, of `chosen` and `baseline`.
        difference: difference of the losses on the held-out images.
        verdict: `better`, `worse` or `not told apart` from the fixed plan.
        latency_ms: measured time of `full`, `chosen` and `baseline`; None for a budget of GMACs.
        history: plans that were tried, in their order; the first is the fixed one.
    """

    kind: Literal["tune"]
    schema_version: int
    model: str
    loaded: str | None = None
    plan: PlanEntry
    baseline: PlanEntry
    made_by: str = "tune"
    tofu_export: str | None = None
    command: str = ""
    objective: str
    budget: Mapping[str, float] = field(default_factory=dict)
    images: Mapping[str, int]
    source: str
    seed: int
    evaluations: int
    losses: Mapping[str, BothPlans]
    held_out: Mapping[str, AgreementEntry]
    difference: LossDifference
    verdict: str
    latency_ms: Mapping[str, float] | None = None
    history: tuple[TriedPlan, ...]
