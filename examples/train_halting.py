"""Train the demo model to halt its tokens as A-ViT does, give each block places for those at work, and export it.

The demo model reads handwritten digits. It starts as trained, with a gate that few tokens pass, and learns two things
beside its labels: to halt early (the ponder loss, the mean number of blocks that a token takes part in, plus its
remainder) and at which depth (the distribution loss, the divergence of the mean scores of the blocks from a normal
distribution around one depth). Losses and gate are those of the paper, except that slope and center of the gate suit
this model, and that the scores of the last block, which the gate does not decide, are left out. Token Fusion at the
same cost stands beside it, as it is and after the same training without the two losses.

The checkpoint is written as the authors of A-ViT publish theirs: timm's names under `model`, the gate under `args`, and
in the name of the file.

Usage:
    pip install tofu-export mlxtend
    python examples/train_halting.py --steps 300 --output halting

Source: A-ViT, arXiv 2112.07658, section 3.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from finetune import accuracy, demo_model, descent
from torch import Tensor, nn
from train_demo_vit import HELD_OUT_PER_CLASS, SPLIT_SEED, Digits, load_digits, preprocess, split_per_class

import tofu_export as tofu
from tofu_export import patch
from tofu_export.options import Halting, HaltingOptions, OutputKind, Selection
from tofu_export.patch.capacity import measure_leaving
from tofu_export.patch.halting import Spending
from tofu_export.patch.matching import Matching, Scores

MEASURED = 500
"""Training images that places are measured on."""


class Pondering:
    """Observer of a forward pass that keeps what the two losses are made of, with gradients."""

    def __init__(self) -> None:
        self.seen: list[Spending] = []

    def decide(self, _layer: int, _scores: Scores, proposed: Matching) -> Matching:
        """Leave decisions as they are."""
        return proposed

    def spend(self, _layer: int, proposed: Spending) -> Tensor:
        """Note the budgets and leave them as they are."""
        self.seen.append(proposed)
        return proposed.after

    def ponder(self) -> Tensor:
        """Return the mean over patches of the blocks that each takes part in, plus its remainder."""
        blocks = sum((seen.before[:, 1:] > 0).float() for seen in self.seen)
        rest = sum(seen.before[:, 1:] * ((seen.before > 0) & (seen.after == 0))[:, 1:] for seen in self.seen)
        last = self.seen[-1].after[:, 1:]
        return torch.as_tensor(blocks + rest + (last > 0) + last).mean()

    def divergence(self, depth: float) -> Tensor:
        """Return the divergence of the mean scores of the blocks from a normal distribution around `depth`."""
        mean = torch.stack([seen.score[:, 1:].mean() for seen in self.seen])
        found = (mean / mean.sum()).clamp(0.01, 0.99)
        wanted = (-0.5 * (torch.arange(1, len(mean) + 1) - depth).square()).softmax(dim=0)
        return nn.functional.kl_div(found.log(), wanted, reduction="sum")


def train(
    model: nn.Module, inputs: Tensor, labels: Tensor, steps: int, rate: float, seed: int,
    more: Callable[[Pondering], Tensor] | None = None,
) -> None:  # fmt: skip
    """Train all weights by AdamW with a rate that falls to zero; `more` is added to the loss of the labels."""
    pondering = Pondering()

    def loss_of(generator: torch.Generator) -> Tensor:
        nonlocal pondering
        chosen = torch.randint(len(inputs), (32,), generator=generator)
        pondering = Pondering()
        with patch.observe(pondering):
            loss = nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen], label_smoothing=0.1)
        return loss if more is None else loss + more(pondering)

    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    for step, loss in descent(model, optimizer, loss_of, steps, seed=seed, clip=1.0):
        if step % 25 == 0:
            depth = f", {pondering.ponder().item():.2f} blocks a patch" if more is not None else ""
            print(f"step {step}: loss {loss:.3f}{depth}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure places, compare with Token Fusion, export and verify."""
    parser = argparse.ArgumentParser(description="Train the demo model to halt its tokens, and export it.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate at the first step")
    parser.add_argument("--scale", type=float, default=1.0, help="slope of the gate")
    parser.add_argument("--center", type=float, default=15.0, help="what the gate subtracts")
    parser.add_argument("--ponder", type=float, default=0.02, help="weight of the ponder loss")
    parser.add_argument("--distribution", type=float, default=0.1, help="weight of the distribution loss")
    parser.add_argument("--depth", type=float, default=4.0, help="block after which most tokens should halt")
    parser.add_argument("--share", type=float, default=1.0, help="share of images with places for all tokens at work")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("halting"))
    given = parser.parse_args(arguments)

    held_out, training = split_per_class(load_digits(), HELD_OUT_PER_CLASS, torch.Generator().manual_seed(SPLIT_SEED))
    images, labels = preprocess(training.images), training.labels
    gate = Halting(given.scale, given.center)

    halting = demo_model()
    tofu.apply(halting, tofu.Reduction(select=Selection.HALTING, halting=HaltingOptions.of(gate)))
    train(
        halting, images, labels, given.steps, given.rate, given.seed,
        lambda seen: given.ponder * seen.ponder() + given.distribution * seen.divergence(given.depth),
    )  # fmt: skip
    _tell("halting, masked", halting, held_out)
    _save(given.output, halting, gate)

    r = measure_leaving(halting, images[:MEASURED], given.share)
    tofu.apply(halting, tofu.Reduction(r=r, select=Selection.HALTING, halting=HaltingOptions.of(gate)))
    gmacs = _tell(f"halting, places for {given.share:.0%} of {MEASURED} images", halting, held_out)
    _count_over(halting, held_out)

    fused = demo_model()
    tofu.apply(fused, tofu.Reduction(gmacs=gmacs))
    _tell("Token Fusion, not trained", fused, held_out)
    train(fused, images, labels, given.steps, given.rate, given.seed)
    _tell("Token Fusion, the same training", fused, held_out)

    report = tofu.export(
        halting, given.output, reduction=tofu.Reduction(r=r, select=Selection.HALTING, halting=HaltingOptions.of(gate)),
        precisions="fp32,fp16", bench=False, engine=False,
    )  # fmt: skip
    for row in report.verification:
        print(f"{row.artifact}: {'verified' if row.passed else 'WRONG'}, largest error {row.max_abs:.1e}")


def _tell(name: str, model: nn.Module, held_out: Digits) -> float:
    """Print the accuracy of a reduced model, and return its GMACs."""
    plan = patch.applied_plan(model)
    assert plan is not None
    right = accuracy(model, preprocess(held_out.images), held_out.labels)
    print(f"{name}: top-1 {right:.1%}, {plan.gmacs_reduced:.4f} GMACs", flush=True)
    return plan.gmacs_reduced


def _save(folder: Path, model: nn.Module, gate: Halting) -> None:
    """Write the weights as A-ViT's authors publish theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    args = argparse.Namespace(gate_scale=gate.scale, gate_center=gate.center)
    path = folder / f"demo-{gate.scale:g}-{gate.center:g}.pth"
    torch.save({"model": model.state_dict(), "args": args}, path)
    print(f"written {path}")


@torch.no_grad()
def _count_over(model: nn.Module, held_out: Digits) -> None:
    """Print how many images had more tokens at work than places."""
    over = torch.cat(
        [patch.outputs_of(model, OutputKind.LOGITS, batch)[1] for batch in preprocess(held_out.images).split(100)]
    )
    print(f"{int((over > 0).sum())} of {len(over)} images had tokens without a place, {over.float().mean():.2f} each")


if __name__ == "__main__":
    main()
