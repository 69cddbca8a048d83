"""Checkpoints of a small model, and what a loaded one gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tofu_export.zoo.create import LoadedModel, create_model
from tofu_export.zoo.weights import WeightsSource

NAME = "test_vit"

CONFIG: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 6, "num_attention_heads": 2, "image_size": 160,
    "patch_size": 16,
}  # fmt: skip
"""`test_vit` as transformers describes it."""


def filled(model: nn.Module, seed: int = 0) -> Any:
    """The model with every weight, bias and norm of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.08 if parameter.ndim > 1 else 0.2))
            if parameter.ndim == 1 and "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return model.eval()


def pixels(size: int = 160, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(3))


def load(path: Path, name: str = NAME, *, key: str | None = None, allow: bool = False, **options: Any) -> LoadedModel:
    return create_model(name, weights=WeightsSource.parse(str(path), key=key, allow_dropped=allow), **options)


@torch.no_grad()
def same(loaded: LoadedModel, expected: Tensor, x: Tensor) -> bool:
    got = loaded.model(x)
    return got.shape == expected.shape and bool((got - expected).abs().max() < 1e-4 * max(1.0, expected.abs().max()))
