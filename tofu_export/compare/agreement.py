"""Agreement of a reduced model with the full one, image by image, without labels. Numpy only.

Axes: B images, K classes, C channels of the pooled features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Agreement", "AgreementEntry", "ModelOutputs", "cosine_rows", "kl_rows", "measure_agreement"]

Floats = NDArray[np.floating[Any]]
Wide = NDArray[np.float64]


class ModelOutputs(NamedTuple):
    """Outputs of a model on images; an output that it lacks is None.

    Attributes:
        logits: [B, K].
        features: [B, C], pooled and normalised, before the classifier.
    """

    logits: Floats | None
    features: Floats | None = None


@dataclass(frozen=True)
class AgreementEntry:
    """Agreement as documents have it: number of images, means over them, and the worst value; None if unknown."""

    images: int
    top1_agreement: float | None
    kl_mean: float | None
    kl_max: float | None
    logit_cosine_mean: float | None
    logit_cosine_min: float | None
    feature_cosine_mean: float | None
    feature_cosine_min: float | None


@dataclass(frozen=True)
class Agreement:
    """Agreement of one model with another, one value per image; None for what cannot be compared.

    Attributes:
        same_top1: [B] bool, both have the same best class.
        kl: [B] nats, Kullback-Leibler divergence of the softmax of the first from that of the second, KL(full || got).
        logit_cosine: [B], cosine of the two logit vectors.
        feature_cosine: [B], cosine of the two feature vectors.
    """

    same_top1: NDArray[np.bool_] | None
    kl: Wide | None
    logit_cosine: Wide | None
    feature_cosine: Wide | None

    @classmethod
    def join(cls, parts: Sequence[Agreement]) -> Agreement:
        """Join agreements on several sets of images; a value that one of them lacks is None."""

        def joined(name: str) -> Any:
            found = [getattr(part, name) for part in parts]
            return None if not found or any(rows is None for rows in found) else np.concatenate(found)

        return cls(*(joined(name) for name in ("same_top1", "kl", "logit_cosine", "feature_cosine")))

    def entry(self) -> AgreementEntry:
        """Return means over the images, and the worst value of each."""
        rows = next((of for of in vars(self).values() if of is not None), np.empty(0))
        return AgreementEntry(
            images=len(rows),
            top1_agreement=None if self.same_top1 is None else float(self.same_top1.mean()),
            kl_mean=None if self.kl is None else float(self.kl.mean()),
            kl_max=None if self.kl is None else float(self.kl.max()),
            logit_cosine_mean=None if self.logit_cosine is None else float(self.logit_cosine.mean()),
            logit_cosine_min=None if self.logit_cosine is None else float(self.logit_cosine.min()),
            feature_cosine_mean=None if self.feature_cosine is None else float(self.feature_cosine.mean()),
            feature_cosine_min=None if self.feature_cosine is None else float(self.feature_cosine.min()),
        )


def measure_agreement(got: ModelOutputs, full: ModelOutputs) -> Agreement:
    """Compare a model's outputs with those of the full model on the same images.

    Raises:
        ValueError: the shapes differ, or nothing can be compared.
    """
    same = kl = logit_cosine = feature_cosine = None
    if got.logits is not None and full.logits is not None:
        _check(got.logits, full.logits)
        same = got.logits.argmax(axis=1) == full.logits.argmax(axis=1)
        kl, logit_cosine = kl_rows(full.logits, got.logits), cosine_rows(got.logits, full.logits)
    if got.features is not None and full.features is not None:
        _check(got.features, full.features)
        feature_cosine = cosine_rows(got.features, full.features)
    if logit_cosine is None and feature_cosine is None:
        raise ValueError("one model gives logits and the other features alone: nothing can be compared")
    return Agreement(same, kl, logit_cosine, feature_cosine)


def kl_rows(reference: Floats, other: Floats) -> Wide:
    """Return KL(softmax(reference) || softmax(other)) of each row, in nats, never below 0, float64 [B]."""
    first, second = _log_softmax(reference), _log_softmax(other)
    found: Wide = (np.exp(first) * (first - second)).sum(axis=1)
    return np.maximum(found, 0.0)


def cosine_rows(left: Floats, right: Floats) -> Wide:
    """Return the cosine of each pair of rows, float64 [B]; 1 for two zero rows, 0 for one zero row."""
    one, other = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    alike = (one == other).all(axis=1)
    found: Wide = np.where(norms > 0, (one * other).sum(axis=1) / np.where(norms > 0, norms, 1.0), alike)
    return found.clip(-1.0, 1.0)


def _log_softmax(logits: Floats) -> Wide:
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    result: Wide = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _check(got: Floats, full: Floats) -> None:
    if got.shape != full.shape:
        raise ValueError(f"outputs have shapes {got.shape} and {full.shape}, expected the same")
