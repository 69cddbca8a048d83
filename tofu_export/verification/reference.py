"""Eager models that a file is compared with, of any kind."""

from __future__ import annotations

from collections.abc import Mapping, Set
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tofu_export.compare.outputs import TOLERANCES, Tolerance
from tofu_export.errors import VerificationError
from tofu_export.options import PATCH_GROUPS, OutputKind, Precision
from tofu_export.patch import applied_plan, choose_output, observe, output_names, outputs_of
from tofu_export.patch.outputs import joined_later
from tofu_export.verification.block_ends import collect_blocks
from tofu_export.verification.in_fp32 import BF16_IN_FP32
from tofu_export.verification.noise import rounded_activations
from tofu_export.verification.replay import DecisionNames, Replay, decided_kinds, planned_decisions

__all__ = ["Reference", "VitReference"]

Array = NDArray[Any]


class Reference(Protocol):
    """An eager float32 model that follows decisions.

    Attributes:
        module: the model.
        names: names of its outputs in a file, in their order.
        kind: its outputs in a word, for messages.
        tolerances: tolerance for a file of each precision.
        bf16_in_fp32: tolerance for a BF16 file, which is computed in FP32.
        measures_rounding: `blocks` can measure rounding, so that files can be compared without their rounding.
    """

    module: nn.Module
    names: tuple[str, ...]
    kind: str
    tolerances: Mapping[Precision, Tolerance]
    bf16_in_fp32: Tolerance
    measures_rounding: bool

    def decisions(self, produced: Set[str], file: str) -> tuple[DecisionNames, tuple[str, ...]]:
        """Return which of the values `produced` in a file are its decisions, and notes about them.

        Raises:
            VerificationError: a decision is missing, or there is one that is not in the plan.
        """
        ...

    def run(self, feeds: Mapping[str, Array], replay: Replay) -> tuple[Array, ...]:
        """Return the model's outputs for one batch, under the decisions of `replay`."""
        ...

    def blocks(
        self, feeds: Mapping[str, Array], replay: Replay, *, rounded: bool = False
    ) -> tuple[dict[int, Array], tuple[Array, ...]]:
        """Return the model's block outputs [B, N, C] and outputs for one batch, under the decisions of `replay`.

        Args:
            feeds: the batch.
            replay: decisions to follow.
            rounded: add the rounding of every block (`noise.rounded_activations`).
        """
        ...


class VitReference:
    """Vision Transformer, with or without a plan, as a reference.

    Args:
        model: the eager float32 model, carrying the plan that the file was made with (or none for a plain file).
        output: what the file outputs; None for logits, or features if the model has no classifier.
        token_map: the file also outputs the final row of each patch.
        file: name of the file, for messages.

    Raises:
        VerificationError: the file outputs token maps, but the model has no plan.
    """

    tolerances: Mapping[Precision, Tolerance] = TOLERANCES
    bf16_in_fp32 = BF16_IN_FP32
    measures_rounding = True

    def __init__(self, model: nn.Module, output: OutputKind | None, *, token_map: bool, file: str) -> None:
        self.module = model
        self._output = choose_output(model, output)
        self._plan = applied_plan(model)
        self._token_map = token_map
        self.names = output_names(model, self._output, token_map=token_map)
        self.kind = self._output.value
        if token_map and self._plan is None:
            raise VerificationError(f"{file} gives {PATCH_GROUPS}, but the model to compare it with has no plan")

    def decisions(self, produced: Set[str], file: str) -> tuple[DecisionNames, tuple[str, ...]]:
        """Return the decisions that the plan makes."""
        plan, mapped = self._plan, self._output is OutputKind.TOKENS
        names = planned_decisions(plan, produced, file, mapped=mapped)
        if plan is None or plan.layers[-1].layer in names or not decided_kinds(plan, plan.layers[-1], mapped=mapped):
            return names, ()
        last = plan.layers[-1].layer
        return names, (f"the output does not depend on the reduction in block {last}: the file has none",)

    def run(self, feeds: Mapping[str, Array], replay: Replay) -> tuple[Array, ...]:
        """Return the outputs for the images."""
        (images,) = feeds.values()
        with torch.inference_mode(), observe(replay):
            found: list[Array] = [
                np.asarray(value.numpy()) for value in outputs_of(self.module, self._output, torch.from_numpy(images))
            ]
        if self._token_map and self._plan is not None:
            found.append(replay.patch_groups(self._plan, joined_later(self.module), len(images)))
        return tuple(found)

    def blocks(
        self, feeds: Mapping[str, Array], replay: Replay, *, rounded: bool = False
    ) -> tuple[dict[int, Array], tuple[Array, ...]]:
        """Return the outputs of the transformer blocks and of the model for the images; no token map."""
        (images,) = feeds.values()
        noise = rounded_activations(self.module) if rounded else nullcontext()
        with torch.inference_mode(), noise, observe(replay), collect_blocks(self.module) as found:
            values = outputs_of(self.module, self._output, torch.from_numpy(images))
        return dict(found), tuple(np.asarray(value.numpy()) for value in values)
