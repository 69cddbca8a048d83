"""Garbage collection is paused for a while, and never for longer."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tofu_export.system.memory import uncollected


@pytest.fixture(autouse=True)
def _enabled_again() -> Iterator[None]:
    """Whatever a test finds, the next one collects."""
    yield
    gc.enable()


def test_it_is_paused_inside_alone() -> None:
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_an_error() -> None:
    with pytest.raises(ValueError, match="inside"), uncollected():
        raise ValueError("inside")
    assert gc.isenabled()


def test_whoever_paused_it_before_goes_on_without() -> None:
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()
