"""The reduction plan: how many tokens enter and leave each layer, and what that costs. Pure Python, no torch.

Everything downstream (patch, export, engines, reports) reads the plan; nothing recomputes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile

from tofu_export.errors import OptionError, UnsupportedModelError
from tofu_export.options import Halting, Method, Reduction, Roles, Selection
from tofu_export.planning.budget import Budget, smallest_reduction
from tofu_export.planning.entry import Gmacs, LayerEntry, PlanEntry
from tofu_export.planning.trained import PredictorKind, Predictors, kept_by_share, methods_trained
from tofu_export.system.typed_json import JsonObject, to_object

__all__ = [
    "BlockCost",
    "LayerPlan",
    "ModelSpec",
    "Plan",
    "make_plan",
    "removable",
    "selection_key",
    "without_class_token",
]


@dataclass(frozen=True)
class BlockCost:
    """Multiply-accumulates of one transformer block for one image, as functions of its token count N.

    The attention half costs `attend_token * N + attend_pair * N^2`, the other half `feed_token * N'`, where N' is the
    token count after a reduction between the halves. One before the block leaves N' tokens for both.

    Source: fvcore's counting (a linear layer in*out, a layer norm 5 per element), plus the two N^2 products of the
    attention, which fvcore does not see when the attention is fused.
    """

    attend_token: int
    attend_pair: int
    feed_token: int


@dataclass(frozen=True)
class ModelSpec:
    """What the plan needs to know about a model.

    Attributes:
        name: timm name, or the demo model's.
        image_size: height and width of the input, in pixels.
        in_chans: channels of the input.
        num_classes: width of the classifier, 0 without one.
        tokens: tokens that enter the first block, prefix included.
        prefix_tokens: class, distillation and register tokens, which come first and never leave.
        embed_dim: channels of a token.
        params: number of parameters.
        stem_macs: cost of everything before the blocks, for one image.
        blocks: cost of each block.
        tail_token: cost per token of everything after the blocks.
        tail_fixed: cost per image of everything after the blocks.
        predictors: trained predictors of tokens to keep; None without them.
        gate: gate by which the weights were trained to halt tokens; None if they do not say.
    """

    name: str
    image_size: tuple[int, int]
    in_chans: int
    num_classes: int
    tokens: int
    prefix_tokens: int
    embed_dim: int
    params: int
    stem_macs: int
    blocks: tuple[BlockCost, ...]
    tail_token: int
    tail_fixed: int
    predictors: Predictors | None = None
    gate: Halting | None = None

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len(self.blocks)

    @property
    def masked_autoencoder(self) -> bool:
        """True if the weights were trained as a masked autoencoder and not fine-tuned, by their tag in timm: `mae`.

        Token sizes stay out of the attention of such models.

        Source: ToMe (arXiv 2210.09461, section 4.1), whose settings the paper follows.
        """
        return "mae" in re.split(r"[^a-z0-9]", self.name.rpartition("/")[2].lower())


@dataclass(frozen=True)
class LayerPlan:
    """Effect of one block, or of the reduction before it, on the token count."""

    layer: int
    method: Method
    tokens_in: int
    removed: int

    @property
    def tokens_out(self) -> int:
        """Tokens that the second half of the block sees; both halves, if tokens leave before the block."""
        return self.tokens_in - self.removed

    @property
    def weighs_by_size(self) -> bool:
        """True if tokens merge in a mean that is weighted by their sizes."""
        return self.method.weighs and self.removed > 0


@dataclass(frozen=True)
class Plan:
    """The reduction of one model, layer by layer.

    Attributes:
        reduction: the options that the plan was made from.
        prefix_tokens: protected tokens at the front.
        prop_attn: the logarithm of token sizes is added to the attention scores.
        prop_attn_reason: why token sizes are added, or are not.
        restores_grid: all tokens are restored after the blocks.
        layers: one entry per block.
        macs_full: multiply-accumulates of the unreduced model for one image.
        macs_reduced: multiply-accumulates with this plan.
        predictor: kind of the trained predictors that choose tokens; None without them.
        halting: gate by which tokens halt; None if they do not.
    """

    reduction: Reduction
    prefix_tokens: int
    prop_attn: bool
    prop_attn_reason: str
    restores_grid: bool
    layers: tuple[LayerPlan, ...]
    macs_full: int
    macs_reduced: int
    predictor: PredictorKind | None = None
    halting: Halting | None = None

    @property
    def pattern(self) -> str:
        """One letter per layer, for example PPPPPPMMMMMM."""
        return "".join(layer.method.value for layer in self.layers)

    @property
    def r(self) -> int | tuple[int, ...]:
        """The r that gives this plan: as it was asked for, or per layer if a keep rate or a budget determined it."""
        return tuple(layer.removed for layer in self.layers) if self.reduction.r is None else self.reduction.r

    @property
    def packs(self) -> bool:
        """True if predictors merge what leaves: a token of a size over 1 is then a package that has to stay."""
        return self.predictor is not None and any(layer.method.merges and layer.removed for layer in self.layers)

    @property
    def tracks_sizes(self) -> bool:
        """True if any layer reads the sizes of its tokens: in the attention, in a mean, or to know package tokens."""
        return self.prop_attn or self.packs or any(layer.weighs_by_size for layer in self.layers)

    def passes_sizes(self, layer: LayerPlan) -> bool:
        """True if an attention or a reduction after that of `layer` reads sizes of tokens."""
        later = self.layers[layer.layer + 1 :]
        attended = self.prop_attn and (bool(later) or self.reduction.select.is_before_block)
        return attended or any(after.weighs_by_size or (self.packs and after.removed > 0) for after in later)

    def needs_targets(self, layer: LayerPlan) -> bool:
        """True if the tokens, or their sizes, depend on which destination a matched source of `layer` has."""
        return layer.method.merges or (self.reduction.takes_over and self.passes_sizes(layer))

    def roles(self, layer: LayerPlan) -> Roles:
        """Return the roles of the tokens that enter `layer`."""
        return self.reduction.select.roles(layer.tokens_in, self.prefix_tokens, layer.removed, layer.layer)

    @property
    def counts_over_capacity(self) -> bool:
        """True if tokens may have to leave that have not halted, which an output counts (`OVER_CAPACITY`)."""
        return self.reduction.select.halts and self.removes

    @property
    def removes(self) -> bool:
        """True if any token leaves."""
        return any(layer.removed for layer in self.layers)

    @property
    def gmacs_full(self) -> float:
        """GMACs of the unreduced model."""
        return self.macs_full / 1e9

    @property
    def gmacs_reduced(self) -> float:
        """GMACs with this plan."""
        return self.macs_reduced / 1e9

    @property
    def flop_ratio(self) -> float:
        """How many times fewer multiply-accumulates the reduced model needs."""
        return self.macs_full / self.macs_reduced

    def entry(self) -> PlanEntry:
        """Return the plan as documents hold it."""
        reduction = self.reduction
        chosen = [layer.method for layer in self.layers]
        if self.predictor is None:
            chosen = list(reduction.methods_before_exclusion(len(self.layers)))
        return PlanEntry(
            mode=reduction.mode.value,
            r=self.r,
            asked={"plan_file": reduction.plan_file} if reduction.plan_file is not None else reduction.asked,
            exclude_layers=tuple(reduction.exclude_layers),
            schedule=reduction.schedule.value,
            pattern=self.pattern,
            prune_layers=sum(1 for _ in takewhile(lambda method: method is Method.PRUNE, chosen)),
            prop_attn=self.prop_attn,
            prop_attn_reason=self.prop_attn_reason,
            pruned_sizes=reduction.sizes_of_pruned.value,
            restore_grid=self.restores_grid,
            keys=reduction.keys.value,
            select=selection_key(reduction.select).get("select"),
            halting=self.halting,
            predictor=None if self.predictor is None else self.predictor.value,
            layers=tuple(
                LayerEntry(layer.layer, layer.method.word, layer.tokens_in, layer.removed, layer.tokens_out)
                for layer in self.layers
            ),
            gmacs=Gmacs(round(self.gmacs_full, 4), round(self.gmacs_reduced, 4)),
        )

    def to_dict(self) -> JsonObject:
        """Return the plan as `plan` in report.json."""
        return to_object(self.entry())


def selection_key(select: Selection) -> dict[str, str]:
    """Return the JSON entry of a selection; empty for bipartite matching, which older plans do not name."""
    return {} if select is Selection.BIPARTITE else {"select": select.value}


def removable(tokens: int, prefix_tokens: int, select: Selection = Selection.BIPARTITE) -> int:
    """Return the most tokens that one layer can remove: half of the unprotected ones, or if trained all but one.

    Selections without training all keep the same limit, so that the same amounts mean the same work.

    Source: arXiv 2312.01026, section 3.1; bipartite matching removes sources only, and every second token is one.
    """
    unprotected = max(tokens - prefix_tokens, 0)
    return max(unprotected - 1, 0) if select.is_trained else unprotected // 2


def without_class_token(name: str, select: Selection) -> str:
    """Return why a model without a class token cannot be reduced by `select`."""
    return (
        f"{name} has no class token in its blocks, which {select.value} needs: choose another selection, "
        "such as --select bipartite or --select energy"
    )


def make_plan(spec: ModelSpec, reduction: Reduction) -> Plan:
    """Plan a reduction of a model.

    Raises:
        OptionError: the options do not fit the model's depth, a budget is out of reach, a plan that they come from asks
            a layer for more than it can remove, or the selection needs trained predictors that the model does not have,
            or it has unused ones.
        UnsupportedModelError: the selection needs a class token that the model does not have.
    """
    _check_depth(spec, reduction)
    if reduction.capacity is not None:
        raise OptionError(
            "capacity is measured on images, with the weights, by an export alone: `tofu-export MODEL --weights PATH "
            "--select halting --capacity SHARE --images DIR --dry-run` shows how many tokens leave in each layer, as "
            "--r takes them"
        )
    methods = _methods(spec, reduction)
    if reduction.select.needs_class_token and spec.prefix_tokens == 0:
        raise UnsupportedModelError(without_class_token(spec.name, reduction.select))
    if spec.depth == 0:
        raise OptionError(f"{spec.name} has no blocks to reduce")
    full = _macs(spec, (0,) * spec.depth, reduction.select, restored=False)
    removed = _removed(spec, reduction, methods, full)
    _check_exact(spec, reduction, removed)
    prop_attn, reason = _prop_attn(spec, reduction, removed)
    return Plan(
        reduction=reduction,
        prefix_tokens=spec.prefix_tokens,
        prop_attn=prop_attn,
        prop_attn_reason=reason,
        restores_grid=bool(reduction.restore_grid) and any(removed),
        layers=tuple(
            LayerPlan(layer, method, spec.tokens - sum(removed[:layer]), removed[layer])
            for layer, method in enumerate(methods)
        ),
        macs_full=full,
        macs_reduced=_macs(spec, removed, reduction.select, restored=bool(reduction.restore_grid)),
        predictor=None if spec.predictors is None else spec.predictors.kind,
        halting=reduction.halting.onto(spec.gate or Halting()) if reduction.select.halts else None,
    )


def _methods(spec: ModelSpec, reduction: Reduction) -> tuple[Method, ...]:
    """Return the method of each layer; weights with predictors and the selection have to go together."""
    if spec.predictors is None:
        if reduction.select.has_predictors:
            raise OptionError(
                f"{spec.name} has no trained predictors, which --select {reduction.select.value} needs: give weights "
                "that have them (score_predictor tensors of DynamicViT or SPViT) by --weights PATH, without "
                "--allow-dropped, or choose another selection. `tofu-export plan` reads no weights: `tofu-export MODEL "
                f"--weights PATH --select {reduction.select.value} --dry-run` shows the plan"
            )
        return reduction.methods(spec.depth)
    if not reduction.select.has_predictors:
        raise OptionError(
            f"the weights of {spec.name} have {spec.predictors.count} trained predictors of tokens to keep "
            f"({spec.predictors.kind.value}): add --select predictor, or --allow-dropped to leave them out, "
            "the only way for analyze, sweep and tune"
        )
    return methods_trained(spec.predictors, reduction, spec.depth, spec.name)


def _prop_attn(spec: ModelSpec, reduction: Reduction, removed: Sequence[int]) -> tuple[bool, str]:
    """Return whether token sizes enter the attention, and why."""
    if not any(removed):
        return False, "no token leaves"
    if reduction.prop_attn is not None:
        return reduction.prop_attn, f"{reduction.plan_words} says so" if reduction.from_plan else "asked for"
    if spec.masked_autoencoder:
        return False, "trained as a masked autoencoder"
    return (False, "trained without them") if reduction.select.is_trained else (True, "default")


def _check_depth(spec: ModelSpec, reduction: Reduction) -> None:
    if reduction.from_plan and isinstance(reduction.r, tuple) and len(reduction.r) != spec.depth:
        raise OptionError(
            f"{reduction.plan_words} has {len(reduction.r)} layers, but {spec.name} has {spec.depth}: it was "
            "made for another model"
        )


def _check_exact(spec: ModelSpec, reduction: Reduction, removed: Sequence[int]) -> None:
    if not reduction.from_plan:
        return
    for layer, (asked, done) in enumerate(zip(reduction.amounts(spec.depth), removed, strict=True)):
        if asked != done:
            tokens = spec.tokens - sum(removed[:layer])
            raise OptionError(
                f"{reduction.plan_words} removes {asked} tokens in layer {layer} of {spec.name}, where "
                f"{tokens} are left ({spec.prefix_tokens} protected): the most is {done}"
            )


def _removed(spec: ModelSpec, reduction: Reduction, methods: Sequence[Method], full: int) -> tuple[int, ...]:
    """Return the tokens that each layer removes, capped."""

    def capped(amounts: Sequence[int]) -> tuple[int, ...]:
        removed = []
        tokens, fixed = spec.tokens, spec.prefix_tokens
        for layer, (amount, method) in enumerate(zip(amounts, methods, strict=True)):
            most = _removable_in(layer, tokens, fixed, reduction.select)
            removed.append(0 if method is Method.NONE else min(amount, most))
            tokens -= removed[-1]
            fixed += reduction.select.is_trained and method.merges and removed[-1] > 0  # a package token
        return tuple(removed)

    if reduction.keep_rate is not None and reduction.select.has_predictors:
        return capped(kept_by_share(reduction.keep_rate, spec.tokens - spec.prefix_tokens, methods))
    if reduction.keep_rate is not None:
        return _removed_at(reduction.keep_rate, spec, methods, reduction.select)
    if reduction.r is not None:
        return capped(reduction.amounts(spec.depth))
    budget = Budget.of(full, gmacs=reduction.gmacs, speedup=reduction.speedup)
    return smallest_reduction(
        budget,
        spread=lambda r: reduction.schedule.spread(r, spec.depth),
        capped=capped,
        macs=lambda removed: _macs(spec, removed, reduction.select, restored=bool(reduction.restore_grid)),
        largest_r=spec.tokens * spec.depth,  # enough for the smallest share of a linear schedule to meet its cap
    )


def _removable_in(layer: int, tokens: int, fixed: int, select: Selection) -> int:
    """Return the most tokens that can leave in one layer; none before the first block if tokens halt after blocks."""
    return 0 if select.halts and layer == 0 else removable(tokens, fixed, select)


def _removed_at(keep_rate: float, spec: ModelSpec, methods: Sequence[Method], select: Selection) -> tuple[int, ...]:
    """Return the tokens that leave when each layer keeps `keep_rate` of its unprotected ones, at least half."""
    leaving = 1 - Fraction(str(keep_rate))  # exactly what was written: 10 tokens at 0.9 lose 1, in binary they lose 0
    removed = []
    tokens = spec.tokens
    for layer, method in enumerate(methods):
        share = int(leaving * max(tokens - spec.prefix_tokens, 0))
        removed.append(
            0 if method is Method.NONE else min(share, _removable_in(layer, tokens, spec.prefix_tokens, select))
        )
        tokens -= removed[-1]
    return tuple(removed)


def _macs(spec: ModelSpec, removed: Sequence[int], select: Selection, *, restored: bool) -> int:
    """Return the multiply-accumulates for one image, given the tokens that each layer removes.

    `restored`: the tail sees all tokens.
    """
    macs = spec.stem_macs + spec.tail_fixed
    tokens = spec.tokens
    for cost, leaving in zip(spec.blocks, removed, strict=True):
        if leaving and spec.predictors is not None:
            macs += spec.predictors.macs_token * (tokens - spec.prefix_tokens)
        attended = tokens - leaving if select.is_before_block else tokens
        tokens -= leaving
        macs += cost.attend_token * attended + cost.attend_pair * attended**2 + cost.feed_token * tokens
    return macs + spec.tail_token * (spec.tokens if restored else tokens)
