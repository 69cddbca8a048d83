"""Tune a model: split the images, search on one part, choose on the second, report on the third."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

from tofu_export.analyze.run import real_images
from tofu_export.compare.agreement import Agreement, AgreementEntry
from tofu_export.errors import OptionError
from tofu_export.evaluate.subjects import load_eager
from tofu_export.options import Reduction
from tofu_export.patch.describe import describe
from tofu_export.planning.budget import Budget
from tofu_export.planning.plan import ModelSpec, Plan, make_plan, selection_key
from tofu_export.report.tuning import BothPlans, LossDifference, TriedPlan, TuningDocument
from tofu_export.system.typed_json import JsonObject, to_object
from tofu_export.tune.latency import LatencyTable, measure_table, time_plans
from tofu_export.tune.objective import Judge
from tofu_export.tune.request import Objective, TuneRequest
from tofu_export.tune.search import search
from tofu_export.tune.space import Candidate, Space
from tofu_export.tune.state import StateFile
from tofu_export.zoo.create import LoadedModel, create_meta
from tofu_export.zoo.specs import spec_as_loaded

__all__ = ["SCHEMA_VERSION", "Tried", "TuneResult", "tune"]

SCHEMA_VERSION = 1
FINALISTS = 6
"""Number of candidates of the search that are compared again on images unseen by it."""

_NOT_PROVENANCE = frozenset({"kind", "schema_version", "model", "loaded", "plan", "baseline", "history"})
_RESAMPLES = 2000
_PARTS = ("calibration", "validation", "held_out")
_SHARES = (0.4, 0.2)
"""Shares of the images for the search, and for the choice among finalists; the rest is only for the report."""


@dataclass(frozen=True)
class Tried:
    """Plan tried by the search.

    Attributes:
        candidate: the plan's method and amount of each layer.
        loss: mean loss on the images of the search.
        gmacs: its multiply-accumulates for one image, in 10^9.
    """

    candidate: Candidate
    loss: float
    gmacs: float

    def entry(self) -> TriedPlan:
        """Return the entry of the document (`history`)."""
        one = self.candidate
        return TriedPlan(
            pattern=one.pattern, r=one.r, prop_attn=one.prop_attn, loss=self.loss, gmacs=round(self.gmacs, 4)
        )


@dataclass(frozen=True)
class TuneResult:
    """Result of a tuning.

    Attributes:
        spec: the model.
        chosen: the plan that is proposed: the best finalist on the images for choosing, if it is better than the
            baseline there by two standard errors, else the baseline.
        baseline: the default reduction with a constant r, as small as the budget allows.
        objective: loss that was minimised.
        budget: budget, as it was given.
        images: number of images by part: `calibration`, `validation`, `held_out`.
        source: where the images came from.
        losses: mean loss by part, of `chosen` and `baseline`.
        held_out: agreement with the full model on the held-out images, of both.
        difference: mean loss of chosen minus baseline on the held-out images, with its 95 % interval from resampling
            images; below 0 is better.
        history: plans that were tried, in their order; the first is the baseline.
        latency_ms: measured time of the full model, the baseline and the chosen plan; None for a budget of GMACs.
        seed: random seed.
        loaded: description of the loaded weights, in one line.
    """

    spec: ModelSpec
    chosen: Plan
    baseline: Plan
    objective: Objective
    budget: Mapping[str, float]
    images: Mapping[str, int]
    source: str
    losses: Mapping[str, BothPlans]
    held_out: Mapping[str, AgreementEntry]
    difference: LossDifference
    history: tuple[Tried, ...]
    latency_ms: Mapping[str, float] | None
    seed: int
    loaded: str

    @property
    def evaluations(self) -> int:
        """Number of plans that were tried."""
        return len(self.history)

    @property
    def verdict(self) -> str:
        """Verdict against the baseline on held-out images: `better`, `worse` or `not told apart`."""
        found = self.difference
        return "better" if found.high < 0 else "worse" if found.low > 0 else "not told apart"

    def document(self, command: str = "") -> TuningDocument:
        """Return the result as `tune --json` prints it."""
        return TuningDocument(
            kind="tune",
            schema_version=SCHEMA_VERSION,
            model=self.spec.name,
            loaded=self.loaded,
            plan=self.chosen.entry(),
            baseline=self.baseline.entry(),
            tofu_export=metadata.version("tofu-export"),
            command=command,
            objective=self.objective.value,
            budget=self.budget,
            images=self.images,
            source=self.source,
            seed=self.seed,
            evaluations=self.evaluations,
            losses=self.losses,
            held_out=self.held_out,
            difference=self.difference,
            verdict=self.verdict,
            latency_ms=self.latency_ms,
            history=tuple(tried.entry() for tried in self.history),
        )

    def provenance(self, command: str = "") -> JsonObject:
        """Return the provenance for the plan file: the document without the plans."""
        document = to_object(self.document(command))
        return {name: value for name, value in document.items() if name not in _NOT_PROVENANCE}


def tune(request: TuneRequest, on_progress: Callable[[str], None] = lambda text: None) -> TuneResult:
    """Run a tuning.

    Args:
        request: the model, the budget and the images.
        on_progress: called with the current step.

    Raises:
        OptionError: the budget is out of reach, there are too few images, or the state file belongs to another run.
        TofuError: the model cannot be loaded or reduced.
    """
    size = request.image_size
    spec = describe(create_meta(request.model, size), request.model, size)
    if request.exclude_layers and max(request.exclude_layers) >= spec.depth:
        raise OptionError(f"exclude_layers has {max(request.exclude_layers)}, the layers are 0 to {spec.depth - 1}")
    loaded = load_eager(request.model, weights=request.weights, seed=request.seed, image_size=size)
    spec = spec_as_loaded(spec, loaded)
    objective = request.objective or (Objective.KL if spec.num_classes else Objective.FEATURES)
    parts, source, digest = _split(loaded, request)
    table = None if request.latency_ms is None else measure_table(loaded.model, spec, parts[0][: request.batch])
    space = _space(spec, request, table)
    baseline = _baseline(space, request)
    judges = [Judge(loaded.model, pixels, request.batch, spec.name) for pixels in parts]
    state = None
    if request.state is not None:
        state = StateFile(request.state, _settings(request, spec, loaded, objective, digest))
    history: list[Tried] = []

    def measure(candidate: Candidate) -> float:
        on_progress(f"plan {len(history) + 1} of {request.evaluations}")
        loss = None if state is None else state.find(candidate)
        if loss is None:
            loss = float(_losses(judges[0], space, candidate, objective).mean())
            if state is not None:
                state.add(candidate, loss)
        history.append(Tried(candidate, loss, make_plan(spec, candidate.reduction(space.select)).gmacs_reduced))
        return loss

    first = Candidate.of(baseline.pattern, [layer.removed for layer in baseline.layers], baseline.prop_attn)
    found = search(space, first, measure, evaluations=request.evaluations, seed=request.seed)
    on_progress("comparing the best on images that the search did not see")
    chosen = _choice(judges[1], space, [entry.candidate for entry in found[:FINALISTS]], first, objective)
    plans = {
        who: make_plan(spec, candidate.reduction(space.select))
        for who, candidate in (("chosen", chosen), ("baseline", first))
    }
    times = None
    agreements = [{who: judge.agreement(plan) for who, plan in plans.items()} for judge in judges]
    if table is not None:
        on_progress("timing")
        measured = time_plans(loaded.model, [None, *plans.values()], parts[0][: request.batch], spec.name)
        times = dict(zip(("full", *plans), measured, strict=True))
    budget = {"gmacs": request.gmacs, "speedup": request.speedup, "latency_ms": request.latency_ms}
    return TuneResult(
        spec,
        plans["chosen"],
        plans["baseline"],
        objective,
        {name: value for name, value in budget.items() if value is not None},
        {part: len(judge) for part, judge in zip(_PARTS, judges, strict=True)},
        source,
        {
            part: BothPlans(**{who: float(objective.losses(of).mean()) for who, of in row.items()})
            for part, row in zip(_PARTS, agreements, strict=True)
        },
        {who: of.entry() for who, of in agreements[2].items()},
        _difference(agreements[2], objective, request.seed),
        tuple(history),
        times,
        request.seed,
        loaded.summary(),
    )


def _split(loaded: LoadedModel, request: TuneRequest) -> tuple[list[NDArray[np.float32]], str, str]:
    """Return images for the search, the choice and the report, drawn by the seed; their source; and their digest."""
    source = real_images(loaded, request.images).limited(request.limit)
    if len(source) < 10:
        raise OptionError(f"{len(source)} images from {source.source}: tuning needs at least 10, better some hundred")
    order = list(range(len(source)))
    random.Random(request.seed).shuffle(order)
    ends = [round(len(order) * sum(_SHARES[: number + 1])) for number in range(2)]
    pixels = source.chosen(order).all_pixels()
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return [pixels[: ends[0]], pixels[ends[0] : ends[1]], pixels[ends[1] :]], source.source, digest


def _space(spec: ModelSpec, request: TuneRequest, table: LatencyTable | None) -> Space:
    def macs(removed: Sequence[int]) -> float:
        return make_plan(spec, Reduction(r=tuple(removed))).macs_reduced

    excluded = frozenset(request.exclude_layers)
    default = not spec.masked_autoencoder
    prop_attn = (default, not default)
    if table is not None and request.latency_ms is not None:
        known = table
        return Space(
            spec, request.methods, lambda r: known.predict(spec, r), request.latency_ms, excluded, prop_attn,
            request.select,
        )  # fmt: skip
    full = int(macs([0] * spec.depth))
    budget = Budget.of(full, gmacs=request.gmacs, speedup=request.speedup)
    return Space(spec, request.methods, macs, budget.macs, excluded, prop_attn, request.select)


def _baseline(space: Space, request: TuneRequest) -> Plan:
    """Return the default reduction with a constant r, as `--gmacs` and `--speedup` give it.

    Raises:
        OptionError: the budget is out of reach.
    """
    excluded = tuple(sorted(space.excluded))
    if request.latency_ms is None:
        asked = Reduction(gmacs=request.gmacs, speedup=request.speedup, exclude_layers=excluded, select=request.select)
        return make_plan(space.spec, asked)
    for r in range(space.spec.tokens):
        plan = make_plan(space.spec, Reduction(r=r, exclude_layers=excluded, select=request.select))
        if space.meets([layer.removed for layer in plan.layers]):
            return plan
    least = space.cost(space.capped([space.spec.tokens] * space.spec.depth))
    raise OptionError(f"{request.latency_ms:g} ms are out of reach: the least is about {least:.1f} ms for this batch")


def _losses(judge: Judge, space: Space, candidate: Candidate, objective: Objective) -> NDArray[np.float64]:
    """Return the loss of each image."""
    return objective.losses(judge.agreement(make_plan(space.spec, candidate.reduction(space.select))))


def _choice(
    judge: Judge, space: Space, finalists: Sequence[Candidate], first: Candidate, objective: Objective
) -> Candidate:
    """Return the best finalist if its mean loss is below that of `first` by two standard errors of the difference.

    Otherwise return `first`, so that a candidate does not win by chance on the images of the search.
    """
    fixed = _losses(judge, space, first, objective)
    losses = {one: _losses(judge, space, one, objective) for one in finalists if one != first}
    if not losses:
        return first
    best = min(losses, key=lambda one: float(losses[one].mean()))
    gain = fixed - losses[best]
    return best if gain.mean() > 2 * gain.std(ddof=1) / math.sqrt(len(gain)) else first


def _difference(of: Mapping[str, Agreement], objective: Objective, seed: int) -> LossDifference:
    """Return the mean difference of the losses, and its 95 % interval from resampling images."""
    paired = objective.losses(of["chosen"]) - objective.losses(of["baseline"])
    drawn = np.random.default_rng(seed).integers(0, len(paired), (_RESAMPLES, len(paired)))
    low, high = np.quantile(paired[drawn].mean(axis=1), (0.025, 0.975))
    return LossDifference(float(paired.mean()), float(low), float(high))


def _settings(
    request: TuneRequest, spec: ModelSpec, loaded: LoadedModel, objective: Objective, digest: str
) -> JsonObject:
    """Return everything that a loss depends on, except the number of plans to try."""
    return {
        "schema_version": SCHEMA_VERSION, "model": spec.name, "image_size": list(spec.image_size),
        "weights": {key: value for key, value in to_object(loaded.weights).items() if key != "path"},
        "images": digest, "objective": objective.value,
        "budget": [request.gmacs, request.speedup, request.latency_ms],
        "methods": request.methods, "exclude_layers": sorted(request.exclude_layers), "seed": request.seed,
        **selection_key(request.select),
    }  # fmt: skip
