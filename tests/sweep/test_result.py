from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.sweep.cells import EVALUATION, cell, timing
from tofu_export.options import Precision
from tofu_export.report.sweep import SweepRow
from tofu_export.sweep.records import Timing
from tofu_export.sweep.result import agreement_of, compared, row_of


def row(r: int, top1: float | None, time: Timing | None = None, agreement: float = 0.9, **more: Any) -> SweepRow:
    return row_of(cell(r, **more), 8, replace(EVALUATION, top1=top1), agreement, time)


def test_agreement_of_classes_and_of_features() -> None:
    assert agreement_of(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75
    reference = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert agreement_of(reference * 3, reference) == pytest.approx(1.0)
    assert agreement_of(np.array([[0.0, 5.0], [0.0, 1.0]]), reference) == pytest.approx(0.5)
    assert agreement_of(np.array([1, 2]), np.array([1, 2, 3])) is None


def test_nothing_beats_what_is_on_the_front() -> None:
    rows = compared([row(0, 0.9), row(8, 0.8), row(12, 0.7, pattern="AAAA"), row(16, 0.8), row(20, 0.85)])
    assert [one.pareto for one in rows] == [True, False, False, False, True]


def test_equal_rows_are_both_on_the_front() -> None:
    assert [one.pareto for one in compared([row(8, 0.8), row(8, 0.8, pattern="AAAA")])] == [True, True]


def test_time_counts_where_it_was_measured() -> None:
    rows = compared([row(0, 0.9, timing(100, 1.0)), row(8, 0.8, timing(50, 0.9)), row(4, 0.8, timing(50, 1.2))])
    assert [one.pareto for one in rows] == [True, False, True]


def test_a_slower_machine_does_not_count_against_who_ran_then() -> None:
    rows = compared([row(0, 0.9, timing(100, 1.0, full=100)), row(8, 0.9, timing(75, 1.5, full=50))])
    assert [one.comparable_images_per_sec for one in rows] == [75.0, 112.5]
    assert [one.pareto for one in rows] == [False, True]


def test_agreement_competes_within_a_model_and_accuracy_does_not() -> None:
    models = [row(8, None, agreement=1.0), row(0, None, agreement=0.9, model="vit_tiny")]
    assert [one.pareto for one in compared(models)] == [True, True]
    labelled = [row(8, 0.9, agreement=1.0), row(0, 0.9, agreement=0.9, model="vit_tiny")]
    assert [one.pareto for one in compared(labelled)] == [True, False]


def test_without_a_quality_there_is_no_front() -> None:
    lost = row_of(cell(8), None, replace(EVALUATION, top1=None), None, None)
    assert [one.pareto for one in compared([lost])] == [False]


def test_int8_on_generated_images_is_told() -> None:
    found = replace(EVALUATION, real=False)
    notes = row_of(cell(8, precision=Precision.INT8), None, found, 0.9, None).notes
    assert notes == ("int8 was calibrated on generated images",)


def test_a_file_that_was_not_verified_says_so() -> None:
    assert row(8, 0.9).verified
    unverified = row_of(cell(8), None, replace(EVALUATION, verification=None), 0.9, None)
    assert not unverified.verified
    assert unverified.notes == ("not verified: switched off by --no-verify",)
    assert unverified.verified is False
