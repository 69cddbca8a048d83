"""Agreement without labels: known values, and numbers that must notice a difference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tofu_export.compare.agreement import Agreement, ModelOutputs, cosine_rows, kl_rows, measure_agreement


def logits(seed: int, images: int = 6, classes: int = 7) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, 3, (images, classes)).astype(np.float32)


def test_a_model_agrees_with_itself() -> None:
    outputs = ModelOutputs(logits(0), logits(1))
    found = measure_agreement(outputs, outputs).entry()
    assert found.images == 6
    assert found.top1_agreement == 1.0
    assert found.kl_max == 0.0
    assert found.logit_cosine_min == pytest.approx(1.0, abs=1e-12)
    assert found.feature_cosine_min == pytest.approx(1.0, abs=1e-12)


def test_kl_is_that_of_the_full_model_to_the_other() -> None:
    full, got = np.array([[0.0, math.log(3.0)]]), np.array([[0.0, 0.0]])
    assert kl_rows(full, got)[0] == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert kl_rows(got, full)[0] == pytest.approx(0.5 * math.log(2.0) + 0.5 * math.log(2.0 / 3.0))
    found = measure_agreement(ModelOutputs(got), ModelOutputs(full))
    assert found.kl is not None
    assert found.kl[0] == kl_rows(full, got)[0]


def test_kl_is_torchs() -> None:
    full, got = logits(0), logits(1)
    expected = torch.nn.functional.kl_div(
        torch.from_numpy(got).double().log_softmax(1), torch.from_numpy(full).double().softmax(1), reduction="none"
    ).sum(1)
    assert kl_rows(full, got) == pytest.approx(expected.numpy(), abs=1e-12)


def test_huge_logits_stay_finite() -> None:
    assert np.isfinite(kl_rows(np.array([[3e4, -3e4]]), np.array([[-3e4, 3e4]]))).all()


def test_cosines() -> None:
    left = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    right = np.array([[0.0, 2.0], [-1.0, -1.0], [0.0, 0.0], [1.0, 0.0]])
    assert cosine_rows(left, right) == pytest.approx([0.0, -1.0, 1.0, 0.0])


def test_parts_are_joined_image_by_image() -> None:
    full, got = ModelOutputs(logits(0), logits(2)), ModelOutputs(logits(1), logits(3))
    halves = [
        measure_agreement(ModelOutputs(*(rows[part] for rows in got)), ModelOutputs(*(rows[part] for rows in full)))  # type: ignore[index]
        for part in (slice(0, 2), slice(2, None))
    ]
    assert Agreement.join(halves).entry() == measure_agreement(got, full).entry()


def test_what_cannot_be_compared() -> None:
    found = measure_agreement(ModelOutputs(None, logits(0)), ModelOutputs(logits(1), logits(2)))
    assert found.kl is None
    assert found.same_top1 is None
    assert found.entry().images == 6
    with pytest.raises(ValueError, match="nothing can be compared"):
        measure_agreement(ModelOutputs(None, logits(0)), ModelOutputs(logits(1)))
    with pytest.raises(ValueError, match="expected the same"):
        measure_agreement(ModelOutputs(logits(0)), ModelOutputs(logits(0, classes=3)))
