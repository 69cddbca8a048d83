"""Trace for one image size: what depends on it alone is settled before the graph is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from timm.layers import pos_embed

__all__ = ["image_size_fixed"]


@contextmanager
def image_size_fixed() -> Iterator[None]:
    """Trace position embeddings of the traced size as they are, without resampling them to the size they have.

    timm resamples even to the same size while it is exported, so that other sizes of images can be fed: models with
    `dynamic_img_size`, such as vit_intern300m, then begin with a Resize that has an antialiasing filter, which TensorRT
    does not parse. Files of this project have one image size.

    Reason: `timm.layers.pos_embed` asks `is_exporting()`, since 1.0.31; older versions do not have it. It can go when
    timm lets the caller say that the size is fixed.
    """
    module: Any = pos_embed
    asks = getattr(module, "is_exporting", None)
    if asks is None:
        yield
        return
    module.is_exporting = lambda: False
    try:
        yield
    finally:
        module.is_exporting = asks
