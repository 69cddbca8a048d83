"""Fewer images of the demo model, for jobs whose accuracy is not what a test is about."""

from __future__ import annotations

import pytest

from tofu_export import demo


def few_digits(patch: pytest.MonkeyPatch, count: int = 64) -> None:
    """Let the demo model have its first `count` held-out images alone: a job measures accuracy on all, for seconds."""
    images, labels = demo.load_images()
    patch.setattr(demo, "load_images", lambda: (images[:count], labels[:count]))
