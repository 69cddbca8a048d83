"""Checks of many cases: a few of them always, all of them in `make thorough`."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[Any], kept: Container[Any]) -> list[Any]:
    """The cases for `parametrize`, those not in `kept` marked `thorough`; a tuple has a value for each argument."""
    found = list(cases)
    assert all(case in found for case in kept), "what is kept must be among the cases"  # type: ignore[attr-defined]
    return [
        case
        if case in kept
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.thorough)
        for case in found
    ]
