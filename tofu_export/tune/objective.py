"""Loss of a candidate plan: distance of the reduced model from the full one on images, without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tofu_export import patch
from tofu_export.compare.agreement import Agreement, ModelOutputs, measure_agreement
from tofu_export.planning.plan import Plan

__all__ = ["Judge"]

Pixels = NDArray[np.float32]


class Judge:
    """Judge that compares plans with the full model on fixed images.

    Args:
        model: an unpatched model; it then carries the last judged plan.
        pixels: images [n, C, H, W].
        batch: batch size.
        name: name of the model in messages.
    """

    def __init__(self, model: nn.Module, pixels: Pixels, batch: int, name: str) -> None:
        self._model, self._pixels, self._batch, self._name = model, pixels, batch, name
        patch.remove(model)
        self._full = self._outputs()

    def __len__(self) -> int:
        return len(self._pixels)

    def agreement(self, plan: Plan) -> Agreement:
        """Return the agreement of the reduced model with the full one, image by image."""
        patch.apply(self._model, plan, name=self._name)
        return Agreement.join(
            [measure_agreement(got, full) for got, full in zip(self._outputs(), self._full, strict=True)]
        )

    @torch.inference_mode()
    def _outputs(self) -> list[ModelOutputs]:
        architecture: Any = self._model
        found = []
        for start in range(0, len(self._pixels), self._batch):
            tokens = architecture.forward_features(torch.from_numpy(self._pixels[start : start + self._batch]))
            features = architecture.forward_head(tokens, pre_logits=True).numpy()
            logits = architecture.forward_head(tokens).numpy() if architecture.num_classes else None
            found.append(ModelOutputs(logits, features))
        return found
