"""The document of `tofu-export tune --json`: the plans that were tried, and the chosen one beside the fixed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tofu_export.compare.agreement import AgreementEntry
from tofu_export.planning.entry import PlanEntry

__all__ = ["BothPlans", "LossDifference", "TriedPlan", "TuningDocument"]


@dataclass(frozen=True, kw_only=True)
class TriedPlan:
    """One plan of the search: what it is, its mean loss, and its cost; `prop_attn` is None where it was not varied."""

    pattern: str
    r: tuple[int, ...]
    prop_attn: bool | None = None
    loss: float
    gmacs: float


@dataclass(frozen=True)
class LossDifference:
    """Mean loss of the chosen plan less that of the fixed one, with its 95 % interval; below 0 is better."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class BothPlans:
    """A number of the chosen plan and of the fixed one."""

    chosen: float
    baseline: float


@dataclass(frozen=True, kw_only=True)
class TuningDocument:
    """What was found.

    Attributes:
        kind: what this is.
        schema_version: of the document.
        model: name of the model.
        loaded: what was loaded, in one line.
        plan: the chosen plan.
        baseline: the fixed one.
        made_by: the command.
        tofu_export: version of this library.
        command: how the user asked for it.
        objective: what was minimised.
        budget: how it was given.
        images: number of images by part: `calibration`, `validation`, `held_out`.
        source: where they came from.
        seed: of everything.
        evaluations: number of plans that were tried.
        losses: mean loss by part.
        held_out: agreement with the full model on the held-out images, of `chosen` and `baseline`.
        difference: of the losses on the held-out images.
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
