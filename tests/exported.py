"""Files that the main job writes for a small timm model, made once a session and never changed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from tests.cli.running import run

MODEL = "test_vit"
OPTIONS = (
    "--r", "8", "--weights", "random", "--seed", "3", "--batch", "1:2:3",
    "--no-bench", "--no-engine", "--no-verify", "-q",
)  # fmt: skip
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""Removed when the session ends."""


@cache
def folder() -> Path:
    """Where `model.fp32.onnx` and `model.fp16.onnx` are, of random weights, reduced by 8 in each of 6 blocks."""
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="tofu-export-tests-"))
    out = Path(_FOLDERS[-1].name) / "out"
    assert run(MODEL, *OPTIONS, "-o", str(out)) == 0
    return out


@cache
def with_map() -> Path:
    """The same model's `model.onnx` in FP32, exported with `--token-map`."""
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="tofu-export-tests-"))
    out = Path(_FOLDERS[-1].name) / "out"
    assert run(MODEL, *OPTIONS, "--precision", "fp32", "--token-map", "-o", str(out)) == 0
    return out / "model.onnx"


def changed(
    path: Path,
    metadata: dict[str, Any] | None = None,
    edit: Callable[[onnx.ModelProto], None] | None = None,
    source: Path | None = None,
) -> Path:
    """A copy of `source`, or the FP32 file, at `path`, with other metadata (None takes one away) or another graph."""
    model = onnx.load(source or folder() / "model.fp32.onnx")
    texts = {entry.key: entry.value for entry in model.metadata_props}
    for key, value in (metadata or {}).items():
        texts.pop(f"tofu_export.{key}", None)
        if value is not None:
            texts[f"tofu_export.{key}"] = value if isinstance(value, str) else json.dumps(value)
    onnx.helper.set_model_props(model, texts)
    if edit is not None:
        edit(model)
    onnx.save(model, path)
    return path


def metadata_of(key: str) -> Any:
    """One of the metadata of the FP32 file, decoded."""
    model = onnx.load(folder() / "model.fp32.onnx")
    return json.loads({entry.key: entry.value for entry in model.metadata_props}[f"tofu_export.{key}"])
