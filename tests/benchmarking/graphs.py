"""Small files to time."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from tests.engines import models


def affine(
    path: Path,
    name: str = "x",
    dtype: int = TensorProto.FLOAT,
    shape: tuple[int | str, ...] = ("batch", 3),
    gmacs: str | None = None,
) -> Path:
    """A file that gives twice its input."""
    node = onnx.helper.make_node("Add", [name, name], ["y"], name="blocks.0.mlp/Add")
    proto = models.model([node], [models.value(name, shape, dtype)], [models.value("y", shape, dtype)])
    if gmacs is not None:
        proto.metadata_props.add(key="tofu_export.gmacs", value=gmacs)
    path.parent.mkdir(exist_ok=True)
    onnx.save(proto, path)
    return path
